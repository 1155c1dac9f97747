"""features.zarr: the only writer and reader.

A store is a Zarr v3 group ``{split}/{class}/{part}`` of jagged arrays; nothing is padded. A part is written beside its place and
renamed into it; its record in ``_parts/`` is written last, so a part without a record does not exist. The bytes depend on the events
alone: no times, no host names, no order of arrival.
"""

import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from hepflow.data.arrays import ShardedArray, write_array
from hepflow.data.blocks import EventBlock, Part, StoreSpec
from hepflow.data.ledger import Ledger, total
from hepflow.data.moments import Moments
from hepflow.errors import DataError
from hepflow.schema import SPLITS, STORE_SCHEMA_VERSION
from hepflow.system.files import read_json, write_json

_TYPES = {
    "particles": np.float32,
    "offsets": np.int64,
    "hlf": np.float32,
    "label": np.int8,
    "event_id": np.int64,
}


class EventStore:
    """A features.zarr: `create` and `write_part` in the features stage, `open` and `read` everywhere else."""

    def __init__(self, path: Path, spec: StoreSpec) -> None:
        self.path = path
        self.spec = spec

    @classmethod
    def create(cls, path: Path, spec: StoreSpec, *, keep: bool = False) -> "EventStore":
        """A new empty store, or the one that is there, to go on with.

        Parameters
        ----------
        path : Path
        spec : StoreSpec
        keep : bool
            Keep the parts of a store of another provenance if its settings are the same: the caller knows which are still good
            (see `sources` and `discard`). Otherwise a store of another provenance is replaced.

        Raises
        ------
        DataError
            There is something at the path that is not a feature store: it is left alone.
        """
        attributes = _attributes(path)
        if attributes is None and path.exists() and not _is_scratch(path):
            raise DataError(
                f"{path}: there is something here that is not a feature store. Remove it, or choose another output."
            )
        if attributes is None or attributes.get("schema_version") != STORE_SCHEMA_VERSION:
            shutil.rmtree(path, ignore_errors=True)
        elif attributes["provenance"] != spec.provenance and not (
            keep and attributes.get("settings") == spec.settings
        ):
            shutil.rmtree(path)
        path.mkdir(parents=True, exist_ok=True)
        (path / "_parts").mkdir(exist_ok=True)
        _sweep(path)
        root = zarr.open_group(path, mode="a", zarr_format=3)
        root.attrs["hepflow"] = {
            "schema_version": STORE_SCHEMA_VERSION,
            "complete": False,
            "settings": spec.settings,
            **asdict(spec),
        }
        for split in SPLITS:
            for class_name in spec.classes:
                root.require_group(f"{split}/{class_name}")
        return cls(path, spec)

    @classmethod
    def open(cls, path: Path) -> "EventStore":
        """A finished store.

        Raises
        ------
        DataError
            It is missing, unfinished, or of another schema version.
        """
        attributes = _attributes(path)
        if attributes is None and next(path.glob("*/*.parquet"), None) is not None:
            raise DataError(
                f"{path}: Parquet events, which `hepflow features --input {path}` reads. Give the feature store that it writes."
            )
        if attributes is None:
            raise DataError(
                f"{path}: no feature store here. Make one with `hepflow features --output {path}`."
            )
        version = attributes.get("schema_version")
        if version != STORE_SCHEMA_VERSION:
            raise DataError(
                f"{path}: store of schema version {version}, this hepflow reads {STORE_SCHEMA_VERSION}. Run `hepflow features` again."
            )
        if not attributes["complete"]:
            raise DataError(
                f"{path}: the store is unfinished. Run the same `hepflow features` command again: it goes on where it stopped."
            )
        return cls(path, StoreSpec.from_dict(attributes))

    @property
    def attributes(self) -> dict[str, Any]:
        """The store's own description: spec, ``complete``, ``counts``, ``statistics`` and ``ledger``."""
        return _attributes(self.path) or {}

    @property
    def statistics(self) -> dict[str, Any]:
        """``hlf`` and ``particles``: count, and mean, std, min, max a feature, of the training split alone."""
        return self.attributes["statistics"]

    def summary(self) -> str:
        """One line for a person."""
        counts = self.attributes["counts"]
        splits = ", ".join(f"{sum(counts[split].values()):,} {split}" for split in SPLITS)
        classes = ", ".join(
            f"{sum(counts[split][name] for split in SPLITS):,} {name}" for name in self.spec.classes
        )
        return f"{sum(sum(c.values()) for c in counts.values()):,} events ({splits}; {classes}), {self.spec.definitions} definitions"

    def done(self) -> set[str]:
        """Names of the parts that are written."""
        return {record.stem for record in (self.path / "_parts").glob("*.json")}

    def sources(self) -> dict[str, str]:
        """Part that is written -> the fingerprint of what it was made from."""
        paths = (self.path / "_parts").glob("*.json")
        return {path.stem: read_json(path).get("source", "") for path in sorted(paths)}

    def discard(self, names: Iterable[str]) -> None:
        """Remove parts, their records first."""
        self.__dict__.pop("_records", None)  # what was read of them before
        for name in names:
            (self.path / "_parts" / f"{name}.json").unlink(missing_ok=True)
            for split in SPLITS:
                for class_name in self.spec.classes:
                    shutil.rmtree(self.path / split / class_name / name, ignore_errors=True)

    def write_part(
        self,
        name: str,
        blocks: Mapping[tuple[str, str], EventBlock],
        ledger: Ledger,
        source: str = "",
    ) -> None:
        """Write what one fragment gave, whole or not at all; what an earlier try left is replaced.

        Parameters
        ----------
        name : str
            Unique to the fragment.
        blocks : mapping
            (split, class) -> events.
        ledger : Ledger
            What came of the fragment's events.
        source : str
            Fingerprint of the fragment, by which a later run knows whether the part is still good.
        """
        scratch = self.path / f".{name}-{uuid.uuid4().hex}"
        parts = []
        train = [block for (split, _), block in sorted(blocks.items()) if split == "train"]
        hlf = Moments.total([block.hlf for block in train], len(self.spec.hlf))
        particles = Moments.total([block.particles for block in train], len(self.spec.particles))
        moments = [hlf.to_dict(), particles.to_dict()] if hlf.count else None
        try:
            for (split, class_name), block in sorted(blocks.items()):
                part = Part(split, class_name, name, len(block), len(block.particles))
                _write_block(scratch / part.path, block)
                parts.append(part)
            self.discard([name])
            for part in parts:
                _move(scratch / part.path, self.path / part.path)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        record = {
            "parts": [asdict(part) for part in parts],
            "ledger": ledger.check().to_dict(),
            "moments": moments,
            "source": source,
        }
        write_json(self.path / "_parts" / f"{name}.json", record)
        self.__dict__.pop("_records", None)

    def ledger(self) -> Ledger:
        """What came in and out over all parts."""
        return total(Ledger.from_dict(record["ledger"]) for record in self._records).check()

    def finalise(self) -> Ledger:
        """Add up the parts' statistics and ledgers, sweep up after killed workers, and mark the store complete."""
        _sweep(self.path)
        moments = [record["moments"] for record in self._records if record["moments"]]
        hlf, particles = (
            Moments.total((Moments.from_dict(own[i]) for own in moments), len(features))
            for i, features in enumerate((self.spec.hlf, self.spec.particles))
        )
        ledger = self.ledger()
        counts = {
            split: {
                name: sum(p.n_events for p in self.parts(split, name)) for name in self.spec.classes
            }
            for split in SPLITS
        }
        root = zarr.open_group(self.path, mode="a")
        root.attrs["hepflow"] = {
            **self.attributes,
            "complete": True,
            "counts": counts,
            "statistics": {"hlf": hlf.statistics(), "particles": particles.statistics()},
            "ledger": ledger.to_dict(),
        }
        return ledger

    def parts(self, split: str, class_name: str) -> list[Part]:
        """Parts of a class in a split, by name."""
        rows = (Part(**row) for record in self._records for row in record["parts"])
        return [part for part in rows if part.split == split and part.class_name == class_name]

    def read(
        self, part: Part, start: int = 0, stop: int | None = None, *, particles: bool = True
    ) -> EventBlock:
        """Events ``start:stop`` of a part; without ``particles`` they are left on disk and every event has zero of them."""
        group = self.path / part.path
        hlf, label, event_id = (
            ShardedArray.open(group / name).read(start, stop)
            for name in ("hlf", "label", "event_id")
        )
        if not particles:
            none = np.empty((0, len(self.spec.particles)), dtype=np.float32)
            return EventBlock(hlf, none, np.zeros(len(hlf) + 1, dtype=np.int64), label, event_id)
        offsets = ShardedArray.open(group / "offsets").read(
            start, None if stop is None else stop + 1
        )
        first, last = int(offsets[0]), int(offsets[-1])
        return EventBlock(
            hlf,
            ShardedArray.open(group / "particles").read(first, last),
            offsets - first,
            label,
            event_id,
        )

    def lengths(self, part: Part, start: int, stop: int) -> np.ndarray:
        """(stop - start,) particles of each event ``start:stop`` of a part."""
        return np.diff(ShardedArray.open(self.path / part.path / "offsets").read(start, stop + 1))

    @cached_property
    def _records(self) -> list[dict[str, Any]]:
        return [read_json(path) for path in sorted((self.path / "_parts").glob("*.json"))]


