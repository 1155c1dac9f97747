"""Particles of many events in flat arrays, and minimum-bias events laid over them.

Pile-up events have vertices of their own. The underlying event has the vertex of the hard event:
Pythia's multi-parton interactions take nine tenths of its time, so instead of them the fast
underlying event overlays ``SOFT_EVENTS`` minimum-bias events, a number tuned to the charged
multiplicity and the pT sum that multi-parton interactions add.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from hepflow.simulate import card

SOFT_EVENTS = 3.0
Event = tuple[np.ndarray, ...]  # pdg, charge, momentum and vertex, as `Particles` has them
BeamSpot = Literal["gaussian", "flat"]


@dataclass(frozen=True)
class Particles:
    """Stable particles, event after event."""

    offsets: np.ndarray  # (events + 1,) int64: event ``i`` is ``offsets[i]:offsets[i + 1]``
    pdg: np.ndarray  # (n,) int32
    charge: np.ndarray  # (n,) int8, in units of e
    momentum: np.ndarray  # (n, 4) px py pz E in GeV
    vertex: np.ndarray  # (n, 3) production point x y z in mm

    @classmethod
    def of(cls, events: Sequence[Event]) -> "Particles":
        """Join events."""
        columns = [np.concatenate(column) for column in zip(*events, strict=True)]
        return cls(offsets_of([len(event[0]) for event in events]), *columns)

    @classmethod
    def joined(cls, parts: Sequence["Particles"]) -> "Particles":
        """Join events that are in several parts."""
        counts = np.concatenate([np.diff(part.offsets) for part in parts])
        columns = zip(*([*vars(part).values()][1:] for part in parts), strict=True)
        return cls(offsets_of(counts), *map(np.concatenate, columns))

    def where(self, keep: np.ndarray) -> "Particles":
        """Return the events with the particles of a mask only."""
        columns = [column[keep] for column in [*vars(self).values()][1:]]
        return Particles(offsets_of(keep)[self.offsets], *columns)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def event(self, i: int) -> Event:
        """Return event ``i``."""
        part = slice(self.offsets[i], self.offsets[i + 1])
        return self.pdg[part], self.charge[part], self.momentum[part], self.vertex[part]


class Record(NamedTuple):
    """Every entry of one Pythia event, and the decays that the library made of some of them.

    Entry 0 is the event as a whole, 1 and 2 are the beams. ``pdg``, ``status``: (n,), Pythia's
    codes; ``momentum``: (n, 4) px py pz E in GeV; ``vertex``: (n, 4), production point x y z and ct
    in mm; ``mothers``: (n, 2), entries by Pythia's rules. Entry ``decayed[k]`` has the products
    ``offsets[k]:offsets[k + 1]`` of ``products``, which are visible particles.
    """

    pdg: np.ndarray
    status: np.ndarray
    momentum: np.ndarray
    vertex: np.ndarray
    mothers: np.ndarray
    decayed: np.ndarray
    offsets: np.ndarray
    products: Event


@dataclass(frozen=True)
class Events:
    """Generated events: visible stable particles, and the heavy quarks that label the jets."""

    particles: Particles
    heavy: list[np.ndarray]
    """Per event, (m, 4) b and c quarks: pT in GeV, eta, phi in rad, flavour (4 or 5)."""
    records: list[Record] = field(default_factory=list)
    """Per event, all that Pythia recorded, if it was asked for."""


class Overlaid(NamedTuple):
    """The particles of one event, at vertex ``z`` (mm); the first four fields as in `Particles`."""

    pdg: np.ndarray
    charge: np.ndarray
    momentum: np.ndarray
    vertex: np.ndarray
    pileup: np.ndarray  # (n,) true for particles of other vertices
    z: float
    n_vertices: int


def offsets_of(counts: np.ndarray | Sequence[int]) -> np.ndarray:
    """Return where each event begins, and the last ends, from the number of particles in each."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def pt_eta_phi(momentum: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return transverse momentum, pseudorapidity and azimuth of (n, 3 or more) momenta."""
    x, y, z = momentum[:, :3].T
    pt = np.hypot(x, y)
    return pt, np.arcsinh(z / np.maximum(pt, 1e-12)), np.arctan2(y, x)


def collisions(rng: np.random.Generator, beam_spot: BeamSpot, n: int) -> np.ndarray:
    """Return z of (n,) collisions in mm."""
    if beam_spot == "flat":
        return rng.uniform(-card.FLAT_BEAM_SPOT, card.FLAT_BEAM_SPOT, n)
    limit = card.BEAM_SPOT_LIMIT  # at 4.7 sigma
    return np.clip(rng.normal(0.0, card.BEAM_SPOT_SIGMA, n), -limit, limit)


def overlay(
    rng: np.random.Generator,
    event: Event,
    pool: Particles,
    pileup: float,
    soft: float,
    beam_spot: BeamSpot = "gaussian",
) -> Overlaid:
    """Overlay minimum-bias events, each rotated by a random angle around the beam.

    The vertices of ``event`` are relative to the collision. ``pileup`` and ``soft`` are the mean
    numbers of events on other vertices and on the event's own; both are Poisson.
    """
    n_soft, n_pileup = rng.poisson(soft), rng.poisson(pileup)
    picks = rng.integers(len(pool), size=n_soft + n_pileup)
    angles = rng.uniform(-np.pi, np.pi, n_soft + n_pileup)
    z = collisions(rng, beam_spot, 1 + n_soft + n_pileup)
    z[1 : 1 + n_soft] = z[0]
    lengths = np.diff(pool.offsets)[picks]
    # positions of the picked events' particles in the pool, one event after another
    first = pool.offsets[picks] - np.cumsum(lengths) + lengths
    index = np.arange(lengths.sum()) + np.repeat(first, lengths)
    angle = np.repeat(angles, lengths)
    pdg, charge, own_momentum, own_vertex = event
    vertex = np.concatenate([own_vertex, rotated(pool.vertex[index], angle)])
    vertex[:, 2] += np.repeat(z, np.concatenate([[len(pdg)], lengths]))
    momentum = np.concatenate([own_momentum, rotated(pool.momentum[index], angle)])
    of_others = np.arange(len(vertex)) >= len(pdg) + lengths[:n_soft].sum()
    pdg, charge = np.append(pdg, pool.pdg[index]), np.append(charge, pool.charge[index])
    return Overlaid(pdg, charge, momentum, vertex, of_others, float(z[0]), 1 + int(n_pileup))


def rotated(vectors: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Return (n, 3 or more) vectors rotated by (n,) angles around the beam."""
    cos, sin = np.cos(angle), np.sin(angle)
    out = vectors.astype(np.float64)
    out[:, 0] = cos * vectors[:, 0] - sin * vectors[:, 1]
    out[:, 1] = sin * vectors[:, 0] + cos * vectors[:, 1]
    return out
