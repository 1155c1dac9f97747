"""Scores and labels -> AUC, ROC, accuracy, confusion, calibration, each with its error. Pure functions of arrays.

Every class carries the same total weight, whatever its number of events, because the published test sets are balanced: a sum
over events is a mean over each class first. A discriminant is binned once (`spectrum`); everything that follows is a function of
the bin counts. A bootstrap replica then is a Poisson draw of the counts, which is what Poisson(1) weights on the events add up
to, so that the cost of a replica does not depend on the number of events.
"""

# N events, K classes, D bins of a discriminant, R replicas

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

FINE_BINS = 1 << 16
"""Bins of a discriminant when there are too many events to keep every distinct score; a bin index fits in 16 bits."""
COARSE_BINS = 1 << 12
"""Bins behind the errors of those: equally populated."""
LOG_ODDS_LIMIT = 60.0
"""Log-odds beyond this (a probability of 1e-26) share the outermost bins of a binned discriminant."""
ROUNDING = 1e-4
"""By which the score of an event may differ between programs, absolute and relative."""
CHUNK = 1 << 19
"""Events handled at once where a temporary array of all would be large."""


@dataclass(frozen=True)
class Measured:
    """A number and its standard error."""

    value: float
    error: float

    def to_dict(self) -> dict[str, float]:
        """Plain types, for JSON."""
        return {"value": self.value, "error": self.error}


@dataclass(frozen=True)
class Spectrum:
    """Events of each class in bins of a discriminant, from background-like to signal-like."""

    counts: np.ndarray
    """(K, D) int64"""
    floor: np.ndarray
    """(D) float64: the smallest score that falls into the bin, so that ``score >= floor`` selects it and all above"""
    exact: bool = False
    """Whether a bin is a single score."""

    def threshold(self, chosen: int) -> float:
        """A cut that selects a bin and all above, also where the scores come out rounded in another way, as they do in another program.

        Between the score of a bin and the next one below there is room for that; bins of a width have none, and no score of their own.
        """
        floor = float(self.floor[chosen])
        if not self.exact:
            return floor
        below = float(self.floor[chosen - 1]) if chosen else -np.inf
        return floor - min(ROUNDING * max(1.0, abs(floor)), (floor - below) / 2)

    def coarse(self, bins: int = COARSE_BINS) -> "Spectrum":
        """Neighbouring bins joined into about ``bins`` equally populated ones; the same where there are no more than that."""
        if self.counts.shape[1] <= bins:
            return self
        share = self.density(range(len(self.counts))).cumsum()
        group = np.minimum((share * bins).astype(np.int64), bins - 1)
        first = np.flatnonzero(np.diff(group, prepend=-1))
        return Spectrum(np.add.reduceat(self.counts, first, axis=1), self.floor[first])

    def histogram(self, bins: int = 50, tail: float = 1e-3) -> tuple[np.ndarray, np.ndarray]:
        """(bins + 1) equidistant edges around all but the tails, and the (K, bins) counts; the tails are in the outermost bins."""
        share = self.density(range(len(self.counts))).cumsum()
        low, high = self.floor[np.searchsorted(share, [tail, 1 - tail]).clip(max=len(share) - 1)]
        edges = np.linspace(low, high if high > low else low + 1, bins + 1)
        bin_D = np.clip(np.searchsorted(edges, self.floor, side="right") - 1, 0, bins - 1)
        return edges, np.stack(
            [np.bincount(bin_D, weights=own, minlength=bins) for own in self.counts]
        )

    def density(self, classes: Sequence[int]) -> np.ndarray:
        """(D) share of the classes' events in each bin, every class with the same weight."""
        return density(self.counts, classes)


