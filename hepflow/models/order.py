"""Particles as nets read them in training and scoring: sorted, and padded to the longest event."""

from collections.abc import Sequence

import numpy as np

from hepflow.data.blocks import EventBlock
from hepflow.errors import DataError
from hepflow.models.inputs import Order
from hepflow.system.compiled import cached_njit


def reading_order(block: EventBlock, names: Sequence[str], order: Order) -> np.ndarray | None:
    """Return the rows of ``block.particles`` in the order the nets read them; None: as they are.

    ``names`` are the particle features, of which ``delta_r`` needs ``Eta`` and ``Phi`` (radians):
    by decreasing distance from the first particle of the event, so that the lepton comes last; ties
    as stored.
    """
    if order == "stored" or not len(block.particles):
        return None
    if missing := " and ".join(sorted({"Eta", "Phi"} - set(names))):
        advice = "which `order: delta_r` needs. Use `order: stored`."
        raise DataError(f"the store has no particle feature {missing}, {advice}")
    columns = (list(names).index(name) for name in ("Eta", "Phi"))
    eta, phi = (block.particles[:, column].astype(np.float64) for column in columns)
    rows = np.empty(len(eta), np.int64)
    _by_falling_distance(eta, phi, block.offsets, rows)
    return rows


@cached_njit(nogil=True)  # reader threads must not block the thread that trains
def _by_falling_distance(
    eta: np.ndarray, phi: np.ndarray, offsets: np.ndarray, rows: np.ndarray
) -> None:
    for event in range(len(offsets) - 1):
        start, stop = offsets[event], offsets[event + 1]
        nearer = np.empty(stop - start, np.float64)
        for i in range(start, stop):
            delta_phi = abs(phi[i] - phi[start])
            delta_phi -= 2 * np.pi * np.rint(delta_phi / (2 * np.pi))
            nearer[i - start] = -((eta[i] - eta[start]) ** 2 + delta_phi**2)
        rows[start:stop] = start + np.argsort(nearer, kind="mergesort")


def pad(events: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return events of different lengths as one zero-padded array, and their lengths.

    (particles, features) per event -> (events, longest or 1, features) float32, (events,) int64
    """
    lengths = np.array([len(event) for event in events], dtype=np.int64)
    shape = (len(events), max(1, lengths.max(initial=0)), events[0].shape[1])
    padded = np.zeros(shape, dtype=np.float32)
    for row, event in zip(padded, events, strict=True):
        row[: len(event)] = event
    return padded, lengths


def features_of(names: Sequence[str], order: Order, *blocks: EventBlock) -> dict[str, np.ndarray]:
    """Return the arguments that nets may read: ``hlf``, ``particles`` and ``lengths``."""
    events = []
    for block in blocks:
        rows = reading_order(block, names, order)
        particles = block.particles if rows is None else block.particles[rows]
        events += np.split(particles, block.offsets[1:-1])
    padded, lengths = pad(events)
    hlf = np.concatenate([block.hlf for block in blocks])
    return {"hlf": hlf, "particles": padded, "lengths": lengths}
