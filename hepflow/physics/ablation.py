"""What each difference between the definitions does, alone: events gained, lost and changed, and how far each feature moves."""

from dataclasses import dataclass

import awkward as ak
import numpy as np

from hepflow.physics.definitions import CORRECTED, REFERENCE, Definitions
from hepflow.physics.features import FeatureSet, compute
from hepflow.schema import HLF, PARTICLE

FEATURES = (*(feature.name for feature in HLF), *(f"mean {feature.name}" for feature in PARTICLE))
"""The high-level features, then the mean of each particle feature over an event."""
STEPS: dict[str, Definitions] = {
    **{name: REFERENCE._replace(**{name: True}) for name in Definitions._fields},
    "all together": CORRECTED,
}
"""Each choice switched from the reference's way to the corrected one, and all of them."""


@dataclass(frozen=True)
class Change:
    """Effect of a step on events; adds up over chunks."""

    n_before: int
    """Events that pass by the reference definitions."""
    gained: int
    lost: int
    changed: int
    """Events that pass before and after, with another value of any feature."""
    moved: np.ndarray
    """(features) events whose value changed"""
    distance: np.ndarray
    """(features) sum of the absolute changes"""
    farthest: np.ndarray
    """(features) largest absolute change"""

    def __add__(self, other: "Change") -> "Change":
        """Effect on both chunks."""
        return Change(
            self.n_before + other.n_before,
            self.gained + other.gained,
            self.lost + other.lost,
            self.changed + other.changed,
            self.moved + other.moved,
            self.distance + other.distance,
            np.maximum(self.farthest, other.farthest),
        )


def compare(events: ak.Array) -> dict[str, Change]:
    """Effect of every step on a chunk of events.

    Parameters
    ----------
    events : (n,) records with the collections of `hepflow.schema.COLLECTIONS`
    """
    reference = compute(events, REFERENCE)
    before = _values(reference)
    return {
        name: _change(reference.index, before, compute(events, step))
        for name, step in STEPS.items()
    }


def _values(features: FeatureSet) -> np.ndarray:
    """High-level features and means over the particles, (events, features); every event has its lepton, so no mean is of nothing."""
    totals = (
        np.add.reduceat(features.particles.astype(np.float64), features.offsets[:-1], axis=0)
        if len(features.index)
        else features.particles
    )
    return np.concatenate(
        [features.hlf, totals / np.maximum(np.diff(features.offsets), 1)[:, None]], axis=1
    )


def _change(index: np.ndarray, before: np.ndarray, other: FeatureSet) -> Change:
    after = _values(other)
    _, here, there = np.intersect1d(index, other.index, assume_unique=True, return_indices=True)
    distance = np.abs(after[there] - before[here])
    moved = distance > 1e-6 * np.maximum(np.abs(before[here]), 1e-3)
    return Change(
        n_before=len(index),
        gained=len(other.index) - len(there),
        lost=len(index) - len(here),
        changed=int(moved.any(axis=1).sum()),
        moved=moved.sum(axis=0),
        distance=np.where(moved, distance, 0.0).sum(axis=0),
        farthest=np.where(moved, distance, 0.0).max(axis=0, initial=0.0),
    )
