"""Spread of the training events' high-level features, kept in the model file, and drift from it.

The distance per feature is the population stability index, the sum over bins of
``(p - q) ln(p / q)``: a common rule reads below 0.1 as no change and above 0.2 as a change.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hepflow.data.store import EventStore

BINS = 10
MOST_EVENTS = 100_000  # per class that are read: more would not change the quantiles
_SIGMAS = 4.0


@dataclass(frozen=True)
class Spread:
    """Histograms of the features per class, in bins that hold equally many training events."""

    edges: tuple[np.ndarray, ...]  # (bins - 1) inner edges per feature; a bin begins at its edge
    share: tuple[np.ndarray, ...]  # (classes, bins) per feature; fractions of a class add up to 1
    counts: np.ndarray  # (classes) events in the histograms

    @classmethod
    def of(cls, hlf_by_class: Sequence[np.ndarray]) -> "Spread":
        """Return the spread of (events, features) per class."""
        edges = tuple(_edges(column) for column in np.concatenate(hlf_by_class).T)
        share = tuple(
            np.array([_count(hlf[:, i], inner) / max(len(hlf), 1) for hlf in hlf_by_class])
            for i, inner in enumerate(edges)
        )
        return cls(edges, share, np.array([len(hlf) for hlf in hlf_by_class]))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Spread":
        """Invert `to_dict`; a ValueError or a TypeError, if it is of something else."""
        edges = tuple(np.asarray(one, np.float64) for one in data["edges"])
        share = tuple(np.asarray(one, np.float64) for one in data["share"])
        counts = np.asarray(data["counts"], np.int64)
        for inner, fractions in zip(edges, share, strict=True):
            if inner.ndim != 1 or fractions.shape != (len(counts), len(inner) + 1):
                raise ValueError(f"shares {fractions.shape} in bins between {inner.shape}")
        return cls(edges, share, counts)

    def to_dict(self) -> dict[str, Any]:
        """Return plain types, for JSON."""
        edges, share = ([a.tolist() for a in arrays] for arrays in (self.edges, self.share))
        return {"edges": edges, "share": share, "counts": self.counts.tolist()}

    def count(self, hlf: np.ndarray) -> list[np.ndarray]:
        """Return a histogram per feature of (events, features); those of several chunks add up."""
        return [_count(column, inner) for column, inner in zip(hlf.T, self.edges, strict=True)]

    def distance(
        self, histograms: Iterable[np.ndarray], mix_K: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the index of each feature in histograms of `count`, and its size by chance alone.

        By chance: mean plus four standard deviations for as many events of the expected
        composition ``mix_K``, by default that of the training events.
        """
        weight_K = self.counts if mix_K is None else mix_K
        weight_K = weight_K / weight_K.sum()
        found = zip(histograms, self.share, strict=True)
        rows = [_index(n, weight_K @ share, int(self.counts.sum())) for n, share in found]
        psi, by_chance = np.array(rows).T
        return psi, by_chance


def spread_of(store: EventStore) -> Spread:
    """Return the spread of a store's training split."""
    hlf_by_class = []
    for name in store.spec.classes:
        hlf = [np.empty((0, len(store.spec.hlf)), dtype=np.float32)]
        for rows in store.ranges("train", name):
            if sum(map(len, hlf)) < MOST_EVENTS:
                hlf.append(store.read(rows, particles=False).hlf)
        hlf_by_class.append(np.concatenate(hlf))
    return Spread.of(hlf_by_class)


def _edges(values: np.ndarray) -> np.ndarray:
    """Return inner edges: between the values of a feature with few of them, else its quantiles."""
    distinct = np.unique(values)
    if len(distinct) <= BINS:
        return distinct[1:].astype(np.float64)
    return np.unique(np.quantile(values, np.arange(1, BINS) / BINS).astype(np.float64))


def _count(values: np.ndarray, inner: np.ndarray) -> np.ndarray:
    return np.bincount(np.searchsorted(inner, values, side="right"), minlength=len(inner) + 1)


def _index(found: np.ndarray, expected: np.ndarray, n_expected: int) -> tuple[float, float]:
    n, bins = found.sum(), len(found)
    if n == 0 or bins < 2:
        return 0.0, 0.0
    # half an event per bin keeps the distance of an empty one finite
    p = (found + 0.5) / (n + 0.5 * bins)
    q = (expected * n_expected + 0.5) / (n_expected + 0.5 * bins)
    # without a change, n times the index follows a chi squared of bins - 1 degrees of freedom
    chance = (bins - 1 + _SIGMAS * np.sqrt(2 * (bins - 1))) * (1 / n + 1 / n_expected)
    return float(((p - q) * np.log(p / q)).sum()), float(chance)
