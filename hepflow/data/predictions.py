"""The predictions file: what a model says of events. The only writer and reader; training, scoring and evaluation meet here."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hepflow.errors import DataError
from hepflow.schema import PREDICTIONS_SCHEMA_VERSION
from hepflow.system.files import whole


@dataclass(frozen=True)
class Predictions:
    """What a model says of events, and who the model is."""

    event_id: np.ndarray
    """(events) int64"""
    label: np.ndarray
    """(events) int8, the truth"""
    logits: np.ndarray
    """(events, classes) float32"""
    classes: tuple[str, ...]
    model: str
    provenance: Mapping[str, Any]
    """Anything that tells where the model and the events come from; ``store`` is the store's hash, ``split`` the split."""

    @property
    def probabilities(self) -> np.ndarray:
        """(events, classes) float64, softmax of the logits."""
        return softmax(self.logits)


def softmax(logits_NK: np.ndarray) -> np.ndarray:
    """(N, K) float64 probabilities, a class's together in memory; NaN where the logits are."""
    x_KN = logits_NK.T.astype(np.float64, order="C")
    x_KN -= x_KN.max(axis=0)
    np.exp(x_KN, out=x_KN)
    return np.asarray((x_KN / x_KN.sum(axis=0)).T)


def write_predictions(path: Path, predictions: Predictions) -> None:
    """One Parquet row an event, ordered by event_id; the rest in the file's metadata."""
    order = np.argsort(predictions.event_id, kind="stable")
    columns: dict[str, Any] = {
        "event_id": predictions.event_id[order],
        "label": predictions.label[order].astype(np.int8),
    }
    for index, name in enumerate(predictions.classes):
        columns[f"logit_{name}"] = predictions.logits[order, index].astype(np.float32)
    about = {
        "schema_version": PREDICTIONS_SCHEMA_VERSION,
        "classes": list(predictions.classes),
        "model": predictions.model,
        "provenance": dict(predictions.provenance),
    }
    table = pa.table(columns).replace_schema_metadata(
        {"hepflow": json.dumps(about, sort_keys=True)}
    )
    with whole(path) as part:
        pq.write_table(table, part, compression="zstd")


def read_predictions(path: Path) -> Predictions:
    """Inverse of `write_predictions`.

    Raises
    ------
    DataError
        The file is missing, not Parquet, or not of this schema.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{path}: no readable predictions ({error}). Make them with `hepflow train fit` or `hepflow train predict`."
        ) from error
    about = json.loads((table.schema.metadata or {}).get(b"hepflow", b"{}"))
    if about.get("schema_version") != PREDICTIONS_SCHEMA_VERSION:
        found = f"predictions of schema version {about.get('schema_version')}, this hepflow reads {PREDICTIONS_SCHEMA_VERSION}"
        raise DataError(f"{path}: {found}. Run `hepflow train predict` again.")
    classes: Sequence[str] = about["classes"]
    wanted = ["event_id", "label", *(f"logit_{name}" for name in classes)]
    if missing := [name for name in wanted if name not in table.column_names]:
        raise DataError(
            f"{path}: no column {', '.join(missing)} among {', '.join(table.column_names)}. docs/evaluate.md has what a file must hold."
        )
    logits = np.stack([table[f"logit_{name}"].to_numpy() for name in classes], axis=1)
    return Predictions(
        table["event_id"].to_numpy(),
        table["label"].to_numpy(),
        logits,
        tuple(classes),
        about["model"],
        about["provenance"],
    )
