"""Scores and labels -> AUC, ROC, accuracy and confusion, each with its error.

Every class carries the same total weight, whatever its number of events, because the published
test sets are balanced: a number is a mean over each class first, then over the classes.

Why not scikit-learn: one AUC there sorts all events, and a bootstrap would sort them for each
replica. Here a discriminant is binned once (`spectrum`), and everything else is a function of the
bin counts: cumulative sums over at most 65,536 bins. A replica is a Poisson draw of the counts,
which has the same distribution as Poisson(1) weights on the events, so that its cost does not
depend on the number of events::

        counts_KD     bin of the discriminant, background-like -> signal-like
        background    9  7  4  2  1  0
        signal        0  1  2  4  7  9      threshold at bin d: everything from d on is selected
"""

# N events, K classes, D bins of a discriminant, R replicas

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

Labels = Sequence[int]
Statistic = Callable[[np.ndarray], np.ndarray | float]

FINE_BINS = 1 << 16
"""Bins of a discriminant with too many events to keep every score; an index fits in 16 bits."""
COARSE_BINS = 1 << 12  # equally populated bins for bootstrap errors
LOG_ODDS_LIMIT = 60.0  # log-odds beyond this (a probability of 1e-26) share the outermost bins
ROUNDING = 1e-4
"""Largest difference, absolute or relative, between the scores of one event in two programs."""
CHUNK = 1 << 19  # events per step where a temporary array of all would be large


class Measurement(NamedTuple):
    """A number and its standard error."""

    value: float
    error: float


@dataclass(frozen=True)
class Spectrum:
    """Events per class in bins of a discriminant, from background-like to signal-like."""

    counts: np.ndarray
    """(K, D) int64"""
    floor: np.ndarray
    """(D) float64: the smallest score in the bin; ``score >= floor`` selects it and all above"""
    exact: bool = False
    """Whether a bin is a single score."""

    def threshold(self, chosen: int) -> float:
        """Return a cut that selects a bin and all above it.

        Other programs round scores differently, so the cut lies below the score of the bin, by up
        to half of the way to the next score. Bins of equal width have no such gap.
        """
        floor = float(self.floor[chosen])
        if not self.exact:
            return floor
        below = float(self.floor[chosen - 1]) if chosen else -np.inf
        return floor - min(ROUNDING * max(1.0, abs(floor)), (floor - below) / 2)

    def coarse(self, bins: int = COARSE_BINS) -> "Spectrum":
        """Join neighbouring bins into about ``bins`` equally populated ones, if there are more."""
        if self.counts.shape[1] <= bins:
            return self
        share = density(self.counts, range(len(self.counts))).cumsum()
        group = np.minimum((share * bins).astype(np.int64), bins - 1)
        first = np.flatnonzero(np.diff(group, prepend=-1))
        return Spectrum(np.add.reduceat(self.counts, first, axis=1), self.floor[first])

    def histogram(self, bins: int = 50, tail: float = 1e-3) -> tuple[np.ndarray, np.ndarray]:
        """Return (bins + 1) equidistant edges without the tails, and (K, bins) counts with them."""
        share = density(self.counts, range(len(self.counts))).cumsum()
        low, high = self.floor[np.searchsorted(share, [tail, 1 - tail]).clip(max=len(share) - 1)]
        edges = np.linspace(low, high if high > low else low + 1, bins + 1)
        bin_D = np.clip(np.searchsorted(edges, self.floor, side="right") - 1, 0, bins - 1)
        counts = [np.bincount(bin_D, weights=own, minlength=bins) for own in self.counts]
        return edges, np.stack(counts)


def density(counts_KD: np.ndarray, classes: Labels) -> np.ndarray:
    """Return (D) the share of events in each bin, averaged over the classes."""
    chosen = counts_KD[list(classes)]
    totals = np.maximum(chosen.sum(axis=1, keepdims=True), 1)  # a replica may have no events
    return (chosen / totals).mean(axis=0)


