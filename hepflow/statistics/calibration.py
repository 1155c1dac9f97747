"""Are the probabilities right? Reliability curves and the expected calibration error, every class with the same weight."""

# N events, K classes, B bins of predicted probability

from dataclasses import dataclass
from typing import Any

import numpy as np

from hepflow.data.predictions import softmax
from hepflow.statistics.metrics import CHUNK, bootstrap, wilson

BINS = 15
"""Of the expected calibration error."""
LEAST_EVENTS = 25
"""Of a point of a reliability curve, as if all had the same weight: fewer would make it zigzag by chance."""
SCORE_BINS = 50
FINE = 150
"""A multiple of both."""


@dataclass(frozen=True)
class Reliability:
    """Events by predicted probability: how many there are, how many were right, what was predicted on average."""

    counts: np.ndarray
    """(2K, B) int64: events of true class k in row k where the prediction was wrong, and in row K + k where it was right"""
    sums: np.ndarray
    """(K, B) sum of the predicted probabilities, by true class"""

    @property
    def n_classes(self) -> int:
        """Classes."""
        return len(self.sums)

    def curve(self) -> dict[str, list[float]]:
        """Mean prediction, observed share with its interval, and share of events; a point is of as many bins as have events enough."""
        starts = self._starts()
        joined = Reliability(
            np.add.reduceat(self.counts, starts, axis=1), np.add.reduceat(self.sums, starts, axis=1)
        )
        predicted_B, observed_B, share_B, effective_B = joined._bins(joined.counts)
        low_B, high_B = wilson(observed_B * effective_B, effective_B)
        columns = {
            "predicted": predicted_B,
            "observed": observed_B,
            "error": (high_B - low_B) / 2,
            "low": low_B,
            "high": high_B,
        }
        return {name: values.tolist() for name, values in {**columns, "share": share_B}.items()}

    def ece(self, counts_LB: np.ndarray | None = None) -> float:
        """Expected calibration error: mean distance between prediction and observation (Naeini et al. 2015; Guo et al. 2017)."""
        predicted_B, observed_B, share_B, _ = self._bins(
            self.counts if counts_LB is None else counts_LB
        )
        return float((share_B * np.abs(predicted_B - observed_B)).sum())

    def chance(self) -> float:
        """ECE that a perfectly calibrated model would show on as many events, by fluctuation alone."""
        predicted_B, _, share_B, effective_B = self._bins(self.counts)
        spread_B = np.sqrt(predicted_B * (1 - predicted_B) / np.maximum(effective_B, 1))
        return float(np.sqrt(2 / np.pi) * (share_B * spread_B).sum())

    def to_dict(self, *, replicas: int, rng: np.random.Generator) -> dict[str, Any]:
        """As it stands in metrics.json."""
        spread = bootstrap(
            self.counts, lambda counts: np.array(self.ece(counts)), replicas=replicas, rng=rng
        )
        return {
            "ece": {"value": self.ece(), "error": float(spread.std())},
            "ece_by_chance": self.chance(),
            **self.curve(),
        }

    def _starts(self) -> list[int]:
        """First bin of each point of the curve, from 0; what is left at the end goes to the last one."""
        _, _, share_B, effective_B = self._bins(self.counts)
        square_B = share_B**2 / np.maximum(
            effective_B, 1e-300
        )  # the sum of the squares of the weights
        starts, share, square = [0], 0.0, 0.0
        for number, (more, more_square) in enumerate(zip(share_B, square_B, strict=True), start=1):
            share, square = share + more, square + more_square
            if share**2 >= LEAST_EVENTS * square > 0:
                starts, share, square = [*starts, number], 0.0, 0.0
        return starts[:-1] or starts

    def _bins(self, counts_LB: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        wrong_KB, right_KB = counts_LB[: self.n_classes], counts_LB[self.n_classes :]
        all_KB = wrong_KB + right_KB
        weight_K1 = 1 / np.maximum(all_KB.sum(axis=1, keepdims=True), 1) / self.n_classes
        share_B = (weight_K1 * all_KB).sum(axis=0)
        safe_B = np.maximum(share_B, 1e-300)
        original_KB = self.counts[: self.n_classes] + self.counts[self.n_classes :]
        mean_KB = self.sums / np.maximum(original_KB, 1)
        predicted_B = (weight_K1 * all_KB * mean_KB).sum(axis=0) / safe_B
        observed_B = (weight_K1 * right_KB).sum(axis=0) / safe_B
        effective_B = share_B**2 / np.maximum((weight_K1**2 * all_KB).sum(axis=0), 1e-300)
        return predicted_B, np.minimum(observed_B, 1.0), share_B, effective_B


@dataclass(frozen=True)
class Probabilities:
    """All that is counted of a model's probabilities, in one pass over the events."""

    top: Reliability
    """Of the most probable class."""
    own: tuple[Reliability, ...]
    """Of each class's own probability."""
    histograms: np.ndarray
    """(K, K, `SCORE_BINS`) int64 events by [class whose probability it is, true class, probability in equal bins of 0 to 1]"""


def count(logits_NK: np.ndarray, label_N: np.ndarray, predicted_N: np.ndarray) -> Probabilities:
    """Count events by their probabilities.

    Parameters
    ----------
    logits_NK : (N, K)
    label_N, predicted_N : (N)
    """
    n_classes = logits_NK.shape[1]
    top = _Counter(n_classes)
    own = [_Counter(n_classes) for _ in range(n_classes)]
    for start in range(0, len(label_N), CHUNK):
        rows = slice(start, start + CHUNK)
        label, best = label_N[rows].astype(np.int64), predicted_N[rows]
        p_KN = softmax(logits_NK[rows]).T
        top.add(p_KN.max(axis=0), label, best == label)
        for k, counter in enumerate(own):
            counter.add(p_KN[k], label, label == k)
    return Probabilities(
        top.result(),
        tuple(counter.result() for counter in own),
        np.stack([counter.histogram() for counter in own]),
    )


class _Counter:
    """Adds up chunks of events, in bins so fine that those of both results are made of whole ones."""

    def __init__(self, n_classes: int) -> None:
        self.counts = np.zeros(2 * n_classes * FINE, dtype=np.int64)
        self.sums = np.zeros(n_classes * FINE)
        self.n_classes = n_classes

    def add(self, p_N: np.ndarray, label_N: np.ndarray, right_N: np.ndarray) -> None:
        bin_N = np.minimum((p_N * FINE).astype(np.int64), FINE - 1)
        bin_N += label_N * FINE
        self.sums += np.bincount(bin_N, weights=p_N, minlength=self.sums.size)
        bin_N += right_N * (self.n_classes * FINE)
        self.counts += np.bincount(bin_N, minlength=self.counts.size)

    def result(self) -> Reliability:
        return Reliability(
            _joined(self.counts, BINS).reshape(-1, BINS), _joined(self.sums, BINS).reshape(-1, BINS)
        )

    def histogram(self) -> np.ndarray:
        wrong, right = _joined(self.counts, SCORE_BINS).reshape(2, self.n_classes, SCORE_BINS)
        return np.asarray(wrong + right)


def _joined(fine: np.ndarray, bins: int) -> np.ndarray:
    """Sums over the fine bins of each of the ``bins``."""
    return fine.reshape(-1, FINE // bins).sum(axis=1)
