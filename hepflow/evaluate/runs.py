"""Folders of runs -> runs that may be compared: of the test split, of the same events."""

import logging
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from hepflow.config.stages import EvaluateConfig
from hepflow.data.predictions import Predictions, read_predictions
from hepflow.data.runs import (
    HISTORY,
    ONNX,
    PREDICTIONS,
    RECORD,
    read_record,
    read_table,
    recorded_table,
)
from hepflow.errors import ConfigError, DataError
from hepflow.system.places import place
from hepflow.system.storage import listed, read_bytes
from hepflow.system.terminal import counted

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """Predictions of one model for the test split, and where they come from."""

    name: str
    """Unique in a report."""
    path: Path
    predictions: Predictions
    about: Mapping[str, Any]
    """run.json; empty if there is none."""
    history: Mapping[str, tuple[list[float], list[float]]]
    """Quantity (``train_loss``, ``val_loss``, ...) -> epochs, values."""
    content: str
    """Hash of the files."""

    @property
    def definitions(self) -> str:
        """Definitions of the features; empty if not recorded."""
        own = self.predictions.provenance.get("definitions")
        return str(own or self.about.get("definitions") or "")

    @property
    def store(self) -> str:
        """Hash of the feature store; empty if not recorded."""
        return str(self.predictions.provenance.get("store") or "")


def find_runs(config: EvaluateConfig) -> list[Path]:
    """Return the folders (or files of predictions) to compare: as named, or all in the input."""
    folder = config.input
    there = [path.parent for path in listed(folder, f"*/{PREDICTIONS}")]
    if not config.runs:
        if (folder / PREDICTIONS).is_file():
            there.append(folder)
        if not there:
            advice = "Train a model with `hepflow train fit`, or name another --input."
            raise DataError(f"{folder}: no runs found (no */{PREDICTIONS}). {advice}")
        return there
    found = []
    for name in config.runs:
        for path in (folder / name, place(name)):
            if (path / PREDICTIONS).is_file() or path.is_file():
                found.append(path)
                break
        else:
            names = ", ".join(path.name for path in there) or "none"
            raise DataError(f"{folder}: no run {name!r} with a {PREDICTIONS} (there are: {names}).")
    return found


def named(paths: Sequence[Path]) -> dict[str, Path]:
    """Name each run after its folder, with the parent folder if that is not unique."""
    found: dict[str, Path] = {}
    for path in dict.fromkeys(paths):
        name = path.stem if path.is_file() else path.resolve().name
        if name in found:
            name = f"{path.resolve().parent.name}-{name}"
        if name in found:
            second = f"a second run with the name {name!r}, next to {found[name]}"
            raise ConfigError(f"{path}: {second}. Rename one, or compare them in separate reports.")
        found[name] = path
    return found


def content_hash(path: Path) -> str:
    """Return a hash of the files of a run that the report depends on."""
    state = blake2b(digest_size=8)
    files = [path / part for part in (PREDICTIONS, RECORD, HISTORY, ONNX)]
    for file in [path] if path.is_file() else files:
        if file.is_file():
            state.update(file.name.encode())
            state.update(read_bytes(file))
    return state.hexdigest()


def read_runs(folder: Path, *names: str) -> list[Run]:
    """Read the runs below a folder by name, by default all; an unsound one is a DataError."""
    paths = named(find_runs(EvaluateConfig(input=folder, runs=names)))
    return [read_run(path, name, content_hash(path)) for name, path in paths.items()]


def read_run(path: Path, name: str, content: str) -> Run:
    """Read one run, and refuse unsound predictions; run.json and metrics.csv may be missing."""
    file = path if path.is_file() else path / PREDICTIONS
    predictions = read_predictions(file)
    ids, label, logits = predictions.event_id, predictions.label, predictions.logits
    if len(ids) > 1 and bool((ids[1:] < ids[:-1]).any()):
        order = np.argsort(ids, kind="stable")
        ids, label, logits = ids[order], label[order], logits[order]
    # Fortran order: all that follows goes along the events of one class.
    logits = np.asfortranarray(logits)
    predictions = replace(predictions, event_id=ids, label=label, logits=logits)
    _check(predictions, file)
    about = read_record(path)
    used = about.get("splits_used")
    for purpose, splits in used.items() if isinstance(used, Mapping) else ():
        if splits == "test" or (isinstance(splits, (list, tuple)) and "test" in splits):
            what = f"the test split was used for {purpose}, so its results would be too good"
            raise DataError(f"{file.parent / RECORD}: {what}. Train again without it.")
    history = {} if path.is_file() else _read_history(path)
    return Run(name, file.parent, predictions, about, history, content)


