"""Trees of whatever kind as a baseline for the nets: fitted to the store's high-level features, kept as a run like any other."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hepflow.config.stages import EvaluateConfig
from hepflow.config.tools import ForestConfig, TreesConfig
from hepflow.data.output import refuse_to_replace
from hepflow.data.predictions import Predictions, write_predictions
from hepflow.data.provenance import code_hash, digest
from hepflow.data.runs import PREDICTIONS, RECORD, clear, read_record
from hepflow.data.store import EventStore, high_level
from hepflow.errors import DataError
from hepflow.schema import SPLITS
from hepflow.statistics.metrics import (
    auc,
    balanced_accuracy,
    confusion,
    log_odds,
    predicted,
    spectrum,
)
from hepflow.system import locks, processes
from hepflow.system.files import write_json
from hepflow.system.terminal import counted

log = logging.getLogger(__name__)
PACKAGES = ("hepflow", "numpy")
LEAST = 1e-12
"""Smallest probability: its logarithm is finite."""


class Table(NamedTuple):
    """A split."""

    x: np.ndarray
    """(events, features)"""
    label: np.ndarray
    """(events)"""
    event_id: np.ndarray
    """(events)"""


@dataclass(frozen=True)
class Fitted:
    """Trees, and what they say."""

    probability: np.ndarray
    """(test events, classes)"""
    model: str
    n_steps: int
    """How often the training events were gone through."""
    step: str
    """What a step is: a tree of a forest, a round of boosting."""
    wall_s: float
    engine: str
    package: str
    """Its name on PyPI."""
    tuning: tuple[str, ...] = ()
    """Splits that decided when to stop."""


Fit = Callable[[Mapping[str, Table]], Fitted]
"""Split -> its events; trees fitted to those of train."""


def keep(config: TreesConfig | ForestConfig, settings: Mapping[str, Any], fit: Fit) -> None:
    """Fit trees, unless those of the same settings and store are there, and keep them as a run.

    Parameters
    ----------
    config : TreesConfig or ForestConfig
    settings : mapping
        What of it decides the result, by name, and ``engine``.
    fit : callable

    Raises
    ------
    ConfigError
        The folder holds another run, and it is not said to be replaced.
    """
    store = EventStore.open(config.input)
    done = {"config_hash": digest(settings), "provenance": store.spec.provenance, "finished": True}
    record = read_record(config.output)
    if done.items() <= record.items() and (config.output / PREDICTIONS).is_file():
        log.info("%s is up to date: same configuration, same store", config.output)
        return
    if record and not config.overwrite:
        before = {**record, **record.get("settings", {})}
        if "store" in record:
            before["store"] = str(Path(record["store"]).resolve())
        held = "a finished run" if record.get("finished") else "an unfinished run"
        refuse_to_replace(
            config.output, held, before, {**settings, "store": str(config.input.resolve())}
        )
    with locks.exclusive(config.output):
        _keep(config, settings, store, fit)


def _keep(
    config: TreesConfig | ForestConfig, settings: Mapping[str, Any], store: EventStore, fit: Fit
) -> None:
    tables = {split: _table(store, split) for split in SPLITS}
    fitted = fit(tables)
    logits = np.log(np.maximum(fitted.probability, LEAST)).astype(np.float32)
    source = {
        "config_hash": digest(settings),
        "seed": config.seed,
        "definitions": store.spec.definitions,
        "store": store.spec.provenance,
    }
    clear(config.output, logs=True)
    config.output.mkdir(parents=True, exist_ok=True)
    _, label, event_id = tables["test"]
    predictions = Predictions(
        event_id, label, logits, store.spec.classes, config.output.name, {**source, "split": "test"}
    )
    write_predictions(config.output / PREDICTIONS, predictions)
    about = {
        **source,
        "settings": dict(settings),
        "store": str(config.input.resolve()),
        "provenance": store.spec.provenance,
    }
    write_json(
        config.output / RECORD,
        {
            **about,
            **_about(fitted, len(tables["train"].label)),
            "name": config.output.name,
            "finished": True,
        },
    )
    measured, grown = _words(predictions), counted(fitted.n_steps, fitted.step)
    log.info(
        "trained %s: test %s; %s in %.1f s; run folder %s",
        config.output.name,
        measured,
        grown,
        fitted.wall_s,
        config.output,
    )


def _words(predictions: Predictions) -> str:
    """Loss, accuracy and AUC, as a report has them."""
    label, logits, names = predictions.label, predictions.logits, predictions.classes
    values = {"loss": -logits[np.arange(len(label)), label].mean()}
    values["accuracy"] = balanced_accuracy(confusion(predicted(logits), label, len(names))).value
    for signal, name in enumerate(names):
        background = [other for other in range(len(names)) if other != signal]
        binned, _ = spectrum(
            log_odds(logits, [signal], background),
            label,
            len(names),
            exact_below=EvaluateConfig.exact_below,
        )
        values[f"auc_{name}"] = auc(binned.counts, [signal], background)
    return ", ".join(f"{name} {value:.4f}" for name, value in values.items())


def balanced(label: np.ndarray) -> np.ndarray:
    """Weights of events, (N) labels -> (N), by which each class counts the same."""
    return (len(label) / np.bincount(label) / len(np.unique(label)))[label]


def _about(fitted: Fitted, n_train: int) -> dict[str, Any]:
    n_seen = n_train * fitted.n_steps
    return {
        "model": fitted.model,
        "epochs": fitted.n_steps,
        "events_trained": n_seen,
        "wall_s": fitted.wall_s,
        "events_per_s": n_seen / fitted.wall_s,
        "engine": fitted.engine,
        "device": f"cpu, {processes.cores()} cores",
        "processes": 1,
        "splits_used": {"fit": ["train"], "tuning": list(fitted.tuning), "statistics": []},
        "code": code_hash(),
        "versions": processes.versions((*PACKAGES, fitted.package)),
    }


def _table(store: EventStore, split: str) -> Table:
    """The events of a split.

    Raises
    ------
    DataError
        A class has no event in it.
    """
    if missing := [
        name
        for name in store.spec.classes
        if not sum(part.n_events for part in store.parts(split, name))
    ]:
        raise DataError(
            f"{store.path}, split {split}: no event of class {', '.join(missing)}. Simulate or ingest more."
        )
    return Table(*high_level(store, split))
