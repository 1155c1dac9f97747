"""Events in memory -> one process's share of each global batch, padded to its longest event."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hepflow.data.blocks import EventBlock
from hepflow.models.order import pad

# B events, P particles, C particle features, F high-level features


class Batch(NamedTuple):
    """One process's share of a global batch."""

    hlf: Tensor
    """(B, F) float32"""
    particles: Tensor | None
    """(B, P, C) float32, zero-padded; None for nets that do not read them."""
    lengths: Tensor | None
    """(B) int64: particles per event."""
    label: Tensor
    """(B) int64"""
    event_id: Tensor
    """(B) int64"""
    weight: Tensor
    """(B) float32: 1; 0 for the filler of a process without events in this batch."""
    n_global: int
    """Events of the global batch."""

    @property
    def mask(self) -> Tensor | None:
        """(B, P) bool: true for particles, false for padding."""
        if self.particles is None or self.lengths is None:
            return None
        position_P = torch.arange(self.particles.shape[1], device=self.lengths.device)
        return position_P < self.lengths[:, None]

    def pinned(self) -> "Batch":
        """Return a copy in page-locked memory, from which a GPU copies asynchronously."""
        values = self._asdict().items()
        tensors: Any = {name: v.pin_memory() for name, v in values if isinstance(v, Tensor)}
        return self._replace(**tensors)


class Window:
    """Events that a process has read of a window: flat columns, and particles block by block.

    A block is let go once its columns are copied, so that memory holds them once.
    """

    def __init__(self, blocks: Iterable[EventBlock], n_events: int) -> None:
        self.columns: list[np.ndarray] = []
        """``hlf``, ``label`` and ``event_id`` of the events, (n_events, ...)"""
        self.particles: list[tuple[np.ndarray, np.ndarray]] = []
        """Particles and offsets of each block."""
        self.first = [0]
        """Position of the first event of each block, and the number of events."""
        for block in blocks:
            start, stop = self.first[-1], self.first[-1] + len(block)
            arrays = (block.hlf, block.label, block.event_id)
            if not self.columns:
                self.columns = [np.empty((n_events, *a.shape[1:]), a.dtype) for a in arrays]
            for column, array in zip(self.columns, arrays, strict=True):
                column[start:stop] = array
            self.first.append(stop)
            self.particles.append((block.particles, block.offsets))

    @property
    def lengths(self) -> np.ndarray:
        """Particles per event, (n_events)."""
        parts = [np.diff(offsets) for _, offsets in self.particles]
        return np.concatenate([np.zeros(0, np.int64), *parts])


def batches_of(
    window: Window, rows: list[np.ndarray], sizes: list[int], *, particles: bool
) -> Iterator[Batch]:
    """Yield a process's share of each global batch of a window.

    The process has read at least one event of the window. Batch by batch, ``rows`` are the
    positions of its events among those it has read (int64), and ``sizes`` the events of the global
    batch.
    """
    columns, first = [torch.from_numpy(array) for array in window.columns], np.array(window.first)
    for own, n_global in zip(rows, sizes, strict=True):
        weight = torch.full((max(1, len(own)),), float(len(own) > 0))
        taken = own if len(own) else np.zeros(1, np.int64)  # DDP needs a step of every process
        padded = lengths = None
        if particles:
            events = []
            for row, b in zip(taken, np.searchsorted(first, taken, side="right") - 1, strict=True):
                event, (values, offsets) = row - first[b], window.particles[b]
                events.append(values[offsets[event] : offsets[event + 1]])
            padded, lengths = (torch.from_numpy(array) for array in pad(events))
        index = torch.from_numpy(taken)
        hlf, label, event_id = (column.index_select(0, index) for column in columns)
        yield Batch(hlf, padded, lengths, label.long(), event_id, weight, n_global)
