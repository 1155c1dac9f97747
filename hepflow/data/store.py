"""features.zarr: its only reader.

    zarr.json             StoreSpec, statistics, counts and ledger, in the attributes; and, as in
                          zarr's consolidated metadata, those of all arrays: one file to open
    hlf/                  (rows, features)       an array of all events, and so on:
    label/, event_id/     (rows)
    offsets/              (rows)                 row of the first particle of each event
    particles/            (rows, features)       the particles of all events, no padding
    ranges/               (ranges, 6)            rows of the events of each split and class
    _parts/               records of the parts (`hepflow.data.records`)

A part is shard N of each array, written by one task (`hepflow.data.part_writer`). Parts are larger
than fragments of events: their number decides how many files a store has. Rows that a part has no
events for are not used, and not on disk. Stores of version 1 can be read, too.
"""

import os
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np

from hepflow.data.arrays import REPAIR, ShardedArray
from hepflow.data.blocks import EventBlock, Range, StoreSpec
from hepflow.data.layout import ARRAYS, RANGES, ROWS_PER_PART, layouts
from hepflow.data.ledger import Ledger, total
from hepflow.data.records import Record, read_old_records, read_records
from hepflow.errors import DataError
from hepflow.schema import SPLITS, STORE_SCHEMA_VERSION
from hepflow.system.files import read_json, recorded
from hepflow.system.remote import is_remote
from hepflow.system.storage import listed, sizes_below

GROUP = "zarr.json"
_VERSIONS = (1, STORE_SCHEMA_VERSION)


