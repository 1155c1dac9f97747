"""`hepflow import-cern --model`: a published net, and a feature store -> two runs.

The nets were trained on another sample, so on this one their probabilities are biased. The
second run adds one constant per class to the logits, with which the mean probability of each class
in the validation split is its share. The labels of single events are not used for that.
"""

import logging
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from hepflow.config.stages import RUNS
from hepflow.config.tools import ImportConfig
from hepflow.data.blocks import EventBlock
from hepflow.data.output import refuse_to_replace
from hepflow.data.predictions import Predictions, softmax, write_predictions
from hepflow.data.provenance import code_hash, digest
from hepflow.data.runs import CHECKPOINTS, PREDICTIONS, RECORD, TENSORBOARD, clear, read_record
from hepflow.data.store import EventStore
from hepflow.errors import DataError
from hepflow.models.cern.files import open_net
from hepflow.models.cern.inputs import scaled, standardised
from hepflow.models.cern.net import PublishedNet
from hepflow.schema import CLASSES, HLF, MAX_PARTICLES, PARTICLE
from hepflow.statistics import metrics
from hepflow.system import locks, processes
from hepflow.system.files import write_json
from hepflow.system.places import place
from hepflow.system.storage import make_folder
from hepflow.system.terminal import bar

log = logging.getLogger(__name__)

SAMPLE = "CERN's events of 2019 (SparkDLTrigger)"
_ELSEWHERE = "another sample"
_OFFSETS = "_offsets"  # end of the second run's name
_READ, _STEP = 2048, 256  # events read, and computed, at once
_STEPS, _NEAR = 200, 1e-9  # of the search for the offsets
_PACKAGES = ("hepflow", "numpy", "h5py")
_AGAIN = "Make a store with `hepflow features --definitions reference`"


def run(config: ImportConfig) -> None:
    """Predict the validation and the test split, and write both runs, unless they are there."""
    assert config.model is not None
    net, content = open_net(config.model)
    store = EventStore.open(config.data.store)
    _check(store)
    if net.gru is not None:
        _check_particles(store, net)
    output = config.output or RUNS / f"cern_{net.name.lower()}"
    outputs = output, output.with_name(f"{output.name}{_OFFSETS}")
    settings = {"engine": "NumPy", "net": f"{config.model.name} {content}"}
    done = {"config_hash": digest(settings), "provenance": store.spec.provenance, "finished": True}
    records = [read_record(folder) for folder in outputs]
    written = [(folder / PREDICTIONS).is_file() for folder in outputs]
    if all(done.items() <= record.items() for record in records) and all(written):
        log.info("%s and %s are up to date: same net, same store", *outputs)
        return
    where = str(config.data.store.resolve())
    for folder, record in zip(outputs, records, strict=True):
        if record and not config.overwrite:
            before = {**record, **record.get("settings", {})}
            if "store" in record:
                before["store"] = str(place(record["store"]).resolve())
            refuse_to_replace(folder, "a run", before, {**settings, "store": where})
    own = (CHECKPOINTS, TENSORBOARD)
    with locks.exclusive(outputs[0], *own), locks.exclusive(outputs[1], *own):
        found = _predicted(net, store)
        logits, label, _ = found["val"]
        offsets = _offsets(logits, np.bincount(label) / len(label), store.path)
        about = {**done, "model": f"{net.name} of SparkDLTrigger", "trained_on": SAMPLE}
        about |= {"definitions": store.spec.definitions, "store": where, "settings": settings}
        about |= {"classes": list(store.spec.classes), "parameters": net.parameters}
        about |= {"engine": f"NumPy, file of {net.source}", "processes": 1}
        about |= {"device": f"cpu, {processes.cores()} cores", "code": code_hash()}
        about |= {"versions": processes.versions(_PACKAGES)}
        for folder, added, tuning in zip(
            outputs, (0 * offsets, offsets), ([], ["val"]), strict=True
        ):
            used = {"fit": [_ELSEWHERE], "tuning": tuning, "statistics": [_ELSEWHERE]}
            more = {"offsets": dict(zip(store.spec.classes, added.tolist(), strict=True))}
            _write(folder, store, found["test"], added, {**about, **more, "splits_used": used})
    logits, label, _ = found["test"]
    shares = [_accuracy(logits + added, label) for added in (0, offsets)]
    constants = ", ".join(f"{c} {b:+.2f}" for c, b in zip(store.spec.classes, offsets, strict=True))
    text = "wrote %s and, with offsets (%s), %s: test accuracy %.4f and %.4f; trained on %s"
    log.info(text, outputs[0], constants, outputs[1], *shares, SAMPLE)


