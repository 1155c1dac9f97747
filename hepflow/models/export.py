"""A trained net for its users: rebuilt from a checkpoint alone, and exported to ONNX.

The ONNX file holds normalisation and description, and takes any number of events and particles.
"""

import io
import json
import logging
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from hepflow.config.tools import ExportConfig
from hepflow.data.blocks import EventBlock
from hepflow.data.runs import BEST, CHECKPOINTS, ONNX, RECORD, read_record
from hepflow.data.store import EventStore
from hepflow.errors import DataError, HepflowError, one_line
from hepflow.models.bounds import NoLarger, require_unpacked
from hepflow.models.drift import spread_of
from hepflow.models.inputs import Inputs
from hepflow.models.net import Net, rebuild, weights_hash
from hepflow.models.onnx_net import METADATA, OnnxNet
from hepflow.models.order import features_of
from hepflow.system import seal
from hepflow.system.places import place
from hepflow.system.publishing import whole
from hepflow.system.storage import listed, make_folder, read_bytes

log = logging.getLogger(__name__)

OPSET = 17
_TOLERANCE = 1e-5
_GIVE = "Give one from a run folder's checkpoints/."
FREE_AXES = {name: {0: "events"} for name in ("hlf", "particles", "lengths", "logits")}
FREE_AXES["particles"][1] = "particles"


def run(config: ExportConfig) -> None:
    """Export a run's net and check the file on real events."""
    net = load_net(config.run, config.checkpoint)
    folder = config.run  # or, of a checkpoint, the run folder that it is in
    if not folder.is_dir():
        folder = folder.parent.parent if folder.parent.name == CHECKPOINTS else folder.parent
    output = config.output or folder / ONNX
    make_folder(output.parent)
    store = EventStore.open(config.input or _store_of(folder))
    features = _test_events(store, config, net)
    with whole(output) as part:
        physics, spread = store.spec.physics, spread_of(store).to_dict()
        write_onnx(net, part, features, physics=physics, spread=spread)
        difference = _difference(net, part, features, config.tolerance)
    same = f"differ by at most {difference:.0e}" if difference else "are the same"
    text = "exported %s to %s; compared with the checkpoint on %d test events: its logits %s"
    log.info(text, type(net).__name__, output, len(features["hlf"]), same)


def _store_of(folder: Path) -> Path:
    store = read_record(folder).get("store")
    if not store:
        raise DataError(f"{folder / RECORD}: names no feature store. Name the store by --input.")
    if not place(store).is_dir():
        why = f"the run was trained on the store {store}, which was not found"
        raise DataError(f"{folder / RECORD}: {why}. Name it, or another one, by --input.")
    return place(store)


