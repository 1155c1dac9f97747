"""A dataset of events, or a feature store, as rows of quantities of one class, piece by piece.

A row is the high-level features of an event that passes the trigger, and behind them the quantities
of `hepflow.physics.multiplicities`. A piece is what is read together at least: a row group of
events, or as many events of a store.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np

from hepflow.data.events import EventsDataset, Fragment, empty_events, open_events, read_fragment
from hepflow.data.provenance import digest
from hepflow.data.store import GROUP, EventStore
from hepflow.errors import DataError
from hepflow.physics import multiplicities, own
from hepflow.physics.columns import columns
from hepflow.physics.features import FeatureSet, compute_columns
from hepflow.schema import SPLITS, Feature

PIECE = 1_000  # events of a store, as in a row group of ingest
BLOCK_BYTES = 32 << 20
"""Uncompressed bytes of events in memory at once."""


@dataclass(frozen=True)
class Rows:
    """Quantities of events."""

    values: np.ndarray  # (n, quantities) float32
    event_id: np.ndarray  # (n) int64

    @classmethod
    def joined(cls, rows: "Sequence[Rows]") -> "Rows":
        """Return the rows of several pieces, one after the other."""
        values, ids = ([getattr(one, name) for one in rows] for name in ("values", "event_id"))
        return cls(np.concatenate(values), np.concatenate(ids))

    def __len__(self) -> int:
        return len(self.event_id)

    def __getitem__(self, events: slice) -> "Rows":
        return Rows(self.values[events], self.event_id[events])


@dataclass(frozen=True)
class Piece:
    """Neighbouring events of one class."""

    key: str
    """Place in the source, the same however the events are read."""
    n_events: int
    place: Any
    """Row group of a dataset (a `Fragment`), or range of a store and first event in it."""


class StoreSource:
    """A feature store."""

    kind = "feature store"

    def __init__(self, store: EventStore) -> None:
        spec = store.spec
        self.path, self.classes, self.definitions = store.path, spec.classes, spec.definitions
        self.hlf, self.particles, self.physics = spec.hlf, spec.particles, spec.physics
        self.provenance = spec.provenance
        self.has_particles = any(rows.n_particles for rows in store.all_ranges(*SPLITS))
        self.extra: tuple[Feature, ...] = ()
        self._store = store

    def pieces(self, class_name: str) -> list[Piece]:
        """Return all events of a class, of every split."""
        found = []
        for rows in (one for split in SPLITS for one in self._store.ranges(split, class_name)):
            for start in range(0, rows.n_events, PIECE):
                n_events = min(PIECE, rows.n_events - start)
                key = f"{rows.group}/{rows.first + start}"
                found.append(Piece(key, n_events, (rows, start)))
        return found

    def read(self, pieces: Sequence[Piece], class_name: str) -> Iterator[tuple[Piece, Rows]]:
        """Yield the events of pieces of a class."""
        label = self.classes.index(class_name)
        for piece in pieces:
            rows, start = piece.place
            stop = start + piece.n_events
            block = self._store.read(rows, start, stop, particles=bool(self.extra))
            if (block.label != label).any():
                what = f"rows from {rows.first:,} on are not all of class {class_name}"
                raise DataError(f"{self.path}: {what}. Run `hepflow store check`.")
            values = [block.hlf]
            if self.extra:
                of = multiplicities.of_particles(block.particles, block.offsets, self.particles)
                values.append(of)
            yield piece, Rows(np.hstack(values).astype(np.float32), block.event_id)


class EventsSource:
    """A dataset of events, whose features are computed here."""

    kind = "events"
    has_particles = True

    def __init__(self, dataset: EventsDataset, definitions: str, physics: str | None) -> None:
        self.path, self.classes, self.definitions = dataset.path, dataset.classes, definitions
        self.hlf, self.particles = own.names(physics, definitions, empty_events())
        self.physics = own.identity(physics)
        fragments = sorted(fragment.fingerprint for fragment in dataset.fragments)
        self.provenance = digest(dataset.provenance, fragments)
        self.extra: tuple[Feature, ...] = ()
        self.block_bytes = BLOCK_BYTES
        self._dataset, self._own = dataset, physics

    def pieces(self, class_name: str) -> list[Piece]:
        """Return all events of a class."""
        named = (one for one in self._dataset.fragments if one.path.parent.name == class_name)
        return [Piece(one.fingerprint, one.n_events, one) for one in named]

    def read(self, pieces: Sequence[Piece], class_name: str) -> Iterator[tuple[Piece, Rows]]:
        """Yield the events of pieces of a class that pass; neighbouring ones are read at once."""
        for block in _blocks(pieces, self.block_bytes):
            fragments: list[Fragment] = [piece.place for piece in block]
            events = read_fragment(_joined(fragments))
            if (ak.to_numpy(events["label"]) != self.classes.index(class_name)).any():
                what = f"events of another class than {class_name}"
                raise DataError(f"{fragments[0].path}: {what}. Run `hepflow ingest` again.")
            made, rows = self._rows(events)
            ends = np.cumsum([0, *(piece.n_events for piece in block)])
            cuts = np.searchsorted(made.index, ends).tolist()
            for piece, (first, last) in zip(block, pairwise(cuts), strict=True):
                yield piece, rows[first:last]

    def _rows(self, events: ak.Array) -> tuple[FeatureSet, Rows]:
        extra, flat = self.extra, columns(events)
        if self._own is None:
            listed = extra not in ((), multiplicities.OF_EVENTS)
            made = compute_columns(flat, self.definitions, particles=listed)
        else:
            made = own.load(self._own)(events, self.definitions)
            made = own.check(made, len(events), self._own)
        values = [made.hlf]
        if extra == multiplicities.OF_EVENTS:
            values.append(multiplicities.of_columns(flat)[made.index])
        elif extra:
            features = made.particle_features
            values.append(multiplicities.of_particles(made.particles, made.offsets, features))
        event_id = ak.to_numpy(events["event_id"])[made.index]
        return made, Rows(np.hstack(values).astype(np.float32), event_id)


Source = StoreSource | EventsSource


def opened(path: Path) -> EventStore | EventsDataset:
    """Open a store, or a dataset of events whose fragments are single row groups."""
    return EventStore.open(path) if (path / GROUP).is_file() else open_events(path, task_bytes=1)


def _blocks(pieces: Sequence[Piece], block_bytes: int) -> Iterator[list[Piece]]:
    """Yield row groups of one file, in their order there, of at most ``block_bytes`` together."""
    ordered = sorted(pieces, key=lambda piece: (str(piece.place.path), piece.place.row_groups))
    for _, of_file in groupby(ordered, key=lambda piece: piece.place.path):
        block, n_bytes = list[Piece](), 0
        for piece in of_file:
            if block and n_bytes + piece.place.n_bytes > block_bytes:
                yield block
                block, n_bytes = [], 0
            block.append(piece)
            n_bytes += piece.place.n_bytes
        yield block


def _joined(fragments: Sequence[Fragment]) -> Fragment:
    if len(fragments) == 1:
        return fragments[0]
    groups = tuple(group for one in fragments for group in one.row_groups)
    n_events, n_bytes = (sum(getattr(one, k) for one in fragments) for k in ("n_events", "n_bytes"))
    return replace(fragments[0], row_groups=groups, n_events=n_events, n_bytes=n_bytes)
