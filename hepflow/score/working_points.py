"""Working points: ``ttbar@0.99`` -> the threshold that the report measured for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hepflow.errors import ConfigError, DataError, HepflowError
from hepflow.models.inputs import Inputs
from hepflow.models.onnx_net import OnnxNet
from hepflow.schema import METRICS_SCHEMA_VERSION
from hepflow.statistics.metrics import log_odds
from hepflow.system.files import read_json

METRICS = "metrics.json"


@dataclass(frozen=True)
class WorkingPoint:
    """A stream of the trigger: events whose log-odds of signal against background reach the threshold."""

    name: str
    """As asked for, such as ``ttbar@0.99``."""
    selection: str
    """Its name in the report, such as ``ttbar_vs_rest``."""
    target: float
    """Least share that every signal class is to keep."""
    signal: tuple[int, ...]
    background: tuple[int, ...]
    """Labels."""
    threshold: float
    report: str
    """Hash of the report's inputs."""

    @property
    def stream(self) -> str:
        """Name of its column in the scores is ``accept_`` and this."""
        return self.name.partition("@")[0]

    def accepts(self, logits: np.ndarray) -> np.ndarray:
        """Which events the stream keeps, of logits (events, classes); a score that is not a number never is."""
        return log_odds(logits, self.signal, self.background) >= self.threshold


def resolve(asked: str, report: Path, net: OnnxNet) -> tuple[WorkingPoint, ...]:
    """The working points of a model.

    Parameters
    ----------
    asked : str
        ``SELECTION@EFFICIENCY``, several of them with commas. The selection is a class (against the rest) or any in the report.
    report : Path
        Folder that `hepflow evaluate` wrote, or its metrics.json.
    net : OnnxNet
        The folder of its file is the run whose numbers count.

    Raises
    ------
    ConfigError
        A working point is not of this form, or the report has none such.
    DataError
        There is no report, or it is of another model, or of another training of it.
    """
    names = [name.strip() for name in asked.split(",") if name.strip()]
    if not names:
        return ()
    metrics = _metrics(report)
    measured = _of_model(metrics, report, net)
    points = tuple(_resolve(name, metrics, measured, net.inputs) for name in names)
    if len({point.stream for point in points}) < len(points):
        raise ConfigError(
            f"working_point {asked!r}: a selection may be there once, each makes a column of its name"
        )
    return points


def _metrics(report: Path) -> Mapping[str, Any]:
    path = report / METRICS if report.is_dir() or report.suffix != ".json" else report
    try:
        metrics: Mapping[str, Any] = read_json(path)
    except (OSError, HepflowError) as error:
        raise DataError(
            f"{path}: no readable report to take the working point from ({error}). Make one with `hepflow evaluate --output {path.parent}`."
        ) from error
    if metrics.get("schema_version") != METRICS_SCHEMA_VERSION:
        raise DataError(
            f"{path}: report of schema version {metrics.get('schema_version')}, this hepflow reads {METRICS_SCHEMA_VERSION}."
        )
    return metrics


def _of_model(metrics: Mapping[str, Any], report: Path, net: OnnxNet) -> Mapping[str, Any]:
    """What the report says of the model's run."""
    run = net.path.absolute().parent.name
    measured: Mapping[str, Any] | None = metrics["models"].get(run)
    if measured is None:
        raise DataError(
            f"{report}: no model {run!r} in it, only {', '.join(metrics['models'])}. A threshold is one model's: evaluate this run."
        )
    inputs, provenance = net.inputs, measured["provenance"]
    if tuple(metrics["classes"]) != inputs.classes or provenance.get("store") != inputs.provenance:
        raise DataError(
            f"{report}: its {run!r} was made for other classes or another feature store than {net.path} "
            f"({provenance.get('store')}, not {inputs.provenance}). Evaluate this run again."
        )
    if net.weights and provenance.get("weights", net.weights) != net.weights:
        raise DataError(
            f"the report {report} is of an earlier training of {run}, or of another of its checkpoints; run `hepflow evaluate` again"
        )
    return measured


def _resolve(
    name: str, metrics: Mapping[str, Any], measured: Mapping[str, Any], inputs: Inputs
) -> WorkingPoint:
    choice, _, number = name.partition("@")
    try:
        target = float(number)
    except ValueError as error:
        raise ConfigError(
            f"working_point must be SELECTION@EFFICIENCY, such as {inputs.classes[-1]}@0.99, got {name!r}"
        ) from error
    selection = next(
        (key for key in (choice, f"{choice}_vs_rest") if key in metrics["selections"]), None
    )
    if selection is None:
        raise ConfigError(
            f"working_point {name!r}: the report has no selection {choice!r}, only {', '.join([*inputs.classes, *metrics['selections']])}"
        )
    points = measured["selections"][selection]["working_points"]
    point = next((point for point in points if abs(point["target"] - target) < 1e-9), None)
    if point is None:
        targets = ", ".join(str(point["target"]) for point in points)
        raise ConfigError(
            f"working_point {name!r}: the report has the efficiencies {targets}; for others run `hepflow evaluate --targets=[{number}]`"
        )
    of = metrics["selections"][selection]
    signal, background = (
        tuple(inputs.classes.index(member) for member in of[side])
        for side in ("signal", "background")
    )
    return WorkingPoint(
        name,
        selection,
        target,
        signal,
        background,
        float(point["threshold"]),
        str(metrics["inputs"]),
    )
