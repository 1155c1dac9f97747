"""Count, mean, spread and range of features, in pieces that add up: the statistics of a data set without holding it."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

_BLOCK = 4000  # rows at once: their 64-bit copy stays in the cache


@dataclass(frozen=True)
class Moments:
    """Count, mean, sum of squared deviations, minimum and maximum of each feature; adds up as Chan, Golub and LeVeque (1979)."""

    count: int
    mean: np.ndarray
    m2: np.ndarray
    min: np.ndarray
    max: np.ndarray

    @classmethod
    def none(cls, n_features: int) -> "Moments":
        """Moments of no rows."""
        return cls(
            0,
            np.zeros(n_features),
            np.zeros(n_features),
            np.full(n_features, np.inf),
            np.full(n_features, -np.inf),
        )

    @classmethod
    def of(cls, x: np.ndarray) -> "Moments":
        """Moments of the rows of ``x``, (n, features)."""
        moments = cls.none(x.shape[1])
        for start in range(0, len(x), _BLOCK):
            columns = np.ascontiguousarray(
                x[start : start + _BLOCK].T
            )  # along rows of memory all of this is three times as fast
            low, high = (
                columns.min(axis=1).astype(np.float64),
                columns.max(axis=1).astype(np.float64),
            )
            wide = columns.astype(np.float64)
            mean = wide.mean(axis=1)
            wide -= mean[:, None]
            moments += cls(columns.shape[1], mean, np.einsum("ij,ij->i", wide, wide), low, high)
        return moments

    def __add__(self, other: "Moments") -> "Moments":
        """Moments of both samples together."""
        count = self.count + other.count
        delta = other.mean - self.mean
        share = other.count / count if count else 0.0
        mean = self.mean + delta * share
        m2 = self.m2 + other.m2 + delta**2 * self.count * share
        return Moments(
            count, mean, m2, np.minimum(self.min, other.min), np.maximum(self.max, other.max)
        )

    def statistics(self) -> dict[str, Any]:
        """``count``, and ``mean, std, min, max`` a feature, as stored in the attributes."""
        if not self.count:
            return {
                "count": 0,
                **{name: [0.0] * len(self.mean) for name in ("mean", "std", "min", "max")},
            }
        std = np.sqrt(self.m2 / self.count)
        return {
            "count": self.count,
            "mean": self.mean.tolist(),
            "std": std.tolist(),
            "min": self.min.tolist(),
            "max": self.max.tolist(),
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for a part's record (its range is infinite where there are no rows, so those are left out by the writer)."""
        return {
            key: value.tolist() if isinstance(value, np.ndarray) else value
            for key, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Moments":
        """Inverse of `to_dict`."""
        return cls(
            data["count"],
            *(np.asarray(data[key], dtype=np.float64) for key in ("mean", "m2", "min", "max")),
        )
