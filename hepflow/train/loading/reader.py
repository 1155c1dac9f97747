"""Slices of a store -> events in memory: checked for NaN, their particles in reading order, kept where they fit."""

import numpy as np

from hepflow.data.blocks import EventBlock
from hepflow.data.store import EventStore
from hepflow.errors import DataError
from hepflow.models.inputs import Order
from hepflow.models.order import reading_order
from hepflow.train.loading.plan import Slice


class BlockReader:
    """Reads slices of a store; threads may share one.

    Parameters
    ----------
    particles : bool
        Whether to read the particles at all.
    keep : bool
        Keep what was read for the next epoch.
    block_events : int
        Granularity of what is kept; no slice may cross it.
    """

    def __init__(
        self, store: EventStore, *, particles: bool, order: Order, keep: bool, block_events: int
    ) -> None:
        self.store = store
        self.particles = particles
        self.order = order
        self.keep = keep
        self.block_events = block_events
        self._kept: dict[tuple[str, int], EventBlock] = {}

    def read(self, wanted: Slice) -> EventBlock:
        """Events of a slice."""
        if not self.keep:
            return self._load(wanted)
        base = wanted.start - wanted.start % self.block_events
        key = (wanted.part.path, base)
        if key not in self._kept:
            self._kept[key] = self._load(
                Slice(wanted.part, base, min(base + self.block_events, wanted.part.n_events))
            )
        return self._kept[key][wanted.start - base : wanted.stop - base]

    def lengths(self, wanted: Slice) -> np.ndarray:
        """(events,) particles of each event of a slice."""
        return self.store.lengths(wanted.part, wanted.start, wanted.stop)

    def _load(self, wanted: Slice) -> EventBlock:
        block = self.store.read(wanted.part, wanted.start, wanted.stop, particles=self.particles)
        spec = self.store.spec
        where = f"{self.store.path}/{wanted.part.path}"
        if not np.isfinite(block.hlf).all():
            event, column = np.argwhere(~np.isfinite(block.hlf))[0]
            _refuse(
                where,
                wanted.start + event,
                block.event_id[event],
                spec.hlf[column].name,
                block.hlf[event, column],
            )
        if not np.isfinite(block.particles).all():
            row, column = np.argwhere(~np.isfinite(block.particles))[0]
            event = np.searchsorted(block.offsets, row, side="right") - 1
            _refuse(
                where,
                wanted.start + event,
                block.event_id[event],
                spec.particles[column].name,
                block.particles[row, column],
            )
        rows = (
            reading_order(block, [feature.name for feature in spec.particles], self.order)
            if self.particles
            else None
        )
        if rows is None:
            return block
        return EventBlock(
            block.hlf,
            block.particles.take(rows, axis=0),
            block.offsets,
            block.label,
            block.event_id,
        )


def _refuse(where: str, event: int, event_id: int, feature: str, value: float) -> None:
    raise DataError(
        f"{where}: event {event} (id {event_id}) has {value} for {feature!r}. Run `hepflow features` again, or mend what wrote it."
    )
