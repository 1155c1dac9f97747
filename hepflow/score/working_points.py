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
    """A stream of the trigger: events whose log-odds of signal to background pass a threshold."""

    name: str  # as given, such as ``ttbar@0.99``
    selection: str  # name in the report, such as ``ttbar_vs_rest``
    target: float  # least efficiency for each signal class
    signal: tuple[int, ...]  # labels
    background: tuple[int, ...]
    threshold: float
    report: str  # hash of the report's inputs

    @property
    def stream(self) -> str:
        """Name of the stream; its column in the scores is ``accept_NAME``."""
        return self.name.partition("@")[0]

    def accepts(self, logits: np.ndarray) -> np.ndarray:
        """Return whether the stream keeps each event of (events, classes); never one with NaN."""
        return log_odds(logits, self.signal, self.background) >= self.threshold


def resolve(asked: str, report: Path, net: OnnxNet) -> tuple[WorkingPoint, ...]:
    """Return the working points of a model, whose folder names its run in the report.

    ``asked`` is ``SELECTION@EFFICIENCY``, several separated by commas; the selection is a class
    (against the rest) or any in the report: an output of `hepflow evaluate`, or its metrics.json.
    """
    names = [name.strip() for name in asked.split(",") if name.strip()]
    if not names:
        return ()
    path = report / METRICS if report.is_dir() or report.suffix != ".json" else report
    try:
        metrics: Mapping[str, Any] = read_json(path)
    except (OSError, HepflowError) as error:
        what = f"no readable report with the working points ({error})"
        advice = f"Make one with `hepflow evaluate --output {path.parent}`."
        raise DataError(f"{path}: {what}. {advice}") from error
    version, now = metrics.get("schema_version"), METRICS_SCHEMA_VERSION
    if version != now:
        what = f"report of schema version {version}, this hepflow reads {now}"
        raise DataError(f"{path}: {what}. Run `hepflow evaluate` again.")
    run, inputs = net.path.absolute().parent.name, net.inputs
    measured: Mapping[str, Any] | None = metrics["models"].get(run)
    if measured is None:
        what = f"no model {run!r} in it, only {', '.join(metrics['models'])}"
        raise DataError(f"{report}: {what}. A threshold belongs to one model: evaluate this run.")
    provenance = measured["provenance"]
    store = provenance.get("store")
    if tuple(metrics["classes"]) != inputs.classes or store != inputs.provenance:
        what = f"its {run!r} was made for other classes or another feature store than {net.path}"
        stores = f"{store}, not {inputs.provenance}"
        raise DataError(f"{report}: {what} ({stores}). Evaluate this run again.")
    if net.weights and provenance.get("weights", net.weights) != net.weights:
        what = f"the report is of an earlier training of {run}, or of another of its checkpoints"
        raise DataError(f"{report}: {what}. Run `hepflow evaluate` again.")
    points = tuple(_resolve(name, metrics, measured, inputs) for name in names)
    if len({point.stream for point in points}) < len(points):
        what = "each selection makes one column. Name each only once."
        raise ConfigError(f"working_point {asked!r}: {what}")
    return points


def _resolve(
    name: str, metrics: Mapping[str, Any], measured: Mapping[str, Any], inputs: Inputs
) -> WorkingPoint:
    choice, _, number = name.partition("@")
    try:
        target = float(number)
    except ValueError as error:
        wanted = f"SELECTION@EFFICIENCY, such as {inputs.classes[-1]}@0.99"
        raise ConfigError(f"working_point must be {wanted}, got {name!r}") from error
    selections = metrics["selections"]
    found = [key for key in (choice, f"{choice}_vs_rest") if key in selections]
    if not found:
        known = ", ".join([*inputs.classes, *selections])
        what = f"the report has no selection {choice!r}, only {known}"
        raise ConfigError(f"working_point {name!r}: {what}. Choose one of them.")
    points = measured["selections"][found[0]]["working_points"]
    threshold = [p["threshold"] for p in points if abs(p["target"] - target) < 1e-9]
    if not threshold:
        targets = ", ".join(str(point["target"]) for point in points)
        what = f"the report has the efficiencies {targets}"
        advice = f"For others run `hepflow evaluate --targets=[{number}]`."
        raise ConfigError(f"working_point {name!r}: {what}. {advice}")
    sides = (selections[found[0]][side] for side in ("signal", "background"))
    signal, background = (tuple(map(inputs.classes.index, members)) for members in sides)
    hashed = str(metrics["inputs"])
    return WorkingPoint(name, found[0], target, signal, background, float(threshold[0]), hashed)
