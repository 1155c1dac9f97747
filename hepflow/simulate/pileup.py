"""Minimum-bias events from a pool laid over generated ones: pile-up, and the underlying event.

Pile-up events have vertices of their own. Pythia's multi-parton interactions take nine tenths of
its time; the fast underlying event leaves them out of the hard event, and instead overlays
``SOFT_EVENTS`` minimum-bias events on its vertex. That number is tuned to the charged multiplicity
and the pT sum that multi-parton interactions add.
"""

from typing import NamedTuple

import numpy as np

from hepflow.simulate import card
from hepflow.simulate.particles import Event, Particles

SOFT_EVENTS = 2.7


class Overlaid(NamedTuple):
    """The particles of one event, at vertex ``z`` (mm).

    ``pdg``, ``charge`` (n,), ``momentum`` (n, 4) GeV and ``vertex`` (n, 3) mm as in ``Particles``;
    ``pileup`` (n,) is true for particles of other vertices.
    """

    pdg: np.ndarray
    charge: np.ndarray
    momentum: np.ndarray
    vertex: np.ndarray
    pileup: np.ndarray
    z: float


def overlay(
    rng: np.random.Generator, event: Event, pool: Particles, pileup: float, soft: float
) -> Overlaid:
    """Overlay minimum-bias events, each rotated by a random angle around the beam.

    Parameters
    ----------
    rng : Generator
    event : pdg, charge, momentum, vertex
        The vertices are relative to the collision.
    pool : Particles
    pileup, soft : float
        Mean numbers of events on other vertices and on the event's own; both are Poisson.
    """
    n_soft, n_pileup = rng.poisson(soft), rng.poisson(pileup)
    picks = rng.integers(len(pool), size=n_soft + n_pileup)
    angles = rng.uniform(-np.pi, np.pi, n_soft + n_pileup)
    z = rng.uniform(-card.VERTEX_HALF_RANGE, card.VERTEX_HALF_RANGE, 1 + n_soft + n_pileup)
    z[1 : 1 + n_soft] = z[0]
    lengths = np.diff(pool.offsets)[picks]
    # positions of the picked events' particles in the pool, one event after another
    first = pool.offsets[picks] - np.cumsum(lengths) + lengths
    index = np.arange(lengths.sum()) + np.repeat(first, lengths)
    angle = np.repeat(angles, lengths)
    pdg, charge, own_momentum, own_vertex = event
    vertex = np.concatenate([own_vertex, _rotated(pool.vertex[index], angle)])
    vertex[:, 2] += np.repeat(z, np.concatenate([[len(pdg)], lengths]))
    return Overlaid(
        np.concatenate([pdg, pool.pdg[index]]),
        np.concatenate([charge, pool.charge[index]]),
        np.concatenate([own_momentum, _rotated(pool.momentum[index], angle)]),
        vertex,
        np.arange(len(vertex)) >= len(pdg) + lengths[:n_soft].sum(),
        float(z[0]),
    )


def _rotated(vectors: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Return (n, 3 or more) vectors rotated by (n,) angles around the beam."""
    cos, sin = np.cos(angle), np.sin(angle)
    out = vectors.copy()
    out[:, 0] = cos * vectors[:, 0] - sin * vectors[:, 1]
    out[:, 1] = sin * vectors[:, 0] + cos * vectors[:, 1]
    return out
