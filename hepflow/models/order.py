"""Particles as the sequence nets read them: in order, and padded to the longest event. Training and scoring share it."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from hepflow.errors import DataError
from hepflow.models.net import Order
from hepflow.store import EventBlock


def reading_order(block: EventBlock, names: Sequence[str], order: Order) -> np.ndarray | None:
    """Rows of ``block.particles`` in the order the nets read them.

    Parameters
    ----------
    names : sequence of str
        Particle features; ``Eta`` and ``Phi`` (radians) are needed for ``delta_r``.
    order : {"delta_r", "stored"}
        delta_r: by decreasing distance from the first particle of the event, so that the lepton comes last; ties as stored.

    Returns
    -------
    (particles,) int64, or None where they stay as they are
    """
    if order == "stored" or not len(block.particles):
        return None
    if missing := {"Eta", "Phi"} - set(names):
        msg = f"the store has no particle feature {' and '.join(sorted(missing))}, which `order: delta_r` needs; use `order: stored`"
        raise DataError(msg)
    eta, phi = (block.particles[:, list(names).index(name)].astype(np.float64) for name in ("Eta", "Phi"))
    first = np.repeat(block.offsets[:-1], np.diff(block.offsets))
    delta_phi = np.abs(phi - phi[first])
    delta_phi = np.abs(delta_phi - 2 * np.pi * np.rint(delta_phi / (2 * np.pi)))
    distance2 = (eta - eta[first]) ** 2 + delta_phi**2
    farther = -distance2
    # one sort an event: short arrays stay in the cache, which one sort of everything does not
    rows = [start + np.argsort(farther[start:stop], kind="stable") for start, stop in pairwise(block.offsets.tolist())]
    return np.concatenate([np.empty(0, np.intp), *rows])


def pad(events: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Events of different length side by side.

    Parameters
    ----------
    events : sequence of (particles, features) float32

    Returns
    -------
    particles : (events, longest or 1, features) float32, zero-padded
    lengths : (events,) int64
    """
    lengths = np.array([len(event) for event in events], dtype=np.int64)
    padded = np.zeros((len(events), max(1, lengths.max(initial=0)), events[0].shape[1]), dtype=np.float32)
    for row, event in zip(padded, events, strict=True):
        row[: len(event)] = event
    return padded, lengths


def features_of(block: EventBlock, names: Sequence[str], order: Order) -> dict[str, np.ndarray]:
    """What nets read of a block of events, by the names that they read it under: ``hlf``, ``particles`` and ``lengths``."""
    rows = reading_order(block, names, order)
    particles = block.particles if rows is None else block.particles[rows]
    padded, lengths = pad(np.split(particles, block.offsets[1:-1]))
    return {"hlf": block.hlf, "particles": padded, "lengths": lengths}
