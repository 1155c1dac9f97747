"""features.zarr: its only writer and reader.

    zarr.json                            StoreSpec, statistics, counts and ledger, in the attributes
    SPLIT/CLASS/PART/                    train, val or test; a part holds
        particles  (particles, features) the particles of all its events, no padding
        offsets    (events + 1)          where the particles of each event start
        hlf        (events, features)
        label, event_id  (events)
    _parts/PART.json                     the record of a part in all splits and classes

A part is written next to its place and renamed into it. Its record is written last, so a part
without a record does not exist, and a killed writer leaves nothing that counts. Bytes depend on the
events only: no times, no host names, no order of arrival. `finalise` adds the records up.
"""

import json
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import cache, cached_property, lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from hepflow.data.arrays import ShardedArray, write_array
from hepflow.data.blocks import EventBlock, Part, StoreSpec
from hepflow.data.ledger import Ledger, total
from hepflow.data.moments import Moments
from hepflow.data.output import refuse_to_replace
from hepflow.errors import DataError
from hepflow.schema import SPLITS, STORE_SCHEMA_VERSION
from hepflow.system.files import read_json, recorded, write_json
from hepflow.system.publishing import publish_folder, put, scratch
from hepflow.system.remote import is_remote
from hepflow.system.storage import listed, make_folder, remove, remove_tree, require_no_links

Blocks = Mapping[tuple[str, str], EventBlock]  # (split, class) -> events
_GROUP = "zarr.json"
_TYPES = {"particles": "f4", "offsets": "i8", "hlf": "f4", "label": "i1", "event_id": "i8"}