class EventStore:
    """A finished feature store; `hepflow.data.store_writer.StoreWriter` makes one."""

    def __init__(self, path: Path, spec: StoreSpec) -> None:
        self.path = path
        self.spec = spec
        self._arrays: dict[Path, ShardedArray] = {}

    @classmethod
    def open(cls, path: Path) -> "EventStore":
        """Return a finished feature store."""
        group = read_group(path)
        about = _attributes(path, group)
        if about is None:
            what = f"no feature store here. Make one with `hepflow features --output {path}`."
            if listed(path, "*/*.parquet"):
                what = f"Parquet events. Make a store of them: `hepflow features --input {path}`."
            raise DataError(f"{path}: {what}")
        version, needs = about.get("schema_version"), ", ".join(about.get("requires", []))
        if version not in _VERSIONS or needs:
            versions = f"schema version {version}{f' with {needs}' if needs else ''}"
            read = f"this hepflow reads {' and '.join(map(str, _VERSIONS))}"
            advice = "Install the version that made it, or run `hepflow features` again."
            raise DataError(f"{path}: store of {versions}, {read}. {advice}")
        with recorded(path / GROUP):
            spec, complete = StoreSpec.from_dict(about), about["complete"]
        if not complete:
            what = "the store is unfinished. Repeat `hepflow features` to resume."
            raise DataError(f"{path}: {what}")
        store = cls(path, spec)
        store.__dict__["_group"] = group
        return store

    @property
    def attributes(self) -> dict[str, Any]:
        """Spec, ``complete``, ``counts``, ``statistics`` and ``ledger``."""
        return _attributes(self.path, self._group) or {}

    @property
    def statistics(self) -> dict[str, Any]:
        """Statistics of the training split: ``hlf`` and ``particles`` -> `Moments.statistics`."""
        return self.attributes["statistics"]

    def summary(self) -> str:
        """Return one line for a person."""
        counts = self.attributes["counts"]
        splits = {split: sum(counts[split].values()) for split in SPLITS}
        classes = {name: sum(counts[split][name] for split in SPLITS) for name in self.spec.classes}
        texts = [", ".join(f"{n:,} {name}" for name, n in d.items()) for d in (splits, classes)]
        n_events, definitions = f"{sum(splits.values()):,} events", self.spec.definitions
        return f"{n_events} ({'; '.join(texts)}), {definitions} definitions"

    @property
    def n_numbers(self) -> int:
        """Numbers that were given to parts so far, also to those that are gone."""
        return int(self.attributes.get("parts", 0))

    def sources(self) -> dict[int, dict[str, str]]:
        """Return the finished parts, and the fingerprint of each fragment that they are made of."""
        return {number: record["sources"] for number, record in self.records.items()}

    def incomplete(self) -> dict[Path, int]:
        """Return missing files, and files of another size than recorded, each with its part."""
        there = sizes_below(self.path)
        own = layouts(self.spec)
        files = {
            own[name].shard_path(Path(name), number): (number, size)
            for number, record in self.records.items()
            for name, size in record["bytes"].items()
        }
        return {
            self.path / path.as_posix(): number
            for path, (number, size) in files.items()
            if there.get(path.as_posix()) != size
        }

    def ledger(self) -> Ledger:
        """Return the sum of the ledgers of all parts."""
        ledgers = (Ledger.from_dict(record["ledger"]) for record in self.records.values())
        return total(ledgers).check()

    def ranges(self, split: str, class_name: str) -> list[Range]:
        """Return the events of a class in a split, in the order of their rows."""
        return self._places.get((split, class_name), [])

    def all_ranges(self, *splits: str) -> list[Range]:
        """Return the ranges of some splits, class by class."""
        places = product(splits, self.spec.classes)
        return list(chain.from_iterable(self.ranges(*place) for place in places))

    def read(
        self, rows: Range, start: int = 0, stop: int | None = None, *, particles: bool = True
    ) -> EventBlock:
        """Return events ``start:stop`` of a range; without ``particles``, every event has none."""
        start, stop, _ = slice(start, stop).indices(rows.n_events)
        first, last = rows.first + start, rows.first + max(start, stop)
        stops = {"hlf": last, "label": last, "event_id": last}
        if particles:
            stops["offsets"] = last + 1
        # the round trips of a remote store at the same time
        together = _threads(os.getpid()).map if is_remote(self.path) else map
        arrays = together(lambda name: self._array(rows, name).read(first, stops[name]), stops)
        hlf, label, event_id, *rest = arrays
        if not particles:
            none = np.empty((0, len(self.spec.particles)), dtype=np.float32)
            return EventBlock(hlf, none, np.zeros(len(hlf) + 1, dtype=np.int64), label, event_id)
        (offsets,) = rest
        if len(offsets) != last - first + 1 or offsets[-1] - offsets[0] > rows.n_particles:
            array = self._array(rows, "offsets")
            where = array.shard_path(first // array.rows_per_shard)
            raise DataError(f"{where}: offsets of other events than recorded. {REPAIR}")
        found = self._array(rows, "particles").read(int(offsets[0]), int(offsets[-1]))
        return EventBlock(hlf, found, offsets - offsets[0], label, event_id)

    def size(self, *ranges: Range) -> tuple[int, int]:
        """Return the bytes of the particles of ranges, uncompressed, and their events."""
        n_particles = sum(rows.n_particles for rows in ranges)
        return 4 * len(self.spec.particles) * n_particles, sum(rows.n_events for rows in ranges)

    def blocks(self, split: str, *, particles: bool = True) -> Iterator[EventBlock]:
        """Read every range of a split, class by class; see `read` for ``particles``."""
        return (self.read(rows, particles=particles) for rows in self.all_ranges(split))

    def high_level(self, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return features (N, n_hlf), labels (N) and event_ids (N) of a split that has events."""
        blocks = self.blocks(split, particles=False)
        columns = zip(*((block.hlf, block.label, block.event_id) for block in blocks), strict=True)
        hlf, label, event_id = map(np.concatenate, columns)
        return hlf, label, event_id

    def lengths(self, rows: Range, start: int, stop: int) -> np.ndarray:
        """Return the number of particles of events ``start:stop`` of a range, (stop - start)."""
        first, last = rows.first + start, rows.first + stop
        return np.diff(self._array(rows, "offsets").read(first, last + 1))

    def _array(self, rows: Range, name: str) -> ShardedArray:
        path = rows.place(self.path) / name
        if path not in self._arrays:
            about = None if rows.group else self._about(name)
            self._arrays[path] = ShardedArray.open(path, about, keep=True)
        return self._arrays[path]

    def _about(self, name: str) -> Any:
        """Return the metadata of an array if the store's own file has them."""
        with recorded(self.path / GROUP):
            return self._group.get("consolidated_metadata", {}).get("metadata", {}).get(name)

    @cached_property
    def _group(self) -> Any:
        return read_group(self.path)

    @cached_property
    def records(self) -> dict[int, Record]:
        """Records of the finished parts, by number (`hepflow.data.records`)."""
        old = self.attributes.get("schema_version") == 1
        return read_old_records(self.path) if old else read_records(self.path)

    @cached_property
    def range_rows(self) -> np.ndarray:
        """Rows of ``ranges``, (ranges, 6)."""
        return ShardedArray.open(self.path / RANGES, self._about(RANGES)).read()

    @cached_property
    def parts(self) -> dict[int, list[Range]]:
        """Ranges of events in each part, in the order of their rows."""
        found = defaultdict(list)
        if self.attributes.get("schema_version") == 1:
            for number, record in self.records.items():
                for split, class_name, *sizes_and_group in record["ranges"]:
                    found[number].append(Range(split, class_name, 0, *sizes_and_group))
            return dict(found)
        with recorded(self.path / RANGES):
            rows = self.range_rows
            split, label, first, n_events, *_ = rows.T
            last = self.n_numbers * ROWS_PER_PART - first
            ends = ((split, len(SPLITS)), (label, len(self.spec.classes)), (n_events, last))
            if (rows < 0).any() or any((column >= end).any() for column, end in ends):
                raise ValueError("rows out of the store")
            for split, label, first, n_events, _, n_particles in rows.tolist():
                place = SPLITS[split], self.spec.classes[label]
                one = Range(*place, first, n_events, n_particles)
                found[first // ROWS_PER_PART].append(one)
        return dict(found)

    @cached_property
    def _places(self) -> dict[tuple[str, str], list[Range]]:
        found = defaultdict(list)
        for one in chain.from_iterable(self.parts.values()):
            found[one.split, one.class_name].append(one)
        return dict(found)

    def orphans(self) -> list[Path]:
        """Return the shards of parts that have no record."""
        folders = ((name, self.path / name) for name in ARRAYS if name != RANGES)
        return [
            path
            for name, folder in folders
            for path in listed(folder, "c.*", links=False)
            if int(path.name.split(".")[1]) not in self.records
        ]


@cache
def _threads(_: int) -> ThreadPoolExecutor:
    """Return threads that wait for the arrays of a remote part; a forked process needs its own."""
    return ThreadPoolExecutor(16, thread_name_prefix="hepflow-store")


def read_group(path: Path) -> Any:
    """Return the content of the ``zarr.json`` of a store; nothing if there is none."""
    return read_json(path / GROUP) if (path / GROUP).is_file() else {}


def read_attributes(path: Path) -> dict[str, Any] | None:
    """Return what hepflow has written about a store; None if there is nothing."""
    return _attributes(path, read_group(path))


def _attributes(path: Path, group: Any) -> dict[str, Any] | None:
    with recorded(path / GROUP):
        found: dict[str, Any] | None = group.get("attributes", {}).get("hepflow")
    return found


open_store = EventStore.open