def density(counts_KD: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """(D) mean over the classes of the share of a class's events in each bin."""
    chosen = counts_KD[list(classes)]
    totals = np.maximum(
        chosen.sum(axis=1, keepdims=True), 1
    )  # a replica of a tiny class may be empty
    return (chosen / totals).mean(axis=0)


def log_odds(logits_NK: np.ndarray, signal: Sequence[int], background: Sequence[int]) -> np.ndarray:
    """Logarithm of the ratio of the signal classes' probability to the background classes'.

    Every discriminant of the report is one of these: a class against the rest, a class against another, ttbar or W against
    QCD. It orders the events as the probability does, but does not saturate at 1.

    Parameters
    ----------
    logits_NK : (N, K)
    signal, background : labels

    Returns
    -------
    (N) float64
    """
    score_N = np.empty(len(logits_NK))
    for start in range(0, len(logits_NK), CHUNK):
        rows = slice(start, start + CHUNK)
        x_KN = logits_NK[rows].T.astype(np.float64, order="C")
        score_N[rows] = _log_sum_exp(x_KN[list(signal)]) - _log_sum_exp(x_KN[list(background)])
    return score_N


def _log_sum_exp(x_KN: np.ndarray) -> np.ndarray:
    if len(x_KN) == 1:
        return x_KN[0]
    top_N = x_KN.max(axis=0)
    return top_N + np.log(np.exp(x_KN - top_N).sum(axis=0))


def spectrum(
    score_N: np.ndarray, label_N: np.ndarray, n_classes: int, *, exact_below: int
) -> tuple[Spectrum, np.ndarray]:
    """Count the events of each class in bins of a score.

    Parameters
    ----------
    score_N : (N) float64, finite
    label_N : (N) integers in [0, n_classes)
    n_classes : int
    exact_below : int
        Up to as many events every distinct score is a bin of its own, and what follows is exact; beyond, there are
        `FINE_BINS` bins of equal width.

    Returns
    -------
    Spectrum
    (N) uint16 or int64
        The bin of each event.
    """
    exact = len(score_N) <= exact_below
    if exact:
        floor_D, bin_N = np.unique(score_N, return_inverse=True)
    else:
        low, high = (
            float(np.clip(edge, -LOG_ODDS_LIMIT, LOG_ODDS_LIMIT))
            for edge in (score_N.min(), score_N.max())
        )
        width = (high - low) / FINE_BINS or 1.0
        bin_N = np.empty(len(score_N), dtype=np.uint16)
        for start in range(0, len(score_N), CHUNK):
            rows = slice(start, start + CHUNK)
            bin_N[rows] = np.clip((score_N[rows] - low) / width, 0, FINE_BINS - 1)
        floor_D = low + width * np.arange(FINE_BINS)
        floor_D[0] = score_N.min()  # beyond the limit, too
    counts_KD = np.zeros((n_classes, len(floor_D)), dtype=np.int64)
    for start in range(0, len(score_N), CHUNK):
        rows = slice(start, start + CHUNK)
        flat = label_N[rows].astype(np.int64) * len(floor_D) + bin_N[rows]
        counts_KD += np.bincount(flat, minlength=counts_KD.size).reshape(counts_KD.shape)
    return Spectrum(counts_KD, floor_D, exact), bin_N


def auc(counts_KD: np.ndarray, signal: Sequence[int], background: Sequence[int]) -> float:
    """Probability that a signal event scores above a background event, ties counting half (Mann-Whitney), classes balanced."""
    signal_D, background_D = density(counts_KD, signal), density(counts_KD, background)
    return min(
        float(signal_D @ (background_D.cumsum() - background_D / 2)), 1.0
    )  # rounding may end just above


def auc_error(counts_KD: np.ndarray, signal: Sequence[int], background: Sequence[int]) -> float:
    """Standard error of `auc` after DeLong et al. (1988), without random numbers: that of a selection is its mirror image's, too."""
    placed_KD = placements(counts_KD, signal, background)
    variance = 0.0
    for side in (signal, background):
        for label in side:
            own_D, n = counts_KD[label], int(counts_KD[label].sum())
            if n > 1:
                spread = own_D @ (placed_KD[label] - own_D @ placed_KD[label] / n) ** 2 / (n - 1)
                variance += float(spread) / n / len(side) ** 2
    return float(np.sqrt(variance))


def placements(
    counts_KD: np.ndarray, signal: Sequence[int], background: Sequence[int]
) -> np.ndarray:
    """(K, D) share of the other side that an event of the class in the bin is on the right side of, ties counting half."""
    below_D, above_D = density(counts_KD, background), density(counts_KD, signal)
    table_KD = np.zeros(counts_KD.shape)
    table_KD[list(signal)] = below_D.cumsum() - below_D / 2
    table_KD[list(background)] = 1 - (above_D.cumsum() - above_D / 2)
    return table_KD


def efficiencies(counts_KD: np.ndarray) -> np.ndarray:
    """(K, D) share of each class that scores at or above the floor of each bin."""
    totals = np.maximum(counts_KD.sum(axis=1, keepdims=True), 1)
    return counts_KD[:, ::-1].cumsum(axis=1)[:, ::-1] / totals


def bootstrap(
    counts_KD: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    replicas: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """(R, ...) a statistic of the counts on replicas of the sample.

    The errors hold for the test sample alone; they know nothing of how much another training would differ.
    """
    flat = counts_KD.ravel()
    filled = np.flatnonzero(flat)
    expected = flat[filled].astype(np.float64)
    drawn = np.zeros_like(flat)
    values = []
    for _ in range(replicas):
        drawn[filled] = rng.poisson(expected)
        values.append(statistic(drawn.reshape(counts_KD.shape)))
    return np.asarray(values)


def predicted(logits_NK: np.ndarray) -> np.ndarray:
    """(N) int8 class of the largest logit, the first of equal ones."""
    best_N, top_N = np.zeros(len(logits_NK), dtype=np.int8), logits_NK[:, 0]
    for label in range(
        1, logits_NK.shape[1]
    ):  # several times as fast as argmax along so short an axis
        best_N = np.where(logits_NK[:, label] > top_N, np.int8(label), best_N)
        top_N = np.maximum(logits_NK[:, label], top_N)
    return best_N


def confusion(predicted_N: np.ndarray, label_N: np.ndarray, n_classes: int) -> np.ndarray:
    """(K, K) int64 counts: row = true class, column = predicted class."""
    return np.bincount(
        label_N.astype(np.int64) * n_classes + predicted_N, minlength=n_classes**2
    ).reshape(n_classes, n_classes)


def confusion_shares(confusion_KK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(K, K) shares of each true class, and their binomial errors."""
    totals = confusion_KK.sum(axis=1, keepdims=True)
    share = confusion_KK / totals
    return share, binomial_error(confusion_KK, totals)


def balanced_accuracy(confusion_KK: np.ndarray) -> Measured:
    """Mean over the classes of the share classified rightly, with its binomial error."""
    share_KK, error_KK = confusion_shares(confusion_KK)
    return Measured(
        float(np.diag(share_KK).mean()),
        float(np.sqrt((np.diag(error_KK) ** 2).sum()) / len(share_KK)),
    )


def binomial_error(passed: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Half-width of Wilson's 68 % interval: unlike sqrt(p(1-p)/n) it is not zero at 0 or n passed."""
    low, high = wilson(passed, total)
    return (high - low) / 2


def wilson(passed: np.ndarray, total: np.ndarray) -> np.ndarray:
    """(2, ...) low and high end of the 68 % interval of passed / total, never outside [0, 1] and not around the share (Wilson 1927)."""
    n = np.maximum(total, 1)
    p = passed / n
    middle, half = (
        (p + 1 / (2 * n)) / (1 + 1 / n),
        np.sqrt(p * (1 - p) / n + 1 / (4 * n**2)) / (1 + 1 / n),
    )
    return np.stack([np.clip(middle - half, 0, p), np.clip(middle + half, p, 1)])


def roc_points(
    signal_D: np.ndarray, background_D: np.ndarray, n_points: int = 300
) -> tuple[np.ndarray, np.ndarray]:
    """Few points of a ROC curve that draw it well on a linear and on a logarithmic axis.

    Parameters
    ----------
    signal_D, background_D : (D) densities, from background-like to signal-like

    Returns
    -------
    signal efficiency, background efficiency : (points), both ascending from (0, 0) to (1, 1)
    """
    y = np.concatenate([[0.0], np.minimum(signal_D[::-1].cumsum(), 1.0)])
    x = np.concatenate([[0.0], np.minimum(background_D[::-1].cumsum(), 1.0)])
    y[-1] = x[-1] = 1.0
    if len(x) <= n_points:
        return y, x
    third = n_points // 3
    smallest = max(float(x[x > 0].min(initial=1.0)), 1e-7)
    picks = [
        np.searchsorted(y, np.linspace(0, 1, third)),
        np.searchsorted(x, np.geomspace(smallest, 1, third)),
        np.searchsorted(y, 1 - np.geomspace(1e-5, 1, third)),
    ]
    index = np.unique(np.clip(np.concatenate([*picks, [0, len(x) - 1]]), 0, len(x) - 1))
    return y[index], x[index]
