"""The predictions file, where training, scoring and evaluation meet: its only writer and reader.

predictions.parquet   event_id, label, logit_CLASS ...     (one row per event, by event_id)
its metadata          hepflow: {schema_version, classes, model, provenance}
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hepflow.data.parquet import read_table, sealed_writer
from hepflow.errors import DataError
from hepflow.schema import PREDICTIONS_SCHEMA_VERSION
from hepflow.system.files import recorded
from hepflow.system.publishing import whole


@dataclass(frozen=True)
class Predictions:
    """Output of a model for events, and the origin of both."""

    event_id: np.ndarray
    """(events) int64"""
    label: np.ndarray
    """(events) int8, the truth"""
    logits: np.ndarray
    """(events, classes) float32"""
    classes: tuple[str, ...]
    model: str
    provenance: Mapping[str, Any]
    """Origin of model and events: ``store`` is the hash of the store, ``split`` the split."""

    @property
    def probabilities(self) -> np.ndarray:
        """(events, classes) float64, softmax of the logits."""
        return softmax(self.logits)


def softmax(logits_NK: np.ndarray) -> np.ndarray:
    """Return (N, K) float64 probabilities, contiguous per class; NaN for logits that are NaN."""
    x_KN = logits_NK.T.astype(np.float64, order="C")
    x_KN -= x_KN.max(axis=0)
    np.exp(x_KN, out=x_KN)
    return np.asarray((x_KN / x_KN.sum(axis=0)).T)


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write predictions, whole or not at all."""
    order = np.argsort(predictions.event_id, kind="stable")
    columns = {"event_id": predictions.event_id, "label": predictions.label.astype(np.int8)}
    for name, logits in zip(predictions.classes, predictions.logits.T, strict=True):
        columns[f"logit_{name}"] = logits.astype(np.float32)
    about: dict[str, Any] = {"schema_version": PREDICTIONS_SCHEMA_VERSION}
    about |= {"model": predictions.model, "classes": list(predictions.classes)}
    about["provenance"] = dict(predictions.provenance)
    metadata = {"hepflow": json.dumps(about, sort_keys=True)}
    table = pa.table({name: values[order] for name, values in columns.items()}, metadata=metadata)
    with whole(path) as part, sealed_writer(part, table.schema, compression="zstd") as writer:
        writer.write_table(table)


def read_predictions(path: Path) -> Predictions:
    """Read predictions, or raise a DataError if the file is not of this format."""
    try:
        table = read_table(path, "Make them again with `hepflow train predict`.")
    except (OSError, pa.ArrowException) as error:
        why = f"no readable predictions ({error}). Make them with `hepflow train predict`."
        raise DataError(f"{path}: {why}") from error
    with recorded(path):
        about = dict(json.loads((table.schema.metadata or {}).get(b"hepflow", b"{}")))
    if about.get("schema_version") != PREDICTIONS_SCHEMA_VERSION:
        version = about.get("schema_version")
        versions = f"schema version {version}, this hepflow reads {PREDICTIONS_SCHEMA_VERSION}"
        raise DataError(f"{path}: predictions of {versions}. Run `hepflow train predict` again.")
    classes = tuple(about["classes"])
    logits = [f"logit_{name}" for name in classes]
    columns = table.column_names
    if missing := [name for name in ("event_id", "label", *logits) if name not in columns]:
        what = f"no column {', '.join(missing)} among {', '.join(columns)}"
        raise DataError(f"{path}: {what}. See docs/evaluate.md for the columns of this file.")
    ids, label = table["event_id"].to_numpy(), table["label"].to_numpy()
    values = np.stack([table[name].to_numpy() for name in logits], axis=1)
    return Predictions(ids, label, values, classes, about["model"], about["provenance"])
