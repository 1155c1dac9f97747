"""How the high-level features of the training events are spread, in a few numbers that travel with the model, and how far others are.

The distance is the population stability index, the sum over bins of (p - q) ln(p / q): below 0.1 nothing has happened, above 0.2
something has. It is asked of each feature alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hepflow.data.store import EventStore

BINS = 10
MOST_EVENTS = 100_000
"""Events of a class that are looked at: quantiles of more would not differ."""
_SIGMAS = 4.0


@dataclass(frozen=True)
class Spread:
    """Histograms of the features, a class each, in bins that hold equally many training events."""

    edges: tuple[np.ndarray, ...]
    """Feature -> (bins - 1) inner edges; a bin begins at its edge."""
    share: tuple[np.ndarray, ...]
    """Feature -> (classes, bins) of the events of a class, adding up to 1."""
    counts: np.ndarray
    """(classes) events that they were made of."""

    @classmethod
    def of(cls, hlf_by_class: Sequence[np.ndarray]) -> "Spread":
        """From (events, features) of each class."""
        together = np.concatenate(hlf_by_class)
        edges = tuple(_edges(column) for column in together.T)
        counts = np.array([len(hlf) for hlf in hlf_by_class])
        share = [
            [_count(hlf[:, i], inner) / max(len(hlf), 1) for hlf in hlf_by_class]
            for i, inner in enumerate(edges)
        ]
        return cls(edges, tuple(np.array(rows) for rows in share), counts)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Spread":
        """Inverse of `to_dict`."""
        edges, share = (
            tuple(np.asarray(values, dtype=np.float64) for values in data[key])
            for key in ("edges", "share")
        )
        return cls(edges, share, np.asarray(data["counts"]))

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {
            "edges": _lists(self.edges),
            "share": _lists(self.share),
            "counts": self.counts.tolist(),
        }

    def count(self, hlf: np.ndarray) -> list[np.ndarray]:
        """Histogram of each feature of (events, features); histograms of several chunks add up."""
        return [_count(column, inner) for column, inner in zip(hlf.T, self.edges, strict=True)]

    def distance(
        self, histograms: Iterable[np.ndarray], mix_K: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Of each feature: the index, and how large chance alone makes it.

        Parameters
        ----------
        histograms : of `count`
        mix_K : (classes) or None
            Composition to expect; None: that of the training events.

        Returns
        -------
        psi, by_chance : (features) float64
            The second is the mean and four standard deviations of what as many events of the same kind would give.
        """
        weight_K = self.counts if mix_K is None else mix_K
        weight_K = weight_K / weight_K.sum()
        rows = [
            _index(found, weight_K @ share, int(self.counts.sum()))
            for found, share in zip(histograms, self.share, strict=True)
        ]
        psi, by_chance = np.array(rows).T
        return psi, by_chance


def spread_of(store: EventStore) -> Spread:
    """The spread of a store's training split."""
    return Spread.of([_hlf(store, name) for name in store.spec.classes])


def _hlf(store: EventStore, class_name: str) -> np.ndarray:
    parts, held, blocks = store.parts("train", class_name), 0, []
    for part in parts:
        if held >= MOST_EVENTS:
            break
        blocks.append(store.read(part, particles=False).hlf)
        held += len(blocks[-1])
    return (
        np.concatenate(blocks) if blocks else np.empty((0, len(store.spec.hlf)), dtype=np.float32)
    )


def _edges(values: np.ndarray) -> np.ndarray:
    """Inner edges: between the values of a feature that has few of them, else at its quantiles."""
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
    p = (found + 0.5) / (n + 0.5 * bins)  # an empty bin is no infinite distance
    q = (expected * n_expected + 0.5) / (n_expected + 0.5 * bins)
    # n times the index is distributed as chi squared of bins - 1 degrees of freedom, where nothing has changed
    chance = (bins - 1 + _SIGMAS * np.sqrt(2 * (bins - 1))) * (1 / n + 1 / n_expected)
    return float(((p - q) * np.log(p / q)).sum()), float(chance)


def _lists(arrays: Iterable[np.ndarray]) -> list[Any]:
    return [array.tolist() for array in arrays]
