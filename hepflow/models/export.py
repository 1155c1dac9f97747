"""A trained net for those who use it: rebuilt from a checkpoint alone, and exported to ONNX.

The ONNX file holds the normalisation, takes any number of events and particles, and says in its metadata what it reads and means.
"""

import json
import logging
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import onnx
import torch

from hepflow.config.tools import ExportConfig
from hepflow.data.blocks import EventBlock
from hepflow.data.runs import CHECKPOINTS, ONNX, RECORD
from hepflow.data.store import EventStore
from hepflow.errors import DataError
from hepflow.models.drift import spread_of
from hepflow.models.inputs import Inputs
from hepflow.models.net import Net, rebuild, weights_hash
from hepflow.models.onnx_net import METADATA, OnnxNet
from hepflow.models.order import features_of
from hepflow.system.files import read_json, whole

log = logging.getLogger(__name__)

OPSET = 17
FREE_AXES = {
    "hlf": {0: "events"},
    "particles": {0: "events", 1: "particles"},
    "lengths": {0: "events"},
    "logits": {0: "events"},
}


def run(config: ExportConfig) -> None:
    """Export a run's net and check the file on real events."""
    net = load_net(config.run, config.checkpoint)
    output = config.output or _folder(config.run) / ONNX
    output.parent.mkdir(parents=True, exist_ok=True)
    store = EventStore.open(config.input or _store_of(config.run))
    features = _some_events(store, config, net)
    with whole(output) as part:
        write_onnx(
            net, part, features, physics=store.spec.physics, spread=spread_of(store).to_dict()
        )
        difference = _difference(net, part, features, config.tolerance)
    same = (
        f"its logits differ by {difference:.0e} at most"
        if difference
        else "its logits are the same"
    )
    log.info(
        "exported %s to %s; compared with the checkpoint on %d test events: %s",
        type(net).__name__,
        output,
        len(features["hlf"]),
        same,
    )


def _folder(run: Path) -> Path:
    """Run folder that a checkpoint lies in."""
    if run.is_dir():
        return run
    return run.parent.parent if run.parent.name == CHECKPOINTS else run.parent


def _store_of(run: Path) -> Path:
    record = _folder(run) / RECORD
    about = read_json(record) if record.is_file() else {}
    if "store" not in about:
        raise DataError(
            f"{record}: does not say which store the run was trained on. Name the store by --input."
        )
    store = Path(about["store"])
    if not store.is_dir():
        raise DataError(
            f"{record}: the run was trained on the store {store}, which is not there. Name it, or another one, by --input."
        )
    return store


