"""Are the probabilities right? Reliability curves and the expected calibration error (ECE).

Events are counted in bins of predicted probability. In a calibrated model, 70 % of the events that
get a probability of 0.7 for a class are of that class. Every class has the same total weight, so
that neither number depends on how many events of each were simulated; libraries weigh events
equally.
"""

# N events, K classes, B bins of predicted probability

from dataclasses import dataclass
from typing import Any

import numpy as np

from hepflow.data.predictions import softmax
from hepflow.statistics.metrics import CHUNK, bootstrap, wilson

BINS = 15  # bins of the expected calibration error
LEAST_EVENTS = 25
"""Effective number of events per point of a reliability curve; fewer would make it zigzag."""
SCORE_BINS = 50  # bins of the histograms of probabilities
FINE = 150  # bins in which events are counted: a multiple of both, so that one pass serves both


@dataclass(frozen=True)
class Reliability:
    """Events by predicted probability: their number, how many are right, the mean prediction."""

    counts: np.ndarray
    """(2K, B) int64: events of true class k in row k if the prediction is wrong, K + k if right"""
    sums: np.ndarray
    """(K, B) sum of the predicted probabilities, by true class"""

    def curve(self) -> dict[str, list[float]]:
        """Return the mean prediction, observed share with its interval, and share of events.

        Neighbouring bins are joined into points of at least `LEAST_EVENTS` effective events.
        """
        _, _, share_B, effective_B = self._bins(self.counts)
        squares_B = share_B**2 / np.maximum(effective_B, 1e-300)  # sum of the squared weights
        starts, total, squares = [0], 0.0, 0.0
        for end, (share, square) in enumerate(zip(share_B, squares_B, strict=True), start=1):
            total, squares = total + share, squares + square
            if total**2 >= LEAST_EVENTS * squares > 0:
                starts.append(end)
                total, squares = 0.0, 0.0
        starts = starts[:-1] or starts  # the bins after the last full point are joined to it
        merged = (np.add.reduceat(a, starts, axis=1) for a in (self.counts, self.sums))
        joined = Reliability(*merged)
        predicted_B, observed_B, share_B, effective_B = joined._bins(joined.counts)
        low_B, high_B = wilson(observed_B * effective_B, effective_B)
        columns = {"predicted": predicted_B, "observed": observed_B, "error": (high_B - low_B) / 2}
        columns |= {"low": low_B, "high": high_B, "share": share_B}
        return {name: values.tolist() for name, values in columns.items()}

    def ece(self, counts_LB: np.ndarray | None = None) -> float:
        """Return the mean distance between prediction and observation (Naeini 2015, Guo 2017)."""
        counts_LB = self.counts if counts_LB is None else counts_LB
        predicted_B, observed_B, share_B, _ = self._bins(counts_LB)
        return float((share_B * np.abs(predicted_B - observed_B)).sum())

    def chance(self) -> float:
        """Return the ECE of a perfectly calibrated model on as many events, from fluctuations."""
        predicted_B, _, share_B, effective_B = self._bins(self.counts)
        spread_B = np.sqrt(predicted_B * (1 - predicted_B) / np.maximum(effective_B, 1))
        return float(np.sqrt(2 / np.pi) * (share_B * spread_B).sum())

    def to_dict(self, *, replicas: int, rng: np.random.Generator) -> dict[str, Any]:
        """Return the entry of metrics.json."""
        spread_R = bootstrap(self.counts, self.ece, replicas=replicas, rng=rng)
        ece = {"value": self.ece(), "error": float(spread_R.std())}
        return {"ece": ece, "ece_by_chance": self.chance(), **self.curve()}

    def _bins(self, counts_LB: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return (B) mean prediction, observed share, share of events, effective events."""
        wrong_KB, right_KB = np.split(counts_LB, 2)
        all_KB = wrong_KB + right_KB
        weight_K1 = 1 / np.maximum(all_KB.sum(axis=1, keepdims=True), 1) / len(all_KB)
        share_B = (weight_K1 * all_KB).sum(axis=0)
        safe_B = np.maximum(share_B, 1e-300)
        mean_KB = self.sums / np.maximum(sum(np.split(self.counts, 2)), 1)
        predicted_B = (weight_K1 * all_KB * mean_KB).sum(axis=0) / safe_B
        observed_B = (weight_K1 * right_KB).sum(axis=0) / safe_B
        effective_B = share_B**2 / np.maximum((weight_K1**2 * all_KB).sum(axis=0), 1e-300)
        return predicted_B, observed_B, share_B, effective_B


@dataclass(frozen=True)
class Probabilities:
    """Counts of a model's probabilities, from one pass over the events."""

    top: Reliability
    """Calibration of the probability of the predicted class."""
    own: tuple[Reliability, ...]
    """Calibration of the probability of each class."""
    histograms: np.ndarray
    """(K, K, `SCORE_BINS`) int64: [class of the probability, true class, bin of [0, 1]]"""


def count(logits_NK: np.ndarray, label_N: np.ndarray, predicted_N: np.ndarray) -> Probabilities:
    """Count events by their probabilities."""
    n_classes = logits_NK.shape[1]
    # The most probable class first, then each class: [wrong or right, true class, fine bin].
    counts = np.zeros((n_classes + 1, 2 * n_classes * FINE), dtype=np.int64)
    sums = np.zeros((n_classes + 1, n_classes * FINE))

    def add(row: int, p_N: np.ndarray, label_N: np.ndarray, right_N: np.ndarray) -> None:
        bin_N = np.minimum((p_N * FINE).astype(np.int64), FINE - 1)
        bin_N += label_N * FINE
        sums[row] += np.bincount(bin_N, weights=p_N, minlength=sums.shape[1])
        bin_N += right_N * (n_classes * FINE)
        counts[row] += np.bincount(bin_N, minlength=counts.shape[1])

    for start in range(0, len(label_N), CHUNK):
        rows = slice(start, start + CHUNK)
        label, best = label_N[rows].astype(np.int64), predicted_N[rows]
        p_KN = softmax(logits_NK[rows]).T
        add(0, p_KN.max(axis=0), label, best == label)
        for k in range(n_classes):
            add(k + 1, p_KN[k], label, label == k)

    def joined(fine: np.ndarray, bins: int) -> np.ndarray:
        return fine.reshape(len(fine), -1, bins, FINE // bins).sum(axis=3)

    top, *own = map(Reliability, joined(counts, BINS), joined(sums, BINS))
    wrong, right = np.split(joined(counts[1:], SCORE_BINS), 2, axis=1)
    return Probabilities(top, tuple(own), wrong + right)
