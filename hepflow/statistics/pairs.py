"""Are two models different? DeLong's covariance of AUCs measured on the same events (DeLong, DeLong, Clarke-Pearson 1988).

The events that make one model lucky make the other lucky too, so the error of a difference is far smaller than the errors of the
two AUCs suggest. Extended here to several classes of equal weight on either side.
"""

# N events, K classes, D bins, M models

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hepflow.statistics.metrics import efficiencies, placements, spectrum
from hepflow.statistics.working_points import Selection, threshold_bin

RESOLVED = 0.05
"""Probability (after Holm's correction) below which a difference is called one."""

PASSING = "background passing"
"""What the quantity of such a difference begins with."""


@dataclass(frozen=True)
class Difference:
    """How one model's number differs from another's on the same events."""

    first: str
    second: str
    quantity: str
    value: float
    """first - second"""
    error: float
    p_value: float
    """Two-sided, for no difference; of this comparison alone."""
    n_events: int
    """Events both models were asked about."""


def delong(
    scores_MN: Sequence[np.ndarray], label_N: np.ndarray, selection: Selection, *, exact_below: int
) -> tuple[np.ndarray, np.ndarray]:
    """AUCs of models on the same events, and their covariance.

    Parameters
    ----------
    scores_MN : M arrays (N) of a discriminant
    label_N : (N) labels
    selection : Selection
    exact_below : int
        See `metrics.spectrum`.

    Returns
    -------
    (M) AUCs, (M, M) covariance
    """
    n_classes = int(label_N.max()) + 1
    placed = [
        _placements(score_N, label_N, n_classes, selection, exact_below) for score_N in scores_MN
    ]
    covariance_MM = np.zeros((len(placed), len(placed)))
    auc_M = np.zeros(len(placed))
    for side in (selection.signal, selection.background):
        for label in side:
            own = label_N == label
            v_MN = np.stack([place_N[own] for place_N in placed])
            if side is selection.signal:
                auc_M += v_MN.mean(axis=1, dtype=np.float64) / len(side)
            if v_MN.shape[1] > 1:
                covariance_MM += np.atleast_2d(np.cov(v_MN)) / v_MN.shape[1] / len(side) ** 2
    return auc_M, covariance_MM


def _placements(
    score_N: np.ndarray, label_N: np.ndarray, n_classes: int, selection: Selection, exact_below: int
) -> np.ndarray:
    """(N) share of the other side that an event is on the right side of, ties counting half."""
    binned, bin_N = spectrum(score_N, label_N, n_classes, exact_below=exact_below)
    return placements(binned.counts, selection.signal, selection.background)[label_N, bin_N]


def auc_differences(
    names: Sequence[str],
    scores_MN: Sequence[np.ndarray],
    label_N: np.ndarray,
    selection: Selection,
    *,
    exact_below: int,
) -> list[Difference]:
    """Every pair of models, on one discriminant."""
    auc_M, covariance_MM = delong(scores_MN, label_N, selection, exact_below=exact_below)
    quantity = f"AUC {selection.name.removesuffix('_vs_rest')}"
    return _of_pairs(names, quantity, auc_M, covariance_MM, len(label_N))


def _of_pairs(
    names: Sequence[str],
    quantity: str,
    value_M: np.ndarray,
    covariance_MM: np.ndarray,
    n_events: int,
) -> list[Difference]:
    found = []
    for first in range(len(names)):
        for second in range(first + 1, len(names)):
            variance = (
                covariance_MM[first, first]
                + covariance_MM[second, second]
                - 2 * covariance_MM[first, second]
            )
            found.append(
                _difference(
                    (names[first], names[second]),
                    quantity,
                    value_M[first] - value_M[second],
                    variance,
                    n_events,
                )
            )
    return found


