"""What each high-level feature is worth to a model: how much it loses when that feature is shuffled among the events (Breiman 2001).

The model is run from the ONNX file that the training leaves, so that no training library is needed; a run without one goes without.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from hepflow.data.runs import ONNX
from hepflow.evaluate.kinematics import Joined
from hepflow.evaluate.runs import Run
from hepflow.statistics.metrics import auc, log_odds, spectrum

MAX_EVENTS = 20_000
SHUFFLES = 5
TOLERANCE = 1e-3
"""Largest difference, absolute or relative, between a logit of the file and the predicted one."""


class NoImportanceError(Exception):
    """The run's model cannot be asked, and why."""


def importance(run: Run, joined: Joined, *, rng: np.random.Generator) -> dict[str, Any]:
    """Loss of mean AUC when a feature is shuffled.

    Parameters
    ----------
    run : Run
    joined : Joined
        Its features.
    rng : numpy.random.Generator

    Returns
    -------
    mapping
        Feature -> ``value, error`` over the shuffles.

    Raises
    ------
    NoImportanceError
        The model is not at hand, takes other inputs, or is another one than made the predictions.
    """
    session = _session(run.path / ONNX)
    names = [feature.name for feature in joined.store.spec.hlf]
    n_classes = len(run.predictions.classes)
    rows = np.sort(rng.permutation(len(joined.hlf))[:MAX_EVENTS])
    x, label = joined.hlf[rows].copy(), run.predictions.label[rows]
    if session.get_inputs()[0].shape[-1] != len(names):
        raise NoImportanceError(
            f"{ONNX} takes {session.get_inputs()[0].shape[-1]} features, the feature store has {len(names)}"
        )
    if len(np.unique(label)) < n_classes:
        raise NoImportanceError("too few events of some class")
    logits = _logits(session, x)
    if not np.allclose(logits, run.predictions.logits[rows], rtol=TOLERANCE, atol=TOLERANCE):
        raise NoImportanceError(
            f"{ONNX} is not of the net that made the predictions; `hepflow export --run {run.path}` writes it anew"
        )
    reference = _mean_auc(logits, label, n_classes)
    found = {}
    for column, name in enumerate(names):
        kept = x[:, column].copy()
        losses = []
        for _ in range(SHUFFLES):
            x[:, column] = rng.permutation(kept)
            losses.append(reference - _mean_auc(_logits(session, x), label, n_classes))
        x[:, column] = kept
        found[name] = {
            "value": float(np.mean(losses)),
            "error": float(np.std(losses, ddof=1) / np.sqrt(SHUFFLES)),
        }
    return found


def _session(file: Path) -> Any:
    """The run's model, which takes one array of features an event."""
    if not file.is_file():
        raise NoImportanceError(
            f"no {ONNX} beside the predictions (that of a net is written by `hepflow export --run RUN`; trees have none)"
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    inputs = session.get_inputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 2:
        raise NoImportanceError("nets on particles are not shuffled")
    return session


def _logits(session: Any, x: np.ndarray) -> np.ndarray:
    (output,) = session.run([session.get_outputs()[0].name], {session.get_inputs()[0].name: x})
    return np.asarray(output)


def _mean_auc(logits_NK: np.ndarray, label_N: np.ndarray, n_classes: int) -> float:
    areas = []
    for own in range(n_classes):
        rest = [other for other in range(n_classes) if other != own]
        binned, _ = spectrum(
            log_odds(logits_NK, [own], rest), label_N, n_classes, exact_below=MAX_EVENTS
        )
        areas.append(auc(binned.counts, [own], rest))
    return float(np.mean(areas))
