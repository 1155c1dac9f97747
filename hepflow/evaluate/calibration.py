"""Are the probabilities right? Reliability curves and the expected calibration error, every class with the same weight."""

# N events, K classes, B bins of predicted probability

from dataclasses import dataclass
from typing import Any

import numpy as np

from hepflow.evaluate.metrics import CHUNK, bootstrap

BINS = 15


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
        """Mean prediction, observed share with its error, and share of events, of each bin that has any."""
        predicted_B, observed_B, share_B, error_B = self._bins(self.counts)
        filled = share_B > 0
        names = ("predicted", "observed", "error", "share")
        return {name: values[filled].tolist() for name, values in zip(names, (predicted_B, observed_B, error_B, share_B), strict=True)}

    def ece(self, counts_LB: np.ndarray | None = None) -> float:
        """Expected calibration error: mean distance between prediction and observation (Naeini et al. 2015; Guo et al. 2017)."""
        predicted_B, observed_B, share_B, _ = self._bins(self.counts if counts_LB is None else counts_LB)
        return float((share_B * np.abs(predicted_B - observed_B)).sum())

    def chance(self) -> float:
        """ECE that a perfectly calibrated model would show on as many events, by fluctuation alone."""
        _, _, share_B, error_B = self._bins(self.counts)
        return float(np.sqrt(2 / np.pi) * (share_B * error_B).sum())

    def to_dict(self, *, replicas: int, rng: np.random.Generator) -> dict[str, Any]:
        """As it stands in metrics.json."""
        spread = bootstrap(self.counts, lambda counts: np.array(self.ece(counts)), replicas=replicas, rng=rng)
        return {"ece": {"value": self.ece(), "error": float(spread.std())}, "ece_by_chance": self.chance(), **self.curve()}

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
        error_B = np.sqrt(np.maximum(observed_B * (1 - observed_B), 0) / np.maximum(effective_B, 1))
        return predicted_B, observed_B, share_B, error_B


def reliabilities(logits_NK: np.ndarray, label_N: np.ndarray) -> tuple[Reliability, list[Reliability]]:
    """Of the most probable class, and of each class's own probability.

    Parameters
    ----------
    logits_NK : (N, K)
    label_N : (N)
    """
    n_classes = logits_NK.shape[1]
    top = _Counter(n_classes)
    own = [_Counter(n_classes) for _ in range(n_classes)]
    for start in range(0, len(label_N), CHUNK):
        label = label_N[start : start + CHUNK].astype(np.int64)
        p_NK = softmax(logits_NK[start : start + CHUNK])
        best = logits_NK[start : start + CHUNK].argmax(axis=1)
        top.add(p_NK[np.arange(len(label)), best], label, best == label)
        for k, counter in enumerate(own):
            counter.add(p_NK[:, k], label, label == k)
    return top.result(), [counter.result() for counter in own]


def softmax(logits_NK: np.ndarray) -> np.ndarray:
    """(N, K) float64 probabilities."""
    shifted = np.exp(logits_NK.astype(np.float64) - logits_NK.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def score_histograms(logits_NK: np.ndarray, label_N: np.ndarray, bins: int = 50) -> np.ndarray:
    """(K, K, bins) int64 events by [class whose probability it is, true class, probability in equal bins of 0 to 1]."""
    n_classes = logits_NK.shape[1]
    counts = np.zeros((n_classes, n_classes * bins), dtype=np.int64)
    for start in range(0, len(label_N), CHUNK):
        label = label_N[start : start + CHUNK].astype(np.int64)
        p_NK = softmax(logits_NK[start : start + CHUNK])
        for k in range(n_classes):
            bin_N = np.minimum((p_NK[:, k] * bins).astype(np.int64), bins - 1)
            counts[k] += np.bincount(label * bins + bin_N, minlength=n_classes * bins)
    return counts.reshape(n_classes, n_classes, bins)


class _Counter:
    """Adds up chunks of events into a `Reliability`."""

    def __init__(self, n_classes: int) -> None:
        self.counts = np.zeros(2 * n_classes * BINS, dtype=np.int64)
        self.sums = np.zeros(n_classes * BINS)
        self.n_classes = n_classes

    def add(self, p_N: np.ndarray, label_N: np.ndarray, right_N: np.ndarray) -> None:
        bin_N = np.minimum((p_N * BINS).astype(np.int64), BINS - 1)
        row_N = label_N + self.n_classes * right_N
        self.counts += np.bincount(row_N * BINS + bin_N, minlength=self.counts.size)
        self.sums += np.bincount(label_N * BINS + bin_N, weights=p_N, minlength=self.sums.size)

    def result(self) -> Reliability:
        return Reliability(self.counts.reshape(-1, BINS), self.sums.reshape(-1, BINS))