def log_odds(logits_NK: np.ndarray, signal: Labels, background: Labels) -> np.ndarray:
    """Return (N) the logarithm of P(signal classes) / P(background classes).

    Every discriminant of the report has this form: a class against the rest, a class against
    another, ttbar or W against QCD. It orders events as the probability does, but does not
    saturate at 1.
    """

    def log_sum_exp(x_KN: np.ndarray) -> np.ndarray:
        if len(x_KN) == 1:
            return x_KN[0]
        top_N = x_KN.max(axis=0)
        return top_N + np.log(np.exp(x_KN - top_N).sum(axis=0))

    score_N = np.empty(len(logits_NK))
    for start in range(0, len(logits_NK), CHUNK):
        rows = slice(start, start + CHUNK)
        x_KN = logits_NK[rows].T.astype(np.float64, order="C")
        score_N[rows] = log_sum_exp(x_KN[list(signal)]) - log_sum_exp(x_KN[list(background)])
    return score_N


def spectrum(
    score_N: np.ndarray, label_N: np.ndarray, n_classes: int, *, exact_below: int
) -> tuple[Spectrum, np.ndarray]:
    """Count the events of each class in bins of a finite score; also return the bin of each, (N).

    Up to ``exact_below`` events, every distinct score is a bin of its own, and all results are
    exact; above, there are `FINE_BINS` bins of equal width.
    """
    exact = len(score_N) <= exact_below
    if exact:
        floor_D, bin_N = np.unique(score_N, return_inverse=True)
    else:
        least = score_N.min()
        low, high = np.clip([least, score_N.max()], -LOG_ODDS_LIMIT, LOG_ODDS_LIMIT).tolist()
        width = (high - low) / FINE_BINS or 1.0
        bin_N = np.empty(len(score_N), dtype=np.uint16)
        for start in range(0, len(score_N), CHUNK):
            rows = slice(start, start + CHUNK)
            bin_N[rows] = np.clip((score_N[rows] - low) / width, 0, FINE_BINS - 1)
        floor_D = low + width * np.arange(FINE_BINS)
        floor_D[0] = least  # includes scores below the limit
    counts_KD = np.zeros((n_classes, len(floor_D)), dtype=np.int64)
    for start in range(0, len(score_N), CHUNK):
        rows = slice(start, start + CHUNK)
        flat = label_N[rows].astype(np.int64) * len(floor_D) + bin_N[rows]
        counts_KD += np.bincount(flat, minlength=counts_KD.size).reshape(counts_KD.shape)
    return Spectrum(counts_KD, floor_D, exact), bin_N


def auc(counts_KD: np.ndarray, signal: Labels, background: Labels) -> float:
    """Return the probability that signal scores above background, ties half (Mann-Whitney).

    Each pair of classes counts the same.
    """
    won = 0.0
    for below in background:
        # Twice the events below, so that half a tie is whole: a sum of floats would depend, in its
        # last digit, on the processor.
        below_D = 2 * counts_KD[below].cumsum() - counts_KD[below]
        for above in signal:
            n_pairs = int(counts_KD[above].sum()) * int(counts_KD[below].sum())
            won += int(counts_KD[above] @ below_D) / max(1, 2 * n_pairs)
    return won / (len(signal) * len(background))


def auc_error(counts_KD: np.ndarray, signal: Labels, background: Labels) -> float:
    """Return the standard error of `auc` (DeLong et al. 1988), without random numbers."""
    placed_KD = placements(counts_KD, signal, background)
    variance = 0.0
    for side in (signal, background):
        for label in side:
            own_D, n = counts_KD[label], int(counts_KD[label].sum())
            if n > 1:
                spread = own_D @ (placed_KD[label] - own_D @ placed_KD[label] / n) ** 2 / (n - 1)
                variance += float(spread) / n / len(side) ** 2
    return float(np.sqrt(variance))


def placements(counts_KD: np.ndarray, signal: Labels, background: Labels) -> np.ndarray:
    """Return (K, D) the share of the other side that an event in the bin is ordered correctly with.

    For a signal event that is the background below it, for a background event the signal above it;
    ties count half.
    """
    below_D, above_D = density(counts_KD, background), density(counts_KD, signal)
    table_KD = np.zeros(counts_KD.shape)
    table_KD[list(signal)] = below_D.cumsum() - below_D / 2
    table_KD[list(background)] = 1 - (above_D.cumsum() - above_D / 2)
    return table_KD


