"""Events in memory -> one rank's share of each global batch, padded to its longest event."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hepflow.data.blocks import EventBlock
from hepflow.models.order import pad

# B events, P particles, C particle features, F high-level features


class Batch(NamedTuple):
    """One rank's share of a global batch."""

    hlf: Tensor
    """(B, F) float32"""
    particles: Tensor | None
    """(B, P, C) float32, zero-padded; None for nets that do not read them."""
    lengths: Tensor | None
    """(B) int64: particles an event."""
    label: Tensor
    """(B) int64"""
    event_id: Tensor
    """(B) int64"""
    weight: Tensor
    """(B) float32: 1; 0 for the filler of a rank that would have no event."""
    n_global: int
    """Events of the global batch."""

    def pinned(self) -> "Batch":
        """Itself in page-locked memory, from where a GPU copies without waiting."""
        tensors: dict[str, Any] = {
            name: value.pin_memory()
            for name, value in self._asdict().items()
            if isinstance(value, Tensor)
        }
        return self._replace(**tensors)


def batches_of(
    blocks: Sequence[EventBlock],
    rows: Sequence[np.ndarray],
    sizes: Sequence[int],
    *,
    particles: bool,
) -> Iterator[Batch]:
    """Share of a rank of each global batch.

    Parameters
    ----------
    blocks : sequence of EventBlock
        What the rank read of a window: one event at least.
    rows : sequence of (events,) int64
        Positions in the blocks of the rank's events, batch by batch.
    sizes : sequence of int
        Events of each global batch.
    particles : bool
        Whether the particles are wanted.
    """
    if not rows:
        return
    columns = [
        torch.from_numpy(np.concatenate([getattr(block, name) for block in blocks]))
        for name in ("hlf", "label", "event_id")
    ]
    first = np.cumsum([0, *(len(block) for block in blocks)])
    for own, n_global in zip(rows, sizes, strict=True):
        weight = torch.full((max(1, len(own)),), float(len(own) > 0))
        taken = own if len(own) else np.zeros(1, np.int64)
        padded = lengths = None
        if particles:
            block_of = np.searchsorted(first, taken, side="right") - 1
            events = [
                _particles(blocks[b], i - first[b]) for i, b in zip(taken, block_of, strict=True)
            ]
            padded, lengths = (torch.from_numpy(array) for array in pad(events))
        hlf, label, event_id = (
            column.index_select(0, torch.from_numpy(taken)) for column in columns
        )
        yield Batch(hlf, padded, lengths, label.long(), event_id, weight, n_global)


def _particles(block: EventBlock, event: int) -> np.ndarray:
    return block.particles[block.offsets[event] : block.offsets[event + 1]]
