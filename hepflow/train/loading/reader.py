"""Slices of a store -> events in memory: checked for NaN, with particles in reading order."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from hepflow.data.blocks import EventBlock, Range, StoreSpec
from hepflow.data.store import EventStore
from hepflow.errors import DataError
from hepflow.models.inputs import Order
from hepflow.models.order import reading_order
from hepflow.train.loading.plan import Slice

EVERY_EPOCH = ("train", "val")
"""Splits that a training reads in every epoch."""
AGAIN = "Run `hepflow features` again, or fix what wrote it."


def kept_splits(sizes: Mapping[str, float], limit: float) -> list[str]:
    """Return the splits that stay in memory, of those of `EVERY_EPOCH` and their sizes in bytes.

    Together they take at most ``limit`` bytes; one that does not fit leaves its place to the next.
    """
    kept: list[str] = []
    for split in EVERY_EPOCH:
        if sizes[split] <= limit:
            kept.append(split)
            limit -= sizes[split]
    return kept


class BlockReader:
    """Reads slices of a store, with or without particles; threads may share one.

    With ``keep``, it keeps blocks of ``block_events``; then no slice may cross their edges.
    """

    def __init__(
        self, store: EventStore, *, particles: bool, order: Order, keep: bool, block_events: int
    ) -> None:
        self.store, self.particles, self.order = store, particles, order
        self.keep, self.block_events = keep, block_events
        self._kept: dict[tuple[Range, int], EventBlock] = {}

    def read(self, wanted: Slice) -> EventBlock:
        """Return the events of a slice."""
        if not self.keep:
            return self._load(wanted)
        base = wanted.start - wanted.start % self.block_events
        key = (wanted.range, base)
        if key not in self._kept:
            stop = min(base + self.block_events, wanted.range.n_events)
            self._kept[key] = self._load(Slice(wanted.range, base, stop))
        return self._kept[key][wanted.start - base : wanted.stop - base]

    def lengths(self, wanted: Slice) -> np.ndarray:
        """Return the number of particles of each event of a slice, (events,)."""
        return self.store.lengths(wanted.range, wanted.start, wanted.stop)

    def _load(self, wanted: Slice) -> EventBlock:
        block = self.store.read(wanted.range, wanted.start, wanted.stop, particles=self.particles)
        spec = self.store.spec
        where, first = wanted.range.place(self.store.path), wanted.range.first + wanted.start
        require_finite(block, spec, str(where), first, AGAIN)
        if not self.particles:
            return block
        rows = reading_order(block, [feature.name for feature in spec.particles], self.order)
        if rows is None:
            return block
        return replace(block, particles=block.particles.take(rows, axis=0))


def require_finite(block: EventBlock, spec: StoreSpec, where: str, first: int, advice: str) -> None:
    """Refuse NaN and infinity, and name the event: the block's first one is event ``first``."""
    for values, features in ((block.hlf, spec.hlf), (block.particles, spec.particles)):
        if np.isfinite(values).all():
            continue
        row, column = np.argwhere(~np.isfinite(values))[0]
        event = row
        if values is block.particles:
            event = np.searchsorted(block.offsets, row, side="right") - 1
        what = f"{values[row, column]} for {features[column].name!r}"
        name = f"event {first + event} (id {block.event_id[event]})"
        raise DataError(f"{where}: {name} has {what}. {advice}")