def _check(store: EventStore) -> None:
    """Refuse a store whose features are not those that the nets were trained on."""
    spec = store.spec
    names, own = [feature.name for feature in spec.hlf], [feature.name for feature in HLF]
    if spec.definitions != "reference":
        what = f"has {spec.definitions} definitions, the net was trained on the reference ones"
        advice = f"{_AGAIN}; `hepflow evaluate --common-events` compares runs on both"
        raise DataError(f"{store.path}: {what}. {advice}.")
    if set(spec.classes) != set(CLASSES):
        what = f"has the classes {', '.join(spec.classes)}, the net {', '.join(CLASSES)}"
        raise DataError(f"{store.path}: {what}. Give a store of those.")
    if names != own:
        what = f"has other high-level features ({', '.join(names)}) than the net takes"
        raise DataError(f"{store.path}: {what}. {_AGAIN}.")
    for split, name in product(("val", "test"), spec.classes):
        if not any(rows.n_events for rows in store.ranges(split, name)):
            where = f"{store.path}, split {split}"
            raise DataError(f"{where}: no event of class {name}. Simulate or ingest more.")


def _check_particles(store: EventStore, net: PublishedNet) -> None:
    """Refuse a store without the particles that a net needs."""
    if not any(rows.n_particles for rows in store.all_ranges("val", "test")):
        what = f"has no particles, which the {net.name} net needs"
        raise DataError(f"{store.path}: {what}. Give a store with them, or the HLF net.")
    what = ""
    if _is_scaled(store):
        what = "has particles that are standardised already"
    elif [feature.name for feature in store.spec.particles] != [
        feature.name for feature in PARTICLE
    ]:
        what = "has other particle features than the net takes"
    if what:
        raise DataError(f"{store.path}: {what}. {_AGAIN}.")


def _is_scaled(store: EventStore) -> bool:
    """Return whether the features are those of a published dataset that were scaled there."""
    return all(feature.unit == "1" for feature in store.spec.hlf)


def _predicted(net: PublishedNet, store: EventStore) -> dict[str, tuple[np.ndarray, ...]]:
    """Return split -> logits (N, K), label (N) and event_id (N)."""
    n_events = sum(rows.n_events for rows in store.all_ranges("val", "test"))
    found = {}
    with bar("predicting", n_events) as progress:
        for split in ("val", "test"):
            parts = []
            for block in _blocks(store, split, particles=net.gru is not None):
                parts.append((_logits(net, store, block), block.label, block.event_id))
                progress.advance(len(block))
            found[split] = tuple(map(np.concatenate, zip(*parts, strict=True)))
    return found


def _blocks(store: EventStore, split: str, *, particles: bool) -> Iterator[EventBlock]:
    """Yield the events of a split, a few at a time."""
    for rows in store.all_ranges(split):
        for start in range(0, rows.n_events, _READ):
            read = store.read(rows, start, start + _READ, particles=particles)
            for first in range(0, len(read), _STEP):
                yield read[first : first + _STEP]


def _logits(net: PublishedNet, store: EventStore, block: EventBlock) -> np.ndarray:
    """Return the logits of a block, (B, K), in the order of the store's classes."""
    particles = None
    if net.gru is not None:
        if (most := int(np.diff(block.offsets).max(initial=0))) > MAX_PARTICLES:
            what = f"has {most} particles in an event, the net takes {MAX_PARTICLES}"
            raise DataError(f"{store.path}: {what}. Give features without your own physics.")
        particles = standardised(block)
    hlf = block.hlf if _is_scaled(store) else scaled(block.hlf)
    return net.logits(particles, hlf)[:, [CLASSES.index(name) for name in store.spec.classes]]


def _offsets(logits_NK: np.ndarray, share_K: np.ndarray, where: Path) -> np.ndarray:
    """Return a constant per class, (K,) with sum 0, that gives each class its share of the events.

    The shares are also the priors, so that the constants do not depend on how many events of each
    class were simulated. They minimise a convex function, here by Newton's steps of limited length.
    """
    prior_K, offsets_K = np.log(share_K), np.zeros(len(share_K))
    for _ in range(_STEPS):
        p_NK = softmax(logits_NK + (offsets_K + prior_K))
        mean_K = p_NK.mean(axis=0)
        if np.abs(mean_K - share_K).max() < _NEAR:
            return offsets_K - offsets_K.mean()
        slope_KK = np.diag(mean_K) - p_NK.T @ p_NK / len(p_NK)
        step_K = np.linalg.pinv(slope_KK, hermitian=True) @ (share_K - mean_K)
        offsets_K += step_K / max(np.abs(step_K).max(), 1)
    what = "its predictions can not be brought to the shares of the classes by offsets"
    raise DataError(f"{where}: {what}. Is this the sample that the net is for?")


def _write(
    folder: Path, store: EventStore, found: Any, added: np.ndarray, about: dict[str, Any]
) -> None:
    """Write a run, its record last."""
    logits, label, event_id = found
    clear(folder, logs=True)
    make_folder(folder)
    origin = {"config_hash": about["config_hash"], "definitions": store.spec.definitions}
    origin |= {"store": store.spec.provenance, "split": "test"}
    names = store.spec.classes, about["model"], origin
    shifted = (logits + added).astype(np.float32)
    write_predictions(folder / PREDICTIONS, Predictions(event_id, label, shifted, *names))
    write_json(folder / RECORD, {**about, "name": folder.name})


def _accuracy(logits: np.ndarray, label: np.ndarray) -> float:
    matrix = metrics.confusion(metrics.predicted(logits), label, logits.shape[1])
    return metrics.balanced_accuracy(matrix).value
