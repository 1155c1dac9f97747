"""Permutation importance of the high-level features (Breiman 2001).

It is the loss of mean AUC when a feature is shuffled among the events. The model runs from the
run's ONNX file, so that no training library is needed; runs without one have no importances.
"""

from typing import Any

import numpy as np

from hepflow.data.runs import ONNX
from hepflow.errors import DataError
from hepflow.evaluate.kinematics import Joined, LeftOutError
from hepflow.evaluate.runs import Run
from hepflow.models.onnx_net import GIVE, session_of
from hepflow.statistics.metrics import auc, log_odds, spectrum
from hepflow.system.storage import read_bytes

MAX_EVENTS = 20_000
SHUFFLES = 5
TOLERANCE = 1e-3
"""Largest difference, absolute or relative, between logits of the file and the predictions."""


def importance(run: Run, joined: Joined, *, rng: np.random.Generator) -> dict[str, Any]:
    """Return feature -> ``value, error`` over the shuffles, or raise a LeftOutError."""
    session = _session(run, joined)
    n_classes = len(run.predictions.classes)
    rows = np.sort(rng.permutation(len(joined.hlf))[:MAX_EVENTS])
    x, label = joined.hlf[rows].copy(), run.predictions.label[rows]
    if len(np.unique(label)) < n_classes:
        raise LeftOutError("too few events of some class")

    def logits() -> np.ndarray:
        (output,) = session.run([session.get_outputs()[0].name], {session.get_inputs()[0].name: x})
        return np.asarray(output)

    def mean_auc(logits_NK: np.ndarray) -> float:
        areas = []
        for own in range(n_classes):
            rest = [other for other in range(n_classes) if other != own]
            score_N = log_odds(logits_NK, [own], rest)
            binned, _ = spectrum(score_N, label, n_classes, exact_below=MAX_EVENTS)
            areas.append(auc(binned.counts, [own], rest))
        return float(np.mean(areas))

    original = logits()
    if not np.allclose(original, run.predictions.logits[rows], rtol=TOLERANCE, atol=TOLERANCE):
        advice = f"`hepflow export --run {run.path}` writes it again"
        raise LeftOutError(f"{ONNX} is not of the net that made the predictions; {advice}")
    reference = mean_auc(original)
    found = {}
    for column, feature in enumerate(joined.store.spec.hlf):
        kept = x[:, column].copy()
        losses = []
        for _ in range(SHUFFLES):
            x[:, column] = rng.permutation(kept)
            losses.append(reference - mean_auc(logits()))
        x[:, column] = kept
        error = float(np.std(losses, ddof=1) / np.sqrt(SHUFFLES))
        found[feature.name] = {"value": float(np.mean(losses)), "error": error}
    return found


def _session(run: Run, joined: Joined) -> Any:
    file = run.path / ONNX
    if not file.is_file():
        advice = "(`hepflow export --run RUN` writes that of a net; trees have none)"
        raise LeftOutError(f"no {ONNX} next to the predictions {advice}")
    try:
        session = session_of(read_bytes(file), file)
    except DataError as error:
        raise LeftOutError(str(error).removesuffix(f". {GIVE}.")) from error
    inputs = session.get_inputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 2:
        raise LeftOutError("permutation importance is not available for particle nets")
    wanted, there = inputs[0].shape[1], len(joined.store.spec.hlf)
    if wanted != there:
        raise LeftOutError(f"{ONNX} takes {wanted} features, the feature store has {there}")
    return session
