"""Particles of many events in flat arrays: what the generator makes and the detector measures."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Event = tuple[np.ndarray, ...]
"""One event: pdg, charge, momentum and vertex, as `Particles` has them."""


@dataclass(frozen=True)
class Particles:
    """Stable particles, event after event.

    Attributes
    ----------
    offsets : (events + 1,) int64
        Event ``i`` is the slice ``offsets[i]:offsets[i + 1]``.
    pdg : (n,) int32
    charge : (n,) int8, in units of e
    momentum : (n, 4) float64, px py pz E in GeV
    vertex : (n, 3) float64, production point x y z in mm
    """

    offsets: np.ndarray
    pdg: np.ndarray
    charge: np.ndarray
    momentum: np.ndarray
    vertex: np.ndarray

    @classmethod
    def of(cls, events: Sequence[Event]) -> "Particles":
        """Join events."""
        columns = [np.concatenate(column) for column in zip(*events, strict=True)]
        return cls(offsets_of(np.array([len(event[0]) for event in events])), *columns)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def event(self, i: int) -> Event:
        """Return event ``i``."""
        part = slice(self.offsets[i], self.offsets[i + 1])
        return self.pdg[part], self.charge[part], self.momentum[part], self.vertex[part]


@dataclass(frozen=True)
class Events:
    """Generated events: what reaches the detector, and the heavy hadrons that label its jets.

    Attributes
    ----------
    particles : Particles
        Stable, visible particles.
    heavy : list of (m, 4) float64
        For each event, its b and c hadrons: pT in GeV, eta, phi in rad, quark flavour (4 or 5).
    """

    particles: Particles
    heavy: list[np.ndarray]


def offsets_of(counts: np.ndarray) -> np.ndarray:
    """Return where each event begins, and the last ends, from the number of particles in each."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def pt_eta_phi(momentum: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return transverse momentum, pseudorapidity and azimuth of (n, 3 or more) momenta."""
    x, y, z = momentum[:, :3].T
    pt = np.hypot(x, y)
    return pt, np.arcsinh(z / np.maximum(pt, 1e-12)), np.arctan2(y, x)
