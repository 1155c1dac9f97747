"""Are two models different? Paired differences of AUC, background efficiency and accuracy.

Both models see the same events. Events that one model finds easy are mostly easy for the other, so
their numbers fluctuate together, and the error of a difference is far smaller than the errors of
the two numbers suggest::

    var(a - b) = var(a) + var(b) - 2 cov(a, b)

Each function here compares all pairs of models. It writes a number as a sum over events, and takes
the covariance of the models from what every event contributes (DeLong, DeLong, Clarke-Pearson 1988
for the AUC, extended to several classes of equal weight on either side). No library has that for
background efficiency at a threshold which is itself measured, nor for balanced classes.
"""

# N events, K classes, D bins, M models

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from hepflow.statistics.metrics import auc, efficiencies, placements, spectrum
from hepflow.statistics.working_points import Selection, threshold_bin

Names = Sequence[str]
Arrays = Sequence[np.ndarray]

RESOLVED = 0.05  # probability (after Holm's correction) below which a difference counts
PASSING = "background passing"  # start of the name of a difference in background efficiency


@dataclass(frozen=True)
class Difference:
    """Difference of a number between two models on the same events."""

    first: str
    second: str
    quantity: str
    value: float
    """first - second"""
    error: float
    p_value: float
    """Two-sided, for no difference; of this comparison alone."""
    n_events: int
    """Events in both test samples."""


def delong(
    scores_MN: Arrays, label_N: np.ndarray, selection: Selection, *, exact_below: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return (M) AUCs of models on the same events, and their (M, M) covariance."""
    n_classes = int(label_N.max()) + 1
    aucs, placed = [], []
    for score_N in scores_MN:
        binned, bin_N = spectrum(score_N, label_N, n_classes, exact_below=exact_below)
        sides = binned.counts, selection.signal, selection.background
        aucs.append(auc(*sides))
        placed.append(placements(*sides)[label_N, bin_N])
    covariance_MM = np.zeros((len(placed), len(placed)))
    for side in (selection.signal, selection.background):
        for label in side:
            own = label_N == label
            v_MN = np.stack([place_N[own] for place_N in placed])
            if v_MN.shape[1] > 1:
                covariance_MM += np.atleast_2d(np.cov(v_MN)) / v_MN.shape[1] / len(side) ** 2
    return np.array(aucs), covariance_MM


def auc_differences(
    names: Names, scores_MN: Arrays, label_N: np.ndarray, selection: Selection, *, exact_below: int
) -> list[Difference]:
    """Compare the AUCs of one discriminant; see `delong`."""
    auc_M, covariance_MM = delong(scores_MN, label_N, selection, exact_below=exact_below)
    quantity = f"AUC {selection.name.removesuffix('_vs_rest')}"
    return _differences(names, quantity, auc_M, covariance_MM, len(label_N))


def pass_differences(
    names: Names,
    scores_MN: Arrays,
    label_N: np.ndarray,
    selection: Selection,
    *,
    target: float,
    exact_below: int,
) -> list[Difference]:
    """Compare the background efficiency where every signal class keeps ``target``."""
    parts = [_influence(score_N, label_N, selection, target, exact_below) for score_N in scores_MN]
    covariance_MM = np.zeros((len(parts), len(parts)))
    for label in selection.labels:
        own = label_N == label
        centred_MN = np.stack([influence_N[own] for _, influence_N in parts])
        covariance_MM += centred_MN @ centred_MN.T
    value_M = np.array([value for value, _ in parts])
    quantity = f"{PASSING} at {100 * target:g} %"
    return _differences(names, quantity, value_M, covariance_MM, len(label_N))


def _influence(
    score_N: np.ndarray, label_N: np.ndarray, selection: Selection, target: float, exact_below: int
) -> tuple[float, np.ndarray]:
    """Return the background efficiency, and (N) the contribution of each event to its fluctuation.

    A background event changes the efficiency directly. A signal event changes the threshold, and
    with it the background efficiency, by the slope of the ROC curve. Only the signal class whose
    efficiency is the target (the "holder") can do that; the others keep more than they must.

        background        . low       slope: from "low" to "high", about +- 2 standard deviations
        efficiency      .             of the holder's efficiency, so that it does not depend on
                     x  chosen        the few events next to the threshold
                  .  high
                  efficiency of the holder
    """
    n_classes = int(label_N.max()) + 1
    binned, bin_N = spectrum(score_N, label_N, n_classes, exact_below=exact_below)
    efficiency_KD = efficiencies(binned.counts)
    chosen = threshold_bin(efficiency_KD, selection.signal, target)
    holder = min(selection.signal, key=lambda label: efficiency_KD[label, chosen])
    background_D = efficiency_KD[list(selection.background)].mean(axis=0)

    n_holder = int((label_N == holder).sum())
    reach = 2 * math.sqrt(target * (1 - target) / n_holder) + 2 / n_holder
    low = threshold_bin(efficiency_KD, [holder], min(target + reach, 1.0))
    high = threshold_bin(efficiency_KD, [holder], target - reach)
    rise = efficiency_KD[holder, low] - efficiency_KD[holder, high]
    slope = (background_D[low] - background_D[high]) / rise if rise > 0 else 0.0

    influence_N = np.zeros(len(label_N))
    weights = dict.fromkeys(selection.background, 1 / len(selection.background))
    for label, weight in {**weights, holder: -slope}.items():
        own = label_N == label
        influence_N[own] = (bin_N[own] >= chosen) - efficiency_KD[label, chosen]
        influence_N[own] *= weight / own.sum()
    return float(background_D[chosen]), influence_N


def accuracy_differences(
    names: Names, right_MN: Arrays, label_N: np.ndarray, n_classes: int
) -> list[Difference]:
    """Compare the balanced accuracy; ``right_MN`` is true for correctly classified events."""
    accuracy_M = np.zeros(len(names))
    covariance_MM = np.zeros((len(names), len(names)))
    for label in range(n_classes):
        own = label_N == label
        own_MN = np.stack([right_N[own] for right_N in right_MN])
        accuracy_M += own_MN.mean(axis=1) / n_classes
        covariance_MM += np.cov(own_MN, bias=True) / own.sum() / n_classes**2
    return _differences(names, "accuracy", accuracy_M, covariance_MM, len(label_N))


def _differences(
    names: Names, quantity: str, value_M: np.ndarray, covariance_MM: np.ndarray, n_events: int
) -> list[Difference]:
    found = []
    for a, b in combinations(range(len(names)), 2):
        value = float(value_M[a] - value_M[b])
        variance = covariance_MM[a, a] + covariance_MM[b, b] - 2 * covariance_MM[a, b]
        error = math.sqrt(max(float(variance), 0.0))
        if error <= 1e-9 * max(abs(value), 1e-6):  # equal scores: not an infinite significance
            p_value = 1.0 if abs(value) < 1e-12 else 0.0
        else:
            p_value = math.erfc(abs(value) / error / math.sqrt(2))
        found.append(Difference(names[a], names[b], quantity, value, error, p_value, n_events))
    return found


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for the number of comparisons (Holm 1979)."""
    p = np.array(p_values, float)
    order = p.argsort()
    factors = np.arange(len(p), 0, -1)
    p[order] = np.maximum.accumulate(np.minimum(factors * p[order], 1.0))
    return p.tolist()
