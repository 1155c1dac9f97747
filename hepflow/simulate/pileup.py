"""A pool of minimum-bias events, laid over generated ones: pile-up on vertices of its own, a soft underlying event on the event's.

Pythia's multi-parton interactions take nine tenths of its time. The fast underlying event leaves them out of the hard event and overlays
``SOFT_EVENTS`` minimum-bias events on its vertex in their place, a number tuned to the charged multiplicity and pT sum that they add.
"""

from typing import NamedTuple

import numpy as np

from hepflow.simulate import card
from hepflow.simulate.particles import Particles

SOFT_EVENTS = 2.7


class Overlaid(NamedTuple):
    """The particles of one event, vertex ``z`` (mm) and all.

    ``pdg``, ``charge`` (n,), ``momentum`` (n, 4) GeV, ``vertex`` (n, 3) mm as in ``Particles``; ``pileup`` (n,) is true of the
    particles of other vertices.
    """

    pdg: np.ndarray
    charge: np.ndarray
    momentum: np.ndarray
    vertex: np.ndarray
    pileup: np.ndarray
    z: float


def overlay(
    rng: np.random.Generator,
    event: tuple[np.ndarray, ...],
    pool: Particles,
    pileup: float,
    soft: float,
) -> Overlaid:
    """One event with minimum-bias events over it, each turned by a random angle around the beam.

    Parameters
    ----------
    rng : Generator
    event : pdg, charge, momentum, vertex
        See ``Particles.event``; the vertices are relative to the collision.
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
    total = int(lengths.sum())
    # the places of the picked events' particles in the pool, one event after another
    place = np.arange(total) + np.repeat(
        pool.offsets[picks] - np.cumsum(lengths) + lengths, lengths
    )
    turn = np.repeat(angles, lengths)
    momentum, vertex = _rotate(pool.momentum[place], turn), _rotate(pool.vertex[place], turn)
    pdg, charge, own_momentum, own_vertex = event
    vertex = np.concatenate([own_vertex, vertex])
    vertex[:, 2] += np.repeat(z, np.concatenate([[len(pdg)], lengths]))
    return Overlaid(
        np.concatenate([pdg, pool.pdg[place]]),
        np.concatenate([charge, pool.charge[place]]),
        np.concatenate([own_momentum, momentum]),
        vertex,
        np.arange(len(vertex)) >= len(pdg) + lengths[:n_soft].sum(),
        float(z[0]),
    )


def _rotate(vectors: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """(n, 3 or more) vectors turned by (n,) angles around the beam."""
    cos, sin = np.cos(angle), np.sin(angle)
    out = vectors.copy()
    out[:, 0] = cos * vectors[:, 0] - sin * vectors[:, 1]
    out[:, 1] = sin * vectors[:, 0] + cos * vectors[:, 1]
    return out
