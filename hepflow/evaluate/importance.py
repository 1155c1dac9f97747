"""What each high-level feature is worth to a model: how much it loses when that feature is shuffled among the events (Breiman 2001).

The model is run from its ONNX file, so that no training library is needed; a run without one goes without.
"""

from pathlib import Path
from typing import Any

import numpy as np

from hepflow.evaluate.kinematics import Joined
from hepflow.evaluate.metrics import auc, log_odds, spectrum
from hepflow.evaluate.runs import Run

try:
    import onnxruntime
except ModuleNotFoundError:
    onnxruntime = None  # an extra: the report says what it goes without

MAX_EVENTS = 20_000
SHUFFLES = 5


def importance(run: Run, joined: Joined | None, *, rng: np.random.Generator) -> dict[str, Any]:
    """Loss of mean AUC when a feature is shuffled.

    Parameters
    ----------
    run : Run
    joined : Joined or None
        Its features.
    rng : numpy.random.Generator

    Returns
    -------
    mapping
        Feature -> ``value, error`` over the shuffles; empty where the model takes other inputs or is not at hand.
    """
    session = _session(run.path)
    if session is None or joined is None:
        return {}
    names = [feature.name for feature in joined.store.spec.hlf]
    rows = np.sort(rng.permutation(len(joined.hlf))[:MAX_EVENTS])
    x, label = joined.hlf[rows].copy(), run.predictions.label[rows]
    n_classes = len(run.predictions.classes)
    if session.get_inputs()[0].shape[-1] != len(names) or len(np.unique(label)) < n_classes:
        return {}
    reference = _mean_auc(_logits(session, x), label, n_classes)
    found = {}
    for column, name in enumerate(names):
        kept = x[:, column].copy()
        losses = []
        for _ in range(SHUFFLES):
            x[:, column] = rng.permutation(kept)
            losses.append(reference - _mean_auc(_logits(session, x), label, n_classes))
        x[:, column] = kept
        found[name] = {"value": float(np.mean(losses)), "error": float(np.std(losses, ddof=1) / np.sqrt(SHUFFLES))}
    return found


def _session(folder: Path) -> Any:
    """The run's model, if it has one that takes one array a call."""
    files = sorted(folder.rglob("*.onnx"))
    if onnxruntime is None or not files:
        return None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(files[0]), options, providers=["CPUExecutionProvider"])
    inputs = session.get_inputs()
    return session if len(inputs) == 1 and len(inputs[0].shape) == 2 else None


def _logits(session: Any, x: np.ndarray) -> np.ndarray:
    (output,) = session.run([session.get_outputs()[0].name], {session.get_inputs()[0].name: x})
    return np.asarray(output)


def _mean_auc(logits_NK: np.ndarray, label_N: np.ndarray, n_classes: int) -> float:
    areas = []
    for own in range(n_classes):
        rest = [other for other in range(n_classes) if other != own]
        binned, _ = spectrum(log_odds(logits_NK, [own], rest), label_N, n_classes, exact_below=MAX_EVENTS)
        areas.append(auc(binned.counts, [own], rest))
    return float(np.mean(areas))