class EventStore:
    """A features.zarr: `create` and `write_part` to write it, `open` and `read` to read it."""

    def __init__(self, path: Path, spec: StoreSpec) -> None:
        self.path = path
        self.spec = spec

    @classmethod
    def create(cls, path: Path, spec: StoreSpec, *, keep: bool = False) -> "EventStore":
        """Return a new empty store, or the present one to continue.

        A store of another provenance is replaced. With ``keep`` and the same settings, its parts
        stay, and the caller discards the outdated ones (see `sources` and `discard`). A path that
        holds something else is refused.
        """
        folders = (f"{split}/{name}" for split in SPLITS for name in spec.classes)
        require_no_links(path, ("_parts", *SPLITS, *folders))
        before = _attributes(path) or {}
        if not before and path.exists():
            names = {one.name for one in listed(path)}
            begun = r"_parts|\.?zarr\..*"  # interrupted when it was created, or on XRootD
            begun += "|train|val|test" * ("_parts" in names)
            if not path.is_dir() or not all(re.fullmatch(begun, name) for name in names):
                what = "not a feature store. Remove it, or choose another output."
                raise DataError(f"{path}: {what}")
        same_input = before.get("provenance") == spec.provenance
        same_settings = keep and before.get("settings") == spec.settings
        same_schema = before.get("schema_version") == STORE_SCHEMA_VERSION
        if not same_schema or not (same_input or same_settings):
            remove_tree(path)
        make_folder(path / "_parts")
        _sweep(path)
        about = {"schema_version": STORE_SCHEMA_VERSION, "complete": False}
        _write_group(path, hepflow={**about, "settings": spec.settings, **asdict(spec)})
        for split in SPLITS:
            for group in (path / split, *(path / split / name for name in spec.classes)):
                make_folder(group)
                if not (group / _GROUP).is_file():
                    _write_group(group)
        return cls(path, spec)

    @classmethod
    def open(cls, path: Path) -> "EventStore":
        """Return a finished feature store, of this schema version."""
        about = _attributes(path)
        if about is None:
            what = f"no feature store here. Make one with `hepflow features --output {path}`."
            if listed(path, "*/*.parquet"):
                what = f"Parquet events. Make a store of them: `hepflow features --input {path}`."
            raise DataError(f"{path}: {what}")
        version = about.get("schema_version")
        if version != STORE_SCHEMA_VERSION:
            versions = f"schema version {version}, this hepflow reads {STORE_SCHEMA_VERSION}"
            raise DataError(f"{path}: store of {versions}. Run `hepflow features` again.")
        with recorded(path / _GROUP):
            spec, complete = StoreSpec.from_dict(about), about["complete"]
        if not complete:
            what = "the store is unfinished. Repeat `hepflow features` to resume."
            raise DataError(f"{path}: {what}")
        return cls(path, spec)

    @property
    def attributes(self) -> dict[str, Any]:
        """Spec, ``complete``, ``counts``, ``statistics`` and ``ledger``, read from the file."""
        return _attributes(self.path) or {}

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

    def done(self) -> set[str]:
        """Return the names of the finished parts."""
        return {record.stem for record in listed(self.path / "_parts", "*.json")}

    def sources(self) -> dict[str, str]:
        """Return the fingerprint of the source of each finished part."""
        paths = listed(self.path / "_parts", "*.json")
        return {path.stem: _record(path).get("source", "") for path in paths}

    def discard(self, names: Iterable[str]) -> None:
        """Remove parts, their records first."""
        _opened.cache_clear()
        self.__dict__.pop("_records", None)  # the cached ones
        for name in names:
            remove(self.path / "_parts" / f"{name}.json")
            for split, class_name in product(SPLITS, self.spec.classes):
                remove_tree(self.path / split / class_name / name)

    def write_part(self, name: str, blocks: Blocks, ledger: Ledger, source: str = "") -> None:
        """Write the events of one fragment, whole or not at all; an earlier attempt is replaced."""
        train = [block for (split, _), block in sorted(blocks.items()) if split == "train"]
        hlf = Moments.total([block.hlf for block in train], len(self.spec.hlf))
        particles = Moments.total([block.particles for block in train], len(self.spec.particles))
        parts = []
        folder = scratch() if is_remote(self.path) else self.path
        written = folder / f".{name}-{uuid.uuid4().hex}"
        try:
            for (split, class_name), block in sorted(blocks.items()):
                part = Part(split, class_name, name, len(block), len(block.particles))
                (written / part.path).mkdir(parents=True)
                _write_group(written / part.path)
                for array, kind in _TYPES.items():
                    values = getattr(block, array).astype(kind, copy=False)
                    write_array(written / part.path / array, values)
                parts.append(part)
            if (self.path / "_parts" / f"{name}.json").is_file() or not is_remote(self.path):
                self.discard([name])
            for part in parts:
                publish_folder(written / part.path, self.path / part.path)
        finally:
            remove_tree(written)
        record = {
            "parts": [asdict(part) for part in parts],
            "ledger": ledger.check().to_dict(),
            "moments": [hlf.to_dict(), particles.to_dict()] if hlf.count else None,
            "source": source,
        }
        write_json(self.path / "_parts" / f"{name}.json", record)
        self.__dict__.pop("_records", None)

    def ledger(self) -> Ledger:
        """Return the sum of the ledgers of all parts."""
        return total(Ledger.from_dict(record["ledger"]) for record in self._records).check()

    def finalise(self) -> Ledger:
        """Add up statistics and ledgers of the parts, and mark the store complete."""
        _sweep(self.path)
        statistics = {}
        for i, name in enumerate(("hlf", "particles")):
            own = [record["moments"][i] for record in self._records if record["moments"]]
            moments = Moments.total(map(Moments.from_dict, own), len(getattr(self.spec, name)))
            statistics[name] = moments.statistics()
        ledger = self.ledger()
        counts = {split: dict.fromkeys(self.spec.classes, 0) for split in SPLITS}
        for part in self._parts:
            counts[part.split][part.class_name] += part.n_events
        sums = {"counts": counts, "statistics": statistics, "ledger": ledger.to_dict()}
        about = {**self.attributes, "complete": True, **sums}
        _write_group(self.path, hepflow=about)
        return ledger

    def parts(self, split: str, class_name: str) -> list[Part]:
        """Return the parts of a class in a split, by name."""
        place = (split, class_name)
        return [part for part in self._parts if (part.split, part.class_name) == place]

    def all_parts(self, *splits: str) -> list[Part]:
        """Return the parts of some splits, class by class."""
        places = product(splits, self.spec.classes)
        return [part for split, class_name in places for part in self.parts(split, class_name)]

    def read(
        self, part: Part, start: int = 0, stop: int | None = None, *, particles: bool = True
    ) -> EventBlock:
        """Return events ``start:stop`` of a part; without ``particles``, every event has none."""
        stops = {"hlf": stop, "label": stop, "event_id": stop}
        if particles:
            stops["offsets"] = None if stop is None else stop + 1
        # the round trips of a remote store at the same time
        together = _threads(os.getpid()).map if is_remote(self.path) else map
        arrays = together(lambda name: self._array(part, name).read(start, stops[name]), stops)
        hlf, label, event_id, *rest = arrays
        if not particles:
            none = np.empty((0, len(self.spec.particles)), dtype=np.float32)
            return EventBlock(hlf, none, np.zeros(len(hlf) + 1, dtype=np.int64), label, event_id)
        (offsets,) = rest
        first, last = int(offsets[0]), int(offsets[-1])
        rows = self._array(part, "particles").read(first, last)
        return EventBlock(hlf, rows, offsets - first, label, event_id)

    def blocks(self, split: str, *, particles: bool = True) -> Iterator[EventBlock]:
        """Read every part of a split, class by class; see `read` for ``particles``."""
        return (self.read(part, particles=particles) for part in self.all_parts(split))

    def high_level(self, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return features (N, n_hlf), labels (N) and event_ids (N) of a split that has events."""
        blocks = self.blocks(split, particles=False)
        columns = zip(*((block.hlf, block.label, block.event_id) for block in blocks), strict=True)
        hlf, label, event_id = map(np.concatenate, columns)
        return hlf, label, event_id

    def lengths(self, part: Part, start: int, stop: int) -> np.ndarray:
        """Return the number of particles of events ``start:stop`` of a part, (stop - start)."""
        return np.diff(self._array(part, "offsets").read(start, stop + 1))

    def _array(self, part: Part, name: str) -> ShardedArray:
        path = self.path / part.path / name
        return _opened(path) if is_remote(path) else ShardedArray.open(path)

    @cached_property
    def _records(self) -> list[dict[str, Any]]:
        with ThreadPoolExecutor(16) as pool:  # a remote store answers in tens of milliseconds
            return list(pool.map(_record, listed(self.path / "_parts", "*.json")))

    @property
    def _parts(self) -> Iterator[Part]:
        return (Part(**row) for record in self._records for row in record["parts"])


# A part keeps its arrays until it is discarded, so what was learnt of one stays true.
_opened = lru_cache(maxsize=20_000)(ShardedArray.open)


@cache
def _threads(_: int) -> ThreadPoolExecutor:
    """Return threads that wait for the arrays of a remote part; a forked process needs its own."""
    return ThreadPoolExecutor(16, thread_name_prefix="hepflow-store")


def _record(path: Path) -> dict[str, Any]:
    """Return the record of a part, whose names stay in the store."""
    with recorded(path):
        record: dict[str, Any] = read_json(path)
        for row in record["parts"]:
            Part(**row)
        Ledger.from_dict(record["ledger"])
    return record


def _attributes(path: Path) -> dict[str, Any] | None:
    metadata = path / _GROUP
    about = read_json(metadata) if metadata.is_file() else {}
    with recorded(metadata):
        found: dict[str, Any] | None = about.get("attributes", {}).get("hepflow")
    return found


def _write_group(path: Path, **attributes: Any) -> None:
    """Write the metadata of a Zarr group; readers see the old or the new ones."""
    about = {"attributes": attributes, "zarr_format": 3, "node_type": "group"}
    put(path / _GROUP, json.dumps(about, indent=2).encode())


def _sweep(path: Path) -> None:
    """Remove the scratch folders of writers that were killed, and unfinished files of zarr."""
    for left_over in listed(path, ".*-*", links=False):
        remove_tree(left_over)
    hidden = ("zarr.*.partial", ".*.part")  # of zarr, in stores of hepflow 0.1, and of ours
    for folder, drafts in product(("", "*/", "*/*/"), hidden):
        for left_over in listed(path, folder + drafts, links=False):
            remove(left_over)


def check_replaceable(path: Path, spec: StoreSpec, settings: Iterable[str]) -> StoreSpec | None:
    """Return the finished store at a path, if any, and refuse it if one of the settings differs."""
    try:
        present = EventStore.open(path).spec
    except DataError:
        return None
    before, now = ({name: getattr(one, name) for name in settings} for one in (present, spec))
    refuse_to_replace(path, "a store", before, now)
    return present


open_store = EventStore.open
