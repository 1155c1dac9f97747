"""Folders of runs -> predictions that may be compared: on the test split, of the same events, never seen in training."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv

from hepflow.config.stages import EvaluateConfig
from hepflow.data.predictions import Predictions, read_predictions
from hepflow.data.runs import HISTORY, ONNX, PREDICTIONS, RECORD, read_record
from hepflow.errors import DataError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """What one model says of the test split, and all that is known of how it came about."""

    name: str
    """Unique in a report: the folder."""
    path: Path
    predictions: Predictions
    about: Mapping[str, Any]
    """run.json; empty for scores that have none."""
    history: Mapping[str, tuple[list[float], list[float]]]
    """Quantity (``train_loss``, ``val_loss``, ...) -> epochs, values."""
    content: str
    """Hash of the files."""

    @property
    def definitions(self) -> str:
        """Which physics the features follow; empty where it is not recorded."""
        store = self.about.get("store")
        recorded = store.get("definitions") if isinstance(store, Mapping) else None
        return str(
            self.predictions.provenance.get("definitions")
            or recorded
            or self.about.get("definitions")
            or ""
        )

    @property
    def store(self) -> str:
        """Hash of the feature store; empty where it is not recorded."""
        return str(self.predictions.provenance.get("store") or "")


def find_runs(config: EvaluateConfig) -> list[Path]:
    """Folders (or files of predictions) to compare, as named or all under the input.

    Raises
    ------
    DataError
        There is none, or one that was named has no predictions.
    """
    if not config.runs:
        found = sorted(path.parent for path in config.input.glob(f"*/{PREDICTIONS}"))
        if (config.input / PREDICTIONS).is_file():
            found.append(config.input)
        if not found:
            raise DataError(
                f"{config.input}: no runs found (no */{PREDICTIONS}). Train a model with `hepflow train fit`, or name another --input."
            )
        return found
    return [_find(config.input, name) for name in config.runs]


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, Path(name)):
        if (path / PREDICTIONS).is_file() or path.is_file():
            return path
    there = sorted(path.parent.name for path in folder.glob(f"*/{PREDICTIONS}"))
    raise DataError(
        f"{folder}: no run {name!r} with a {PREDICTIONS} (there are: {', '.join(there) or 'none'})."
    )


def content_hash(path: Path) -> str:
    """Hash of the files of a run that the report depends on."""
    state = blake2b(digest_size=8)
    for file in (
        [path] if path.is_file() else [path / part for part in (PREDICTIONS, RECORD, HISTORY, ONNX)]
    ):
        if file.is_file():
            state.update(file.name.encode())
            with file.open("rb") as stream:
                while block := stream.read(1 << 22):
                    state.update(block)
    return state.hexdigest()


def read_run(path: Path, name: str, content: str) -> Run:
    """Read one run; run.json and metrics.csv may be missing, predictions may not.

    Raises
    ------
    DataError
        The predictions are not there, not finite, not of the test split, or hold an event twice.
    """
    file = path if path.is_file() else path / PREDICTIONS
    folder = file.parent
    history = _read_history(folder / HISTORY) if not path.is_file() else {}
    run = Run(name, folder, _sorted(read_predictions(file)), read_record(path), history, content)
    _check_values(run, file)
    _check_split(run, file)
    return run


def _sorted(predictions: Predictions) -> Predictions:
    """By event_id; and each class's logits together in memory, since all that follows goes along the events."""
    ids = predictions.event_id
    if len(ids) < 2 or bool((ids[1:] >= ids[:-1]).all()):
        return replace(predictions, logits=np.asfortranarray(predictions.logits))
    order = np.argsort(ids, kind="stable")
    return replace(
        predictions,
        event_id=ids[order],
        label=predictions.label[order],
        logits=np.asfortranarray(predictions.logits[order]),
    )


def _check_values(run: Run, file: Path) -> None:
    label, logits, ids = run.predictions.label, run.predictions.logits, run.predictions.event_id
    classes = run.predictions.classes
    if len(classes) < 2:
        raise DataError(
            f"{file}: a report needs at least two classes, these predictions have {', '.join(classes) or 'none'}."
        )
    outside = (label < 0) | (label >= len(classes))
    if outside.any():
        allowed = ", ".join(f"{number} {name}" for number, name in enumerate(classes))
        raise DataError(
            f"{file}: label {int(label[outside][0])} of event {int(ids[outside][0])} is none of the classes ({allowed})."
        )
    counts = np.bincount(label, minlength=len(classes))
    if (counts == 0).any():
        missing = ", ".join(name for name, count in zip(classes, counts, strict=True) if not count)
        raise DataError(
            f"{file}: no test events of class {missing}. Simulate or ingest more, or predict on the whole test split."
        )
    wrong = ~np.isfinite(logits).all(axis=1)
    if wrong.any():
        found = f"{int(wrong.sum()):,} of {len(ids):,} events have a logit that is not finite, the first is {int(ids[wrong][0])}"
        raise DataError(f"{file}: {found}. Did the training diverge?")
    twice = ids[1:] == ids[:-1]
    if twice.any():
        raise DataError(
            f"{file}: event {int(ids[1:][twice][0])} is there more than once. Predict again into an empty folder."
        )


