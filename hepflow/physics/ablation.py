"""The effect of each difference between the definitions alone, on events and on features."""

from dataclasses import dataclass

import awkward as ak
import numpy as np

from hepflow.physics.definitions import CORRECTED, REFERENCE, Definitions
from hepflow.physics.features import FeatureSet, compute_features
from hepflow.schema import HLF, PARTICLE

FEATURES = (*(feature.name for feature in HLF), *(f"mean {feature.name}" for feature in PARTICLE))
"""The high-level features, then the mean of each particle feature over an event."""
STEPS = {name: REFERENCE._replace(**{name: True}) for name in Definitions._fields}
STEPS |= {"all together": CORRECTED}
"""Each choice switched from the reference to the corrected one, and all of them."""


@dataclass(frozen=True)
class Change:
    """Effect of a step on events; adds up over chunks."""

    n_before: int  # events that pass by the reference definitions
    gained: int
    lost: int
    changed: int  # events that pass before and after, with another value of any feature
    moved: np.ndarray  # (features) events whose value changed
    distance: np.ndarray  # (features) sum of the absolute changes
    farthest: np.ndarray  # (features) largest absolute change

    def __add__(self, other: "Change") -> "Change":
        """Return the effect on both chunks."""
        summed = {name: value + getattr(other, name) for name, value in vars(self).items()}
        return Change(**summed | {"farthest": np.maximum(self.farthest, other.farthest)})


def compare(events: ak.Array) -> dict[str, Change]:
    """Return the effect of every step on a chunk of events; for ``events`` see `columns`."""
    reference = compute_features(events, REFERENCE)
    before = _values(reference)
    changes = {}
    for name, step in STEPS.items():
        other = compute_features(events, step)
        kept = reference.index, other.index
        _, old, new = np.intersect1d(*kept, assume_unique=True, return_indices=True)
        distance = np.abs(_values(other)[new] - before[old])
        moved = distance > 1e-6 * np.maximum(np.abs(before[old]), 1e-3)
        distance = np.where(moved, distance, 0.0)
        changes[name] = Change(
            n_before=len(reference.index),
            gained=len(other.index) - len(new),
            lost=len(reference.index) - len(old),
            changed=int(moved.any(axis=1).sum()),
            moved=moved.sum(axis=0),
            distance=distance.sum(axis=0),
            farthest=distance.max(axis=0, initial=0.0),
        )
    return changes


def _values(features: FeatureSet) -> np.ndarray:
    """Return high-level features and means over the particles (the lepton at least)."""
    if not len(features.index):
        return np.empty((0, len(FEATURES)))
    starts, counts = features.offsets[:-1], np.diff(features.offsets)[:, None]
    sums = np.add.reduceat(features.particles.astype(np.float64), starts, axis=0)
    return np.concatenate([features.hlf, sums / counts], axis=1)