def efficiencies(counts_KD: np.ndarray) -> np.ndarray:
    """Return (K, D) the share of each class at or above the floor of each bin."""
    totals = np.maximum(counts_KD.sum(axis=1, keepdims=True), 1)
    return counts_KD[:, ::-1].cumsum(axis=1)[:, ::-1] / totals


def bootstrap(
    counts_KD: np.ndarray, statistic: Statistic, *, replicas: int, rng: np.random.Generator
) -> np.ndarray:
    """Return (R, ...) a statistic of replicas: its spread is the error of the test sample alone."""
    filled = counts_KD > 0
    expected = counts_KD[filled].astype(np.float64)
    drawn = np.zeros_like(counts_KD)
    values = []
    for _ in range(replicas):
        drawn[filled] = rng.poisson(expected)
        values.append(statistic(drawn))
    return np.asarray(values)


def predicted(logits_NK: np.ndarray) -> np.ndarray:
    """Return (N) int8 the class of the largest logit, the first of equal ones."""
    best_N, top_N = np.zeros(len(logits_NK), dtype=np.int8), logits_NK[:, 0]
    for label in range(1, logits_NK.shape[1]):  # several times as fast as argmax over 3 columns
        best_N = np.where(logits_NK[:, label] > top_N, np.int8(label), best_N)
        top_N = np.maximum(logits_NK[:, label], top_N)
    return best_N


def confusion(predicted_N: np.ndarray, label_N: np.ndarray, n_classes: int) -> np.ndarray:
    """Return (K, K) int64 counts: row = true class, column = predicted class."""
    flat_N = label_N.astype(np.int64) * n_classes + predicted_N
    return np.bincount(flat_N, minlength=n_classes**2).reshape(n_classes, n_classes)


def confusion_shares(confusion_KK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (K, K) the shares of each true class, and their binomial errors."""
    totals = confusion_KK.sum(axis=1, keepdims=True)
    return confusion_KK / totals, binomial_error(confusion_KK, totals)


def balanced_accuracy(confusion_KK: np.ndarray) -> Measurement:
    """Return the share of correctly classified events, averaged over the classes."""
    share_K, error_K = (np.diag(table_KK) for table_KK in confusion_shares(confusion_KK))
    error = float(np.sqrt((error_K**2).sum()) / len(error_K))
    return Measurement(float(share_K.mean()), error)


def binomial_error(passed: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Return half of Wilson's 68 % interval; unlike sqrt(p(1-p)/n) it is not zero at p = 0 or 1."""
    low, high = wilson(passed, total)
    return (high - low) / 2


def wilson(passed: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Return (2, ...) the ends of the 68 % interval of passed / total (Wilson 1927), in [0, 1]."""
    n = np.maximum(total, 1)
    p = passed / n
    middle = (p + 1 / (2 * n)) / (1 + 1 / n)
    half = np.sqrt(p * (1 - p) / n + 1 / (4 * n**2)) / (1 + 1 / n)
    return np.stack([np.clip(middle - half, 0, p), np.clip(middle + half, p, 1)])


def roc_points(
    counts_KD: np.ndarray, signal: Labels, background: Labels, n_points: int = 300
) -> tuple[np.ndarray, np.ndarray]:
    """Return (points) signal and background efficiency, from (0, 0) to (1, 1).

    A third of the points each is equidistant in signal efficiency, in the logarithm of background
    efficiency, and in the logarithm of signal inefficiency, so that few points draw the curve well
    on a linear and on a logarithmic axis.
    """
    passing = (density(counts_KD, side)[::-1].cumsum() for side in (signal, background))
    y, x = (np.concatenate([[0.0], np.minimum(share, 1.0)]) for share in passing)
    y[-1] = x[-1] = 1.0
    if len(x) <= n_points:
        return y, x
    third = n_points // 3
    smallest = max(float(x[x > 0].min()), 1e-7)
    picks = [
        np.searchsorted(y, np.linspace(0, 1, third)),
        np.searchsorted(x, np.geomspace(smallest, 1, third)),
        np.searchsorted(y, 1 - np.geomspace(1e-5, 1, third)),
    ]
    index = np.unique(np.concatenate([*picks, [len(x) - 1]]))
    return y[index], x[index]