def load_net(run_folder: Path, checkpoint: str = "best") -> Net:
    """The net of a run, ready to use.

    Parameters
    ----------
    run_folder : Path
        What `hepflow train fit` wrote, or a checkpoint file.
    checkpoint : str
        ``best`` or ``last``.

    Raises
    ------
    DataError
        There is no such checkpoint, as in a run of trees, or hepflow did not write it.
    """
    path = run_folder if run_folder.is_file() else run_folder / CHECKPOINTS / f"{checkpoint}.ckpt"
    if not path.is_file():
        raise DataError(_no_checkpoint(path, run_folder))
    content = read_checkpoint(path)
    net = rebuild(content["hepflow"])
    net.load_state_dict(
        {
            name.removeprefix("net."): value
            for name, value in content["state_dict"].items()
            if name.startswith("net.")
        }
    )
    return net.eval()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What is in a checkpoint file.

    Raises
    ------
    DataError
        It is none, or hepflow did not write it.
    """
    try:
        content: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    except (
        RuntimeError,
        UnpicklingError,
        EOFError,
        LookupError,
    ) as error:  # whatever an unpickler makes of other bytes
        raise DataError(
            f"{path}: not readable as a checkpoint ({str(error).splitlines()[0]}); give one of a run folder's checkpoints/"
        ) from error
    if "hepflow" not in content:
        raise DataError(
            f"{path}: not a checkpoint of hepflow; give one of a run folder's checkpoints/"
        )
    return content


def _no_checkpoint(path: Path, run_folder: Path) -> str:
    nets = sorted(
        there.parents[1].name for there in run_folder.parent.glob("*/checkpoints/best.ckpt")
    )
    there = (
        f"Nets in {run_folder.parent}: {', '.join(nets)}."
        if nets
        else "Train a net with `hepflow train fit`."
    )
    record = run_folder / RECORD
    if record.is_file() and not path.parent.is_dir():
        what = read_json(record).get("model", "something else")
        return f"{run_folder}: a run of {what}, which has no checkpoint; only nets (HLFNet, SequenceNet, ...) are exported. {there}"
    return f"{path}: no checkpoint here. {there}"


def logits_of(net: Net, features: dict[str, np.ndarray]) -> np.ndarray:
    """Logits (events, classes) float32, of features by name."""
    with torch.inference_mode():
        logits_BK: torch.Tensor = net(
            **{name: torch.from_numpy(features[name]) for name in net.reads}
        )
    return logits_BK.numpy()


def write_onnx(net: Net, path: Path, features: dict[str, np.ndarray], **about: Any) -> None:
    """Write the net as ONNX, traced on some events; ``about`` joins what it says of itself."""
    example = tuple(torch.from_numpy(features[name][:2]) for name in net.reads)
    axes = {name: FREE_AXES[name] for name in (*net.reads, "logits")}
    with warnings.catch_warnings():
        # the exporter that needs no further package is the one that warns of its successor, and of batches of another size
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net,
            example,
            str(path),
            input_names=list(net.reads),
            output_names=["logits"],
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load(path)
    about |= {
        **net.describe(),
        "weights": weights_hash(net),
        "reads": list(net.reads),
        "order": net.inputs.order,
    }
    about["hepflow"] = version("hepflow")
    onnx.helper.set_model_props(
        model,
        {METADATA: json.dumps(about, sort_keys=True), "classes": json.dumps(net.inputs.classes)},
    )
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _some_events(store: EventStore, config: ExportConfig, net: Net) -> dict[str, np.ndarray]:
    """Test events of every class, in one batch; what a class has too few of is made up for by those after it."""
    classes = net.inputs.classes
    net.inputs.require_same_features(Inputs.of(store, net.inputs.order), str(config.run))
    blocks: list[EventBlock] = []
    n_left = config.check_events
    for n_classes_left, name in zip(range(len(classes), 0, -1), classes, strict=True):
        blocks += _first_events(store, name, -(-n_left // n_classes_left))
        n_left = config.check_events - sum(len(block) for block in blocks)
    if not blocks:
        raise DataError(
            f"{store.path}: no test events to check the export on; name another store by --input"
        )
    each = [features_of(block, net.inputs.particles, net.inputs.order) for block in blocks]
    longest = max(features["particles"].shape[1] for features in each)
    for features in each:
        short = longest - features["particles"].shape[1]
        features["particles"] = np.pad(features["particles"], ((0, 0), (0, short), (0, 0)))
    return {name: np.concatenate([features[name] for features in each]) for name in each[0]}


def _first_events(store: EventStore, name: str, n: int) -> Iterator[EventBlock]:
    """The first test events of a class, so many if there are."""
    for part in store.parts("test", name):
        if n <= 0:
            return
        yield store.read(part, 0, min(n, part.n_events))
        n -= part.n_events


def _difference(net: Net, path: Path, features: dict[str, np.ndarray], tolerance: float) -> float:
    """Largest difference of a logit between the net and its file.

    Raises
    ------
    DataError
        It is above the tolerance, or the net gives no numbers.
    """
    expected, found = logits_of(net, features), OnnxNet(path).logits(features)
    if not np.isfinite(expected).all():
        raise DataError(
            "the net gives nan or infinity, its training diverged: train it again with a smaller model.lr"
        )
    difference = np.abs(expected - found)
    worst = float((difference / np.maximum(1, np.abs(expected))).max())
    if not worst <= tolerance:
        raise DataError(
            f"the exported net differs by {worst:.1e} from its checkpoint, more than the tolerance of {tolerance:.1e}; nothing was written"
        )
    return float(difference.max())
