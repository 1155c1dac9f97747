"""Are two samples of a quantity from one distribution? Kolmogorov and Smirnov, AUC, means, ratios.

A sample is counted per distinct value, so that ties of counts such as numbers of jets are exact::

    counts_2D    events per value, from the smallest value to the largest
    first        0  3  9  5  1
    second       1  6  7  3  0

The level of a distance is that of continuous quantities. For counts, chance reaches a distance more
rarely than that, so a verdict of "different" errs on the safe side.
"""

# N events, D distinct values, B bins

import math
from functools import cache

import numpy as np

from hepflow.statistics import metrics
from hepflow.statistics.metrics import Measurement

LEVEL = 0.05
"""Probability with which two samples of one distribution reach the threshold."""
EXACT_BELOW = 10_000
"""Events of both samples together up to which the threshold is exact; above, the limit for large
samples differs from it by less than 0.5 %."""
_PRECISION = 1e-5  # relative, of an exact threshold; it is rounded up


def count(first_N: np.ndarray, second_N: np.ndarray) -> np.ndarray:
    """Return (2, D) int64, the events of two samples per distinct value."""
    value_N = np.concatenate([first_N, second_N])
    label_N = np.repeat([0, 1], [len(first_N), len(second_N)])
    spectrum, _ = metrics.spectrum(value_N, label_N, 2, exact_below=len(value_N))
    return spectrum.counts


def ks_distance(counts_2D: np.ndarray) -> float:
    """Return the largest distance of the two cumulative distributions."""
    first_D, second_D = counts_2D.cumsum(axis=1)
    n, m = int(first_D[-1]), int(second_D[-1])
    return int(np.abs(first_D * m - second_D * n).max()) / (n * m)


@cache
def ks_threshold(n: int, m: int, level: float = LEVEL) -> float:
    """Return the smallest distance that samples of n and m events reach by chance at the level.

    Two samples of one continuous distribution reach it with a probability of at most ``level``, and
    the next smaller distance with a larger one.
    """
    about = math.sqrt(-math.log(level / 2) / 2 * (1 / n + 1 / m))
    if n + m > EXACT_BELOW:
        return min(about, 1.0)
    step = math.gcd(n, m)  # distances are multiples of step / nm
    low, high = (int(share * about * n * m / step) for share in (0.8, 1.1))
    while low and _reached(low * step, n, m) <= level:
        low //= 2
    while _reached(high * step, n, m) > level:
        high = 2 * high + 1
    while high - low > max(1, int(_PRECISION * high)):
        middle = (low + high) // 2
        low, high = (low, middle) if _reached(middle * step, n, m) <= level else (middle, high)
    return high * step / (n * m)


def _reached(t: int, n: int, m: int) -> float:
    """Return the probability that the distance is at least t / nm.

    The merged and sorted samples are a path from (0, 0) to (n, m), a step to the right for an event
    of the first and upwards for one of the second; all paths are equally probable. The distance is
    below t / nm if the path stays in a band around the diagonal. So the probability to have stayed
    there is propagated from one antidiagonal, i + j = s, to the next::

        j |     /  . (n, m)        stay[i] at (i, s - i) is  i / s       of stay[i - 1]
          |   / . /                                      and (s - i) / s of stay[i]
          | / . /
          +------- i               before, as the last of s events is of the first in i / s
    """
    stay = np.zeros(n + 2)  # of i - 1
    stay[1] = 1.0
    start = 0
    for s in range(1, n + m + 1):
        low = max(0, s - m, (s * n - t) // (n + m) + 1)
        high = min(n, s, -((-s * n - t) // (n + m)) - 1)
        if low > high:
            return 1.0
        i = np.arange(low, high + 1)
        from_left, from_below = stay[low : high + 1] * i, stay[low + 1 : high + 2] * (s - i)
        stay[low + 1 : high + 2] = (from_left + from_below) / s
        stay[start : low + 1] = 0.0
        start = low
    return 1.0 - float(stay[n + 1])


def auc(counts_2D: np.ndarray) -> Measurement:
    """Return the probability that an event of the first has the larger value; ties count half."""
    area = metrics.auc(counts_2D, [0], [1])
    return Measurement(area, metrics.auc_error(counts_2D, [0], [1]))


def mean(value_N: np.ndarray) -> Measurement:
    """Return the mean and its standard error."""
    wide_N = value_N.astype(np.float64)
    return Measurement(float(wide_N.mean()), float(wide_N.std(ddof=1) / math.sqrt(len(wide_N))))


def over(first: Measurement, second: Measurement) -> Measurement | None:
    """Return first / second with its error; None for a second that is 0 within two errors."""
    if abs(second.value) <= 2 * second.error or second.value == 0:
        return None
    ratio = first.value / second.value
    spread = math.hypot(first.error, ratio * second.error) / abs(second.value)
    return Measurement(ratio, spread)


def bin_ratios(first_B: np.ndarray, second_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (B) the ratio of the shares of events in bins, and its error; NaN for empty bins."""
    n, m = first_B.sum(), second_B.sum()
    filled = (first_B > 0) & (second_B > 0)
    a, b = np.where(filled, first_B, np.nan), np.where(filled, second_B, np.nan)
    ratio_B = (a / n) / (b / m)
    return ratio_B, ratio_B * np.sqrt(1 / a - 1 / n + 1 / b - 1 / m)


def edges(value_N: np.ndarray, bins: int = 24, tail: float = 0.005) -> np.ndarray:
    """Return edges of equal bins without the tails; integers get bins of whole numbers."""
    low, high = np.quantile(value_N.astype(np.float64), [tail, 1 - tail]).tolist()
    if np.array_equal(value_N, np.round(value_N)):
        first, last = math.floor(low), math.ceil(high)
        width = math.ceil((last - first + 1) / bins)
        return first - 0.5 + width * np.arange(math.ceil((last - first + 1) / width) + 1)
    return np.linspace(low, high if high > low else low + 1, bins + 1)


def histogram(value_N: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return (B) int64 events per bin; the outermost ones include those beyond the edges."""
    bins = len(edges) - 1
    bin_N = np.clip(np.searchsorted(edges, value_N, side="right") - 1, 0, bins - 1)
    return np.bincount(bin_N, minlength=bins)