def load_net(run_folder: Path, checkpoint: str = "best") -> Net:
    """Return the net of a run folder or of a checkpoint file, ready to use.

    Of a run folder, ``checkpoint`` is ``best`` or ``last``.
    """
    path = run_folder if run_folder.is_file() else run_folder / CHECKPOINTS / f"{checkpoint}.ckpt"
    if not path.is_file():
        raise DataError(_no_checkpoint(path, run_folder))
    content = read_checkpoint(path)
    try:
        found = content["state_dict"].items()
        weights = {name[4:]: w for name, w in found if name.startswith("net.")}
        with NoLarger(sum(weight.numel() for weight in weights.values())):
            net = rebuild(content["hepflow"])
        net.load_state_dict(weights)
    except HepflowError:
        raise
    except Exception as error:  # a net of a user may raise anything
        why = f"{type(error).__name__}: {one_line(error)[:200]}"
        raise DataError(f"{path}: no net can be made of it ({why}). {_GIVE}") from error
    return net.eval()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint file, which must be one of hepflow."""
    try:
        written = read_bytes(path)
        seal.check(written, path, "Take another, or train again.")
        require_unpacked(io.BytesIO(written))
        how: Any = {"weights_only": True, "map_location": "cpu"}
        content: Any = torch.load(io.BytesIO(written), **how)
    except HepflowError:
        raise
    except Exception as error:  # damaged files raise errors of all kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path}: not readable as a checkpoint ({reason}). {_GIVE}") from error
    if not isinstance(content, dict) or "hepflow" not in content:
        raise DataError(f"{path}: not a checkpoint of hepflow. {_GIVE}")
    return content


def _no_checkpoint(path: Path, run_folder: Path) -> str:
    found = listed(run_folder.parent, f"*/{CHECKPOINTS}/{BEST}")
    nets = ", ".join(sorted(best.parents[1].name for best in found))
    here = f"Nets in {run_folder.parent}: {nets}."
    advice = here if nets else "Train one with `hepflow train fit`."
    if (run_folder / RECORD).is_file() and not path.parent.is_dir():
        model = read_record(run_folder).get("model", "something else")
        only = "only nets (HLFNet, SequenceNet, ...) are exported"
        return f"{run_folder}: a run of {model}, which has no checkpoint; {only}. {advice}"
    return f"{path}: no checkpoint here. {advice}"


def logits_of(net: Net, features: dict[str, np.ndarray]) -> np.ndarray:
    """Return logits (events, classes) float32 of features by name."""
    arguments = {name: torch.from_numpy(features[name]) for name in net.reads}
    with torch.inference_mode():
        logits_BK: torch.Tensor = net(**arguments)
    return logits_BK.numpy()


def write_onnx(net: Net, path: Path, features: dict[str, np.ndarray], **about: Any) -> None:
    """Write the net as ONNX, traced on some events; ``about`` is added to its metadata."""
    arguments = tuple(torch.from_numpy(features[name][:2]) for name in net.reads)
    names: Any = {"input_names": list(net.reads), "output_names": ["logits"]}
    names["dynamic_axes"] = {name: FREE_AXES[name] for name in (*net.reads, "logits")}
    with warnings.catch_warnings():
        # this exporter, which needs no other package, warns about its successor and batch sizes
        warnings.simplefilter("ignore")
        torch.onnx.export(net, arguments, str(path), **names, opset_version=OPSET, dynamo=False)
    model = onnx.load(path)
    about |= {**net.describe(), "weights": weights_hash(net), "reads": list(net.reads)}
    about |= {"order": net.inputs.order, "hepflow": version("hepflow")}
    texts = {METADATA: json.dumps(about, sort_keys=True), "classes": json.dumps(net.inputs.classes)}
    texts["checksum"] = seal.EMPTY
    onnx.helper.set_model_props(model, texts)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    seal.seal_file(path)


def _test_events(store: EventStore, config: ExportConfig, net: Net) -> dict[str, np.ndarray]:
    """Return test events of every class in one batch; later classes fill up for small ones."""
    classes = net.inputs.classes
    net.inputs.require_same_features(Inputs.of(store, net.inputs.order), str(config.run))
    blocks: list[EventBlock] = []
    n_left = config.check_events
    for n_classes_left, name in zip(range(len(classes), 0, -1), classes, strict=True):
        wanted = -(-n_left // n_classes_left)
        for rows in store.ranges("test", name):
            if wanted > 0:
                blocks.append(store.read(rows, 0, min(wanted, rows.n_events)))
                wanted, n_left = wanted - rows.n_events, n_left - len(blocks[-1])
    if not blocks:
        advice = "Name another store by --input."
        raise DataError(f"{store.path}: no test events to check the export on. {advice}")
    return features_of(net.inputs.particles, net.inputs.order, *blocks)


def _difference(
    net: Net, path: Path, features: dict[str, np.ndarray], tolerance: float | None
) -> float:
    """Return the largest difference of a logit between the net and its file, if it is tolerable.

    A GRU rounds at every particle: for the sequence net of the demo, ONNX Runtime's logits differ
    by 1.1e-5 from those in float64 (and the checkpoint's by 1.2e-6).
    """
    if tolerance is None:
        steps = int(features["lengths"].max()) if "lengths" in net.reads else 0
        tolerance = max(_TOLERANCE, steps * float(np.finfo(np.float32).eps) / 2)
    expected, found = logits_of(net, features), OnnxNet(path).logits(features)
    if not np.isfinite(expected).all():
        advice = "Train it again with a smaller model.lr."
        raise DataError(f"the net returns NaN or infinity: its training diverged. {advice}")
    difference = np.abs(expected - found)
    worst = float((difference / np.maximum(1, np.abs(expected))).max())
    if not worst <= tolerance:
        limit = f"more than the tolerance of {tolerance:.1e}; nothing was written"
        why = f"the exported net differs by {worst:.1e} from its checkpoint, {limit}"
        raise DataError(f"{why}. Raise --tolerance to accept it.")
    return float(difference.max())