def _attributes(path: Path) -> dict[str, Any] | None:
    metadata = path / "zarr.json"
    if not metadata.is_file():
        return None
    return read_json(metadata).get("attributes", {}).get("hepflow")


def _is_scratch(path: Path) -> bool:
    """Whether a folder is empty, or a store whose making stopped before it had a description."""
    return path.is_dir() and all(child.name in {"_parts", "zarr.json"} for child in path.iterdir())


def _sweep(path: Path) -> None:
    """Remove what writers that were killed left beside the parts."""
    for left_over in path.glob(".*-*"):
        shutil.rmtree(left_over, ignore_errors=True)


def _move(source: Path, place: Path) -> None:
    """Rename a folder into its place, over one that another writer of the same part has just put there."""
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        source.rename(place)
    except OSError:
        shutil.rmtree(place, ignore_errors=True)
        source.rename(place)


def _write_block(path: Path, block: EventBlock) -> None:
    zarr.create_group(path, zarr_format=3)
    for name, kind in _TYPES.items():
        write_array(path / name, getattr(block, name).astype(kind, copy=False))


def iter_blocks(store: EventStore, split: str, *, particles: bool = True) -> Iterator[EventBlock]:
    """Every part of a split, class by class; see `EventStore.read` for ``particles``."""
    for class_name in store.spec.classes:
        for part in store.parts(split, class_name):
            yield store.read(part, particles=particles)


def high_level(store: EventStore, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N, n_hlf) features, (N) labels and (N) event_ids of all events of a split, which must have one at least."""
    blocks = list(iter_blocks(store, split, particles=False))
    hlf, label, event_id = (
        np.concatenate([getattr(block, name) for block in blocks])
        for name in ("hlf", "label", "event_id")
    )
    return hlf, label, event_id


def open_store(path: Path) -> EventStore:
    """Open a finished feature store; see `EventStore` for what it offers.

    Raises
    ------
    DataError
        The store is missing, unfinished, or of another schema version.
    """
    return EventStore.open(path)