def _check_split(run: Run, file: Path) -> None:
    split = run.predictions.provenance.get("split")
    if split != "test":
        raise DataError(
            f"{file}: predictions of the split {split!r}; only 'test' is compared. Make them with `hepflow train predict`."
        )
    used = run.about.get("splits_used")
    for purpose, name in used.items() if isinstance(used, Mapping) else ():
        if name == "test" or (isinstance(name, (list, tuple)) and "test" in name):
            raise DataError(
                f"{file.parent / RECORD}: the test split was used for {purpose}, so its numbers would flatter. Train again without it."
            )


def check_comparable(runs: Sequence[Run], *, same_events: bool) -> None:
    """Same classes; and where ``same_events``, same store and same events.

    Raises
    ------
    DataError
        They are not.
    """
    first = runs[0]
    for run in runs[1:]:
        if run.predictions.classes != first.predictions.classes:
            a, b = (", ".join(r.predictions.classes) for r in (first, run))
            raise DataError(
                f"{run.path}: classes {b}, but {first.path} has {a}. Compare them in separate reports (--runs)."
            )
        what = _difference(first, run)
        if what and same_events:
            ask = (
                "--ablation" if run.definitions != first.definitions else "--allow-different-splits"
            )
            do = "Train on one store (if it has grown since, the older run again, by the same command), name fewer --runs"
            raise DataError(f"{run.path}: {what} than {first.path}. {do}, or pass {ask}.")
    _check_labels(runs)


def _difference(first: Run, run: Run) -> str:
    if run.store != first.store:
        return f"trained on another feature store ({run.store or 'unknown'}, not {first.store or 'unknown'})"
    if not np.array_equal(run.predictions.event_id, first.predictions.event_id):
        return f"tested on other events ({len(run.predictions.event_id):,}, not the same {len(first.predictions.event_id):,})"
    return ""


def _check_labels(runs: Sequence[Run]) -> None:
    first = runs[0].predictions
    for run in runs[1:]:
        a, b = common_events(first.event_id, run.predictions.event_id)
        other = first.label[a] != run.predictions.label[b]
        if other.any():
            event = int(first.event_id[a][other][0])
            raise DataError(
                f"{run.path}: event {event} has another label than in {runs[0].path}. They are not of the same data."
            )


def common_events(
    first: np.ndarray, second: np.ndarray
) -> tuple[np.ndarray | slice, np.ndarray | slice]:
    """Where the events that both have stand in each; sorted and unique event_ids in."""
    if len(first) == len(second) and np.array_equal(first, second):
        return slice(None), slice(None)
    _, a, b = np.intersect1d(first, second, assume_unique=True, return_indices=True)
    return a, b


def same_events(runs: Sequence[Run]) -> bool:
    """Whether all runs were tested on the same events."""
    return all(
        np.array_equal(run.predictions.event_id, runs[0].predictions.event_id) for run in runs[1:]
    )


def _read_history(path: Path) -> dict[str, tuple[list[float], list[float]]]:
    """The columns of Lightning's CSV log over the epoch; its rows are sparse."""
    if not path.is_file() or not path.stat().st_size:
        return {}
    try:
        rows = csv.read_csv(path).to_pydict()
    except pa.ArrowInvalid as error:
        log.warning(
            "%s: not readable as CSV (%s); the report goes without its learning curves", path, error
        )
        return {}
    if "epoch" not in rows:
        return {}
    found: dict[str, tuple[list[float], list[float]]] = {}
    for name, column in rows.items():
        if name in {"epoch", "step"}:
            continue
        points = {
            e: v
            for e, v in zip(rows["epoch"], column, strict=True)
            if _is_number(e) and _is_number(v)
        }  # the last of an epoch
        if points:
            epochs = sorted(points)
            found[name.removesuffix("_epoch")] = (
                [float(e) for e in epochs],
                [float(points[e]) for e in epochs],
            )
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def read_runs(folder: Path, *names: str) -> list[Run]:
    """Read the runs below a folder, by default all that hold predictions.

    Parameters
    ----------
    folder : Path
        Folder of runs, as `hepflow train fit` fills it.
    *names : str
        Runs to read, by the names of their folders.

    Raises
    ------
    DataError
        There is no such run, or its predictions are damaged or not of the test split.
    """
    paths = find_runs(EvaluateConfig(input=folder, runs=names))
    return [read_run(path, path.name, content_hash(path)) for path in paths]
