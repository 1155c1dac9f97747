"""Trees of any kind as a baseline for the nets: fitted to high-level features, kept as a run."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from hepflow.config.stages import EvaluateConfig
from hepflow.config.tools import ForestConfig, TreesConfig
from hepflow.data.predictions import Predictions, write_predictions
from hepflow.data.provenance import code_hash, digest
from hepflow.data.runs import (
    CHECKPOINTS,
    PREDICTIONS,
    RECORD,
    TENSORBOARD,
    clear,
    read_record,
)
from hepflow.data.store import EventStore
from hepflow.errors import DataError
from hepflow.schema import SPLITS
from hepflow.statistics import metrics
from hepflow.system import locks, processes
from hepflow.system.files import write_json
from hepflow.system.places import place
from hepflow.system.storage import make_folder
from hepflow.system.terminal import counted
from hepflow.train.folder import refuse_other_run, summary

log = logging.getLogger(__name__)

PACKAGES = ("hepflow", "numpy")
LEAST = 1e-12  # smallest probability: its logarithm is finite


class TreeData(NamedTuple):
    """The events of a split."""

    x: np.ndarray  # (events, features)
    label: np.ndarray
    event_id: np.ndarray


@dataclass(frozen=True)
class Fitted:
    """Fitted trees, and their predictions."""

    probability: np.ndarray  # (test events, classes)
    model: str
    n_steps: int  # number of passes over the training sample
    step: str  # name of a pass: a tree of a forest, a round of boosting
    wall_s: float
    package: str  # name of the library on PyPI
    tuning: tuple[str, ...] = ()  # splits that decided when to stop


Fit = Callable[[Mapping[str, TreeData]], Fitted]  # from the events of each split


def keep(config: TreesConfig | ForestConfig, settings: Mapping[str, Any], fit: Fit) -> None:
    """Fit trees and keep them as a run, unless the folder has those of the same settings."""
    store, output = EventStore.open(config.input), config.output
    path = str(config.input.resolve())
    done = {"config_hash": digest(settings), "provenance": store.spec.provenance, "finished": True}
    record = read_record(output)
    if done.items() <= record.items() and (output / PREDICTIONS).is_file():
        log.info("%s is up to date: same configuration, same store", output)
        return
    if record and not config.overwrite:
        before = {**record, **record.get("settings", {})}
        if "store" in record:
            before["store"] = str(place(record["store"]).resolve())
        refuse_other_run(output, record, before, {**settings, "store": path})
    with locks.exclusive(output, CHECKPOINTS, TENSORBOARD):
        tables, classes = {}, store.spec.classes
        for split in SPLITS:
            counts = [(c, sum(p.n_events for p in store.ranges(split, c))) for c in classes]
            if empty := ", ".join(name for name, count in counts if not count):
                where = f"{store.path}, split {split}"
                raise DataError(f"{where}: no event of class {empty}. Simulate or ingest more.")
            tables[split] = TreeData(*store.high_level(split))
        fitted = fit(tables)
        source = {"config_hash": done["config_hash"], "seed": config.seed}
        source |= {"definitions": store.spec.definitions, "store": store.spec.provenance}
        clear(output, logs=True)
        make_folder(output)
        logits = np.log(np.maximum(fitted.probability, LEAST)).astype(np.float32)
        _, label, event_id = tables["test"]
        origin = classes, output.name, {**source, "split": "test"}
        predictions = Predictions(event_id, label, logits, *origin)
        write_predictions(output / PREDICTIONS, predictions)
        n_seen = len(tables["train"].label) * fitted.n_steps
        used = {"fit": ["train"], "tuning": list(fitted.tuning), "statistics": []}
        versions = processes.versions((*PACKAGES, fitted.package))
        about = {**source, **done, "name": output.name, "model": fitted.model, "store": path}
        about |= {"settings": dict(settings), "code": code_hash(), "versions": versions}
        about |= {"epochs": fitted.n_steps, "events_trained": n_seen, "splits_used": used}
        about |= {"wall_s": fitted.wall_s, "events_per_s": n_seen / fitted.wall_s}
        about |= {"engine": settings["engine"], "device": f"cpu, {processes.cores()} cores"}
        write_json(output / RECORD, {**about, "processes": 1})
        measured, steps = summary(_measured(predictions)), counted(fitted.n_steps, fitted.step)
        text = "trained %s: test %s; %s in %.1f s; run folder %s"
        log.info(text, output.name, measured, steps, fitted.wall_s, output)


def _measured(predictions: Predictions) -> dict[str, float]:
    """Return loss, accuracy and AUC, as a report has them."""
    label, logits, names = predictions.label, predictions.logits, predictions.classes
    values = {"test_loss": -logits[np.arange(len(label)), label].mean()}
    matrix = metrics.confusion(metrics.predicted(logits), label, len(names))
    values["test_accuracy"] = metrics.balanced_accuracy(matrix).value
    for signal, name in enumerate(names):
        background = [other for other in range(len(names)) if other != signal]
        score = metrics.log_odds(logits, [signal], background)
        exact = EvaluateConfig.exact_below
        binned, _ = metrics.spectrum(score, label, len(names), exact_below=exact)
        values[f"test_auc_{name}"] = metrics.auc(binned.counts, [signal], background)
    return values


def balanced(label: np.ndarray) -> np.ndarray:
    """Return weights of events, (N) labels -> (N), with which each class counts the same."""
    return (len(label) / np.bincount(label) / len(np.unique(label)))[label]