def _check(predictions: Predictions, file: Path) -> None:
    classes, label, ids = predictions.classes, predictions.label, predictions.event_id
    if len(classes) < 2:
        found = ", ".join(classes) or "none"
        needs = "a report needs at least two classes"
        raise DataError(f"{file}: {needs}, these predictions have {found}.")
    outside = (label < 0) | (label >= len(classes))
    if outside.any():
        found = f"label {int(label[outside][0])} of event {int(ids[outside][0])}"
        allowed = ", ".join(f"{number} {name}" for number, name in enumerate(classes))
        raise DataError(f"{file}: {found} is none of the classes ({allowed}).")
    counts = np.bincount(label, minlength=len(classes))
    if missing := [name for name, count in zip(classes, counts, strict=True) if not count]:
        advice = "Simulate or ingest more, or predict on the whole test split."
        raise DataError(f"{file}: no test events of class {', '.join(missing)}. {advice}")
    wrong = ~np.isfinite(predictions.logits).all(axis=1)
    if wrong.any():
        what = f"a logit that is not finite, the first is {int(ids[wrong][0])}"
        some = f"{int(wrong.sum()):,} of {len(ids):,} events"
        raise DataError(f"{file}: {some} have {what}. Did the training diverge?")
    twice = ids[1:] == ids[:-1]
    if twice.any():
        found = f"event {int(ids[1:][twice][0])} occurs more than once"
        raise DataError(f"{file}: {found}. Predict again into an empty folder.")
    if (split := predictions.provenance.get("split")) != "test":
        found = f"predictions of the split {split!r}; only 'test' is compared"
        raise DataError(f"{file}: {found}. Make them with `hepflow train predict`.")


def check_comparable(runs: Sequence[Run], *, same_events: bool) -> None:
    """Refuse runs of other classes or labels; with ``same_events``, of other events or stores."""
    first, a = runs[0], runs[0].predictions
    for run in runs[1:]:
        b = run.predictions
        if b.classes != a.classes:
            what = f"classes {', '.join(b.classes)}, but {first.path} has {', '.join(a.classes)}"
            raise DataError(f"{run.path}: {what}. Compare them in separate reports (--runs).")
        what = ""
        if run.store != first.store:
            stores = f"{run.store or 'unknown'}, not {first.store or 'unknown'}"
            what = f"trained on another feature store ({stores})"
        elif not np.array_equal(b.event_id, a.event_id):
            sizes = f"{len(b.event_id):,}, not the same {len(a.event_id):,}"
            what = f"tested on other events ({sizes})"
        if what and same_events:
            other = run.definitions != first.definitions
            raise DataError(
                f"{run.path}: {what} than {first.path}. Train on one store (if it has grown, train "
                "the older run again with the same command), name fewer --runs, or pass "
                f"{'--ablation' if other else '--allow-different-splits'} or --common-events."
            )
        rows_a, rows_b = common_events(a.event_id, b.event_id)
        other_label = a.label[rows_a] != b.label[rows_b]
        if other_label.any():
            event = int(a.event_id[rows_a][other_label][0])
            what = f"event {event} has another label than in {first.path}"
            raise DataError(f"{run.path}: {what}. They are not of the same data.")


def common_events(first: np.ndarray, second: np.ndarray) -> tuple[Any, Any]:
    """Return the positions of common events in each of two sorted arrays of unique event_ids."""
    if np.array_equal(first, second):
        return slice(None), slice(None)
    return np.intersect1d(first, second, assume_unique=True, return_indices=True)[1:]


def on_common_events(runs: Sequence[Run]) -> list[Run]:
    """Return the runs on the events that all were tested on, at least one of each class."""
    ids = reduce(
        partial(np.intersect1d, assume_unique=True), (r.predictions.event_id for r in runs)
    )
    found = []
    for run in runs:
        own = run.predictions
        rows = own.event_id.searchsorted(ids)
        label, logits = own.label[rows], np.asfortranarray(own.logits[rows])
        found.append(
            replace(run, predictions=replace(own, event_id=ids, label=label, logits=logits))
        )
    counts = np.bincount(label, minlength=len(own.classes))
    if missing := [name for name, count in zip(own.classes, counts, strict=True) if not count]:
        where = f"{runs[0].path} and {counted(len(runs) - 1, 'other run')}"
        what = f"{counted(len(ids), 'common test event')}, none of class {', '.join(missing)}"
        raise DataError(f"{where}: {what}. Compare runs on stores of the same events.")
    return found


def same_events(runs: Sequence[Run]) -> bool:
    """Return whether all runs were tested on the same events."""
    first, *others = (run.predictions.event_id for run in runs)
    return all(np.array_equal(first, other) for other in others)


def _read_history(folder: Path) -> dict[str, tuple[list[float], list[float]]]:
    """Return the columns of metrics.csv against the epoch; its rows are sparse."""
    columns: dict[str, dict[float, float]] = {}
    rows: dict[float | None, dict[str, float]] = defaultdict(dict)
    try:
        for row in read_table(folder / HISTORY):
            rows[row.get("epoch")].update(row)
        if None in rows:
            raise DataError(f"{folder / HISTORY}: rows without an epoch. Remove it.")
        for known in recorded_table(folder):
            if rows and not _items(known) <= _items(rows[known.get("epoch")]):
                raise DataError(f"{folder / HISTORY}: other values than in {RECORD}. Remove it.")
    except DataError as error:
        log.warning("%s The report has no learning curves of it.", error)
        return {}
    for epoch, row in rows.items():
        assert epoch is not None
        for name, value in row.items():
            if name not in ("epoch", "step") and math.isfinite(value):
                columns.setdefault(name.removesuffix("_epoch"), {})[epoch] = value
    ordered = {name: sorted(points.items()) for name, points in columns.items()}
    return {name: ([e for e, _ in row], [v for _, v in row]) for name, row in ordered.items()}


def _items(row: Mapping[str, float]) -> set[tuple[str, str]]:
    return {(name, repr(value)) for name, value in row.items()}  # NaN equals NaN
