"""Statistics of features, in sums that add up: no data set has to be in memory.

Moments of two samples are combined as by Chan, Golub and LeVeque (1979), without cancellation.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

_BLOCK = 4000  # rows at once: their 64-bit copy stays in the cache


@dataclass(frozen=True)
class Moments:
    """Count, mean, sum of squared deviations, minimum and maximum of each feature."""

    count: int
    mean: np.ndarray
    m2: np.ndarray
    min: np.ndarray
    max: np.ndarray

    @classmethod
    def none(cls, n_features: int) -> "Moments":
        """Return the moments of no rows."""
        zero, infinity = np.zeros(n_features), np.full(n_features, np.inf)
        return cls(0, zero, zero, infinity, -infinity)

    @classmethod
    def of(cls, x: np.ndarray) -> "Moments":
        """Return the moments of the rows of ``x``, (n, features)."""
        moments = cls.none(x.shape[1])
        for start in range(0, len(x), _BLOCK):
            # three times as fast along contiguous memory
            columns = np.ascontiguousarray(x[start : start + _BLOCK].T)
            low, high = (edge.astype(np.float64) for edge in (columns.min(1), columns.max(1)))
            wide = columns.astype(np.float64)
            mean = wide.mean(axis=1)
            wide -= mean[:, None]
            moments += cls(columns.shape[1], mean, np.einsum("ij,ij->i", wide, wide), low, high)
        return moments

    @classmethod
    def total(cls, samples: "Iterable[Moments | np.ndarray]", n_features: int) -> "Moments":
        """Return the moments of all samples together; a sample is its moments or its rows."""
        moments = (one if isinstance(one, Moments) else cls.of(one) for one in samples)
        return sum(moments, start=cls.none(n_features))

    def __add__(self, other: "Moments") -> "Moments":
        count = self.count + other.count
        delta = other.mean - self.mean
        fraction = other.count / count if count else 0.0
        mean, m2 = self.mean + delta * fraction, delta**2 * self.count * fraction
        low, high = np.minimum(self.min, other.min), np.maximum(self.max, other.max)
        return Moments(count, mean, self.m2 + other.m2 + m2, low, high)

    def statistics(self) -> dict[str, Any]:
        """Return ``count``, and ``mean, std, min, max`` per feature, as a store's attributes."""
        names = ("mean", "std", "min", "max")
        if not self.count:
            return {"count": 0, **{name: [0.0] * len(self.mean) for name in names}}
        values = (self.mean, np.sqrt(self.m2 / self.count), self.min, self.max)
        columns = zip(names, (value.tolist() for value in values), strict=True)
        return {"count": self.count, **dict(columns)}

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for JSON, which has no infinite ranges: write those of rows only."""
        arrays = {name: getattr(self, name).tolist() for name in ("mean", "m2", "min", "max")}
        return {"count": self.count, **arrays}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Moments":
        """Return the moments of `to_dict`."""
        arrays = (np.asarray(data[key], float) for key in ("mean", "m2", "min", "max"))
        return cls(data["count"], *arrays)