def pass_differences(
    names: Sequence[str],
    scores_MN: Sequence[np.ndarray],
    label_N: np.ndarray,
    selection: Selection,
    *,
    target: float,
    exact_below: int,
) -> list[Difference]:
    """Share of background that passes where every signal class keeps ``target``, of every pair of models."""
    parts = [_influence(score_N, label_N, selection, target, exact_below) for score_N in scores_MN]
    covariance_MM = np.zeros((len(parts), len(parts)))
    for label in selection.labels:
        own = label_N == label
        centred_MN = np.stack([influence_N[own] for _, influence_N in parts])
        covariance_MM += centred_MN @ centred_MN.T
    value_M = np.array([value for value, _ in parts])
    quantity = f"{PASSING} at {100 * target:g} %"
    return _of_pairs(names, quantity, value_M, covariance_MM, len(label_N))


def _influence(
    score_N: np.ndarray, label_N: np.ndarray, selection: Selection, target: float, exact_below: int
) -> tuple[float, np.ndarray]:
    """The background efficiency, and what each event contributes to its fluctuation.

    A background event moves it directly; an event of the signal class that holds the threshold moves the threshold, and with it the
    background efficiency by the slope of the ROC curve there.
    """
    n_classes = int(label_N.max()) + 1
    binned, bin_N = spectrum(score_N, label_N, n_classes, exact_below=exact_below)
    efficiency_KD = efficiencies(binned.counts)
    chosen = threshold_bin(efficiency_KD, selection.signal, target)
    holder = min(selection.signal, key=lambda label: efficiency_KD[label, chosen])
    background_D = efficiency_KD[list(selection.background)].mean(axis=0)
    n_holder = int((label_N == holder).sum())
    reach = 2 * math.sqrt(target * (1 - target) / n_holder) + 2 / n_holder
    low, high = (
        threshold_bin(efficiency_KD, [holder], edge)
        for edge in (min(target + reach, 1.0), target - reach)
    )
    rise = efficiency_KD[holder, low] - efficiency_KD[holder, high]
    slope = (background_D[low] - background_D[high]) / rise if rise > 0 else 0.0
    passed_N = bin_N >= chosen
    influence_N = np.zeros(len(label_N))
    for label in selection.background:
        own = label_N == label
        influence_N[own] = (
            (passed_N[own] - efficiency_KD[label, chosen]) / own.sum() / len(selection.background)
        )
    own = label_N == holder
    influence_N[own] = -slope * (passed_N[own] - efficiency_KD[holder, chosen]) / n_holder
    return float(background_D[chosen]), influence_N


def accuracy_difference(
    names: tuple[str, str],
    right_N: tuple[np.ndarray, np.ndarray],
    label_N: np.ndarray,
    n_classes: int,
) -> Difference:
    """Balanced accuracy of two models, from the events that one of them gets right and the other wrong.

    Parameters
    ----------
    names : first, second
    right_N : two (N) bool
    label_N : (N)
    n_classes : int
    """
    mean, variance = 0.0, 0.0
    for label in range(n_classes):
        own = label_N == label
        d = right_N[0][own].astype(np.int8) - right_N[1][own]
        mean += d.mean() / n_classes
        variance += d.var() / max(len(d), 1) / n_classes**2
    return _difference(names, "accuracy", mean, variance, len(label_N))


def _difference(
    names: tuple[str, str], quantity: str, value: float, variance: float, n_events: int
) -> Difference:
    error = math.sqrt(max(float(variance), 0.0))
    if error <= 1e-9 * max(
        abs(float(value)), 1e-6
    ):  # the same scores: no difference rather than an infinitely clear one
        p_value = 1.0 if abs(value) < 1e-12 else 0.0
    else:
        p_value = math.erfc(abs(float(value)) / error / math.sqrt(2))
    return Difference(*names, quantity, float(value), error, p_value, n_events)


def holm(p_values: Sequence[float]) -> list[float]:
    """Probabilities adjusted for how many were looked at, so that one false claim in all is as rare as stated (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
