"""A run folder: the names of its files, its record, and how to empty it.

Trainings of nets and trees write it; evaluate, export and score read it. The names are only here.
"""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hepflow.errors import DataError, one_line
from hepflow.system.files import read_json, recorded
from hepflow.system.storage import read_text, remove, remove_tree

RECORD = "run.json"  # how the run came about; the first file of a run
CONFIG = "config.yaml"
HISTORY = "metrics.csv"
PREDICTIONS = "predictions.parquet"
ONNX = "model.onnx"
CHECKPOINTS, BEST, LAST = "checkpoints", "best.ckpt", "last.ckpt"
TENSORBOARD = "tensorboard"
FILES = (CONFIG, HISTORY, PREDICTIONS, ONNX, f"{CHECKPOINTS}/{BEST}", f"{CHECKPOINTS}/{LAST}")
"""Files of a run except its record."""


def read_record(folder: Path) -> Mapping[str, Any]:
    """Return the run's record; empty if there is none."""
    path = folder / RECORD
    with recorded(path):
        return dict(read_json(path)) if path.is_file() else {}


def read_table(path: Path) -> list[dict[str, float]]:
    """Return the rows of a metrics.csv; none if there is no file."""
    if not path.is_file():
        return []
    try:
        rows = csv.DictReader(io.StringIO(read_text(path)))
        return [{name: float(value) for name, value in row.items() if value} for row in rows]
    except (TypeError, ValueError, csv.Error) as error:
        what = f"not a table of epochs ({one_line(error)})"
        raise DataError(f"{path}: {what}. Remove it: run.json has its rows.") from error


def recorded_table(folder: Path) -> list[dict[str, float]]:
    """Return the rows of metrics.csv that the record has, whose file has a checksum."""
    rows = read_record(folder).get("history", [])
    with recorded(folder / RECORD):
        return [{str(name): float(value) for name, value in row.items()} for row in rows]


def clear(folder: Path, *, logs: bool = False) -> None:
    """Remove an earlier run, and nothing that hepflow did not write.

    With ``logs``, also TensorBoard's, where those of other configurations lie next to this run's.
    """
    if (folder / RECORD).is_file():
        for name in (CHECKPOINTS, TENSORBOARD) if logs else (CHECKPOINTS,):
            remove_tree(folder / name)
        for name in (*FILES, RECORD):  # last what marks the folder as a run
            remove(folder / name, flush=True)
