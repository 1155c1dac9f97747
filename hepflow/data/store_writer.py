"""The only writer of features.zarr (`hepflow.data.store` reads it): parts, then `finalise`.

A part without a record does not exist, and a killed writer leaves nothing that counts. The number
of a part is never given to another one, so what was read of a shard stays true. Bytes depend on the
events only: no times, no host names, no order of arrival.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from hepflow.data.arrays import Layout, ShardWriter
from hepflow.data.blocks import StoreSpec
from hepflow.data.layout import (
    ARRAYS,
    PARTICLES_PER_PART,
    RANGE_COLUMNS,
    RANGES,
    ROWS_PER_PART,
    layouts,
)
from hepflow.data.ledger import Ledger
from hepflow.data.moments import Moments
from hepflow.data.output import refuse_to_replace
from hepflow.data.part_writer import Blocks, PartWriter
from hepflow.data.records import PARTS, merge_records, remove_plan, remove_single_records
from hepflow.data.store import GROUP, EventStore, read_attributes
from hepflow.errors import ConfigError, DataError
from hepflow.schema import SPLITS, STORE_SCHEMA_VERSION
from hepflow.system import seal
from hepflow.system.files import recorded
from hepflow.system.publishing import put, remove_drafts, whole
from hepflow.system.storage import (
    flush_names,
    listed,
    make_folder,
    remove,
    remove_all,
    remove_tree,
    require_no_links,
)


class StoreWriter(EventStore):
    """A feature store in the making."""

    @classmethod
    def create(cls, path: Path, spec: StoreSpec, *, keep: bool = False) -> Self:
        """Return a new empty store, or the present one to continue.

        A store of another provenance is replaced. With ``keep`` and the same settings, its parts
        stay, and the caller discards the outdated ones (see `sources` and `discard`). A path that
        holds something else is refused.
        """
        require_no_links(path, (PARTS, *ARRAYS))
        before = read_attributes(path) or {}
        if not before and path.exists():
            names = {one.name for one in listed(path)}
            begun = rf"{PARTS}|\.?zarr\..*"  # interrupted when it was created, or on XRootD
            begun += f"|{'|'.join(ARRAYS)}" * (PARTS in names)
            if not path.is_dir() or not all(re.fullmatch(begun, name) for name in names):
                what = "not a feature store. Remove it, or choose another output."
                raise DataError(f"{path}: {what}")
        same_input = before.get("provenance") == spec.provenance
        same_settings = keep and before.get("settings") == spec.settings
        same_schema = before.get("schema_version") == STORE_SCHEMA_VERSION
        if not same_schema or not (same_input or same_settings):
            remove(path / GROUP, flush=True)  # first: from here on, nobody reads it
            for part in (*(path / name for name in ARRAYS), path):  # and its records last
                remove_tree(part)
            before = {}
        make_folder(path / PARTS)
        about = {"schema_version": STORE_SCHEMA_VERSION, "requires": [], "complete": False}
        about["parts"] = before.get("parts", 0)
        _write_group(path, {**about, "settings": spec.settings, **asdict(spec)})
        store = cls(path, spec)
        store._sweep()
        return store

    @property
    def n_numbers(self) -> int:
        """Numbers that were given to parts so far, also to those that are gone."""
        return max([super().n_numbers, *(number + 1 for number in self.records)])

    def part_writer(self, number: int) -> PartWriter:
        """Return the writer of a part; an earlier attempt is replaced."""
        self.refresh()
        return PartWriter(self.path, self.spec, number)

    def write_part(
        self, number: int, blocks: Blocks, ledger: Ledger, sources: Mapping[str, str] | None = None
    ) -> None:
        """Write a part of one round, whole or not at all."""
        with self.part_writer(number) as part:
            part.add(blocks)
            part.finish(ledger, sources or {})

    def discard(self, numbers: Iterable[int]) -> None:
        """Remove parts, their records first."""
        gone = set(numbers)
        left = {number: record for number, record in self.records.items() if number not in gone}
        merge_records(self.path, left)
        remove_single_records(self.path, gone)
        self.refresh()
        self._sweep()

    def finalise(self) -> Ledger:
        """Add up statistics and ledgers of the parts, and mark the store complete."""
        self._sweep()
        statistics, records = {}, self.records.values()
        for i, name in enumerate(("hlf", "particles")):
            own = [record["moments"][i] for record in records if record["moments"]]
            moments = Moments.total(map(Moments.from_dict, own), len(getattr(self.spec, name)))
            statistics[name] = moments.statistics()
        ledger = self.ledger()
        counts = {
            split: {
                name: sum(rows.n_events for rows in self.ranges(split, name))
                for name in self.spec.classes
            }
            for split in SPLITS
        }
        n_parts, metadata = self.n_numbers, {RANGES: self._write_ranges()}
        for name, layout in layouts(self.spec).items():
            make_folder(self.path / name)
            metadata[name] = layout.describe(self.path / name, n_parts * layout.rows_per_shard)
        merge_records(self.path, self.records)
        flush_names(self.path)  # of folders that a killed process has created
        sums = {"counts": counts, "statistics": statistics, "ledger": ledger.to_dict()}
        about = {**self.attributes, "complete": True, "parts": n_parts, **sums}
        _write_group(self.path, about, metadata)
        del self.__dict__["_group"]
        self.tidy()
        return ledger

    def tidy(self) -> None:
        """Remove from a complete store what only an unfinished one needs: single records, the plan.

        A run that was killed after the store was complete has left them.
        """
        singles = listed(self.path / PARTS, "*.json")
        remove_all(path for path in singles if path.stem.isdecimal())
        remove_plan(self.path)

    @cached_property
    def range_rows(self) -> np.ndarray:
        """Rows of ``ranges``, (ranges, 6), from the records of parts."""
        found = []
        for number, record in self.records.items():
            first, first_particle = number * ROWS_PER_PART, number * PARTICLES_PER_PART
            with recorded(self.path / PARTS):
                for split, class_name, n_events, n_particles in record["ranges"]:
                    place = SPLITS.index(split), self.spec.classes.index(class_name)
                    found.append((*place, first, n_events, first_particle, n_particles))
                    first, first_particle = first + n_events, first_particle + n_particles
        return np.array(found, dtype=np.int64).reshape(-1, len(RANGE_COLUMNS))

    def _write_ranges(self) -> Any:
        rows, array = self.range_rows, self.path / RANGES
        layout = Layout("<i8", max(1, len(rows)), 1, columns=len(RANGE_COLUMNS))
        make_folder(array)
        with whole(layout.shard_path(array, 0)) as path, ShardWriter(path, layout) as writer:
            writer.append(rows)
            writer.finish()
        names = {"columns": RANGE_COLUMNS, "splits": SPLITS, "classes": self.spec.classes}
        return layout.describe(array, len(rows), **names)

    def refresh(self) -> None:
        """Read records and arrays again when they are needed: other processes write parts."""
        self._arrays.clear()
        for name in ("_group", "records", "parts", "range_rows", "_places"):
            self.__dict__.pop(name, None)

    def _sweep(self) -> None:
        """Remove what killed writers have left: drafts, and shards of parts without a record."""
        remove_drafts(self.path)
        remove_all(self.orphans())


def _write_group(path: Path, about: Any, arrays: Mapping[str, Any] | None = None) -> None:
    """Write the metadata of the Zarr group, and of its arrays; readers see the old or new ones."""
    attributes = {seal.KEY: seal.EMPTY, "hepflow": about}
    group = {"attributes": attributes, "zarr_format": 3, "node_type": "group"}
    if arrays:
        group["consolidated_metadata"] = {
            "kind": "inline",
            "must_understand": False,
            "metadata": dict(sorted(arrays.items())),
        }
    put(path / GROUP, seal.sealed(json.dumps(group, indent=2).encode()))


def check_replaceable(path: Path, spec: StoreSpec, settings: Iterable[str]) -> StoreSpec | None:
    """Return the finished store at a path, if any; refuse it if settings or versions differ."""
    try:
        present = EventStore.open(path)
    except DataError:
        return None
    before, now = ({name: getattr(one, name) for name in settings} for one in (present.spec, spec))
    refuse_to_replace(path, "a store", before, now)
    if present.attributes["schema_version"] != STORE_SCHEMA_VERSION:
        what = "holds a store of version 1, to which nothing can be added"
        advice = "Convert it with `hepflow store compact`, or --overwrite to make it again."
        raise ConfigError(f"{path} {what}. {advice}")
    return present.spec
