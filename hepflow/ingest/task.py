"""A Spark task: entry ranges of ROOT files -> one Parquet fragment, and a record of every entry.

Both are written next to their place and renamed into it, the record last. The name of the fragment
holds a hash of its content: the same ranges of the same files with the same settings give the same
name and the same bytes, so a task may run twice, or die at any point.
"""

import gc
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Self

import numpy as np

from hepflow.data import events
from hepflow.data.catalog import FragmentFile
from hepflow.data.fragment_writer import ROWS_PER_GROUP, FragmentWriter
from hepflow.data.provenance import digest
from hepflow.data.task_records import record_path
from hepflow.physics import skim
from hepflow.reading.ranges import EntryRange
from hepflow.reading.reader import Access, RangeReader
from hepflow.reading.record import WORKER_DIED, Losses, RangeRecord
from hepflow.schema import EVENTS_SCHEMA_VERSION
from hepflow.system.files import inside, write_json
from hepflow.system.publishing import put
from hepflow.system.storage import remove


@dataclass(frozen=True)
class Settings:
    """Settings of all tasks of a run."""

    output: Path
    classes: tuple[str, ...]
    access: Access

    @cached_property
    def key(self) -> str:
        """Hash of everything that changes fragments, other than the files."""
        tree, cuts = self.access.tree, (skim.LEPTON_PT, skim.SOFT)
        return digest(EVENTS_SCHEMA_VERSION, self.classes, tree, *cuts, ROWS_PER_GROUP)

    def task_key(self, task: Sequence[EntryRange]) -> str:
        """Return the name of a task: a hash of its ranges and these settings."""
        return digest(self.key, [one.key for one in task])


@dataclass(frozen=True)
class TaskRecord:
    """A finished task, as in ``_records/``."""

    key: str
    fragment: str | None  # Parquet file below the dataset; None if no event passed
    n_events: int
    bytes_written: int
    ranges: tuple[RangeRecord, ...]
    file: FragmentFile | None = None
    """Description of the fragment, for the catalogue; None also in records of version 0.1."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for JSON, where the key of the ranges is ``shares``."""
        data = {**vars(self), "shares": [one.to_dict() for one in self.ranges]}
        data["file"] = self.file and self.file.to_json()
        del data["ranges"]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the record of `to_dict`."""
        rest = dict(data)
        ranges = tuple(map(RangeRecord.from_dict, rest.pop("shares")))
        if rest["fragment"] is not None:
            inside(rest["fragment"])
        file = rest.pop("file", None)
        return cls(ranges=ranges, file=file and FragmentFile.from_json(file), **rest)


@cache
def spare_imports() -> None:
    """Exclude from the collection of garbage what the first task of a process has left.

    That is mostly imported. pyspark collects after every task, which would take 20 ms.
    """
    gc.collect()
    gc.freeze()


def run_task(
    task: Sequence[EntryRange], settings: Settings, last_attempt: bool = False
) -> TaskRecord:
    """Read, skim and write entry ranges of one class, and write and return their record.

    After other attempts died, the last one skips the range at which they did: one file cannot stop
    the job.
    """
    key, folder = settings.task_key(task), task[0].file.class_name
    marker = record_path(settings.output, key).with_name(f".{key}.now")  # the range being read
    deadly = marker.read_text() if last_attempt and marker.exists() else None
    results = []
    try:
        with FragmentWriter(settings.output / folder) as fragment:
            for one in task:
                if one.key == deadly:
                    results.append(RangeRecord(one, lost={WORKER_DIED: None}, transient=True))
                else:
                    put(marker, one.key.encode(), flush=False)  # nobody reads it later
                    results.append(_skim(one, settings, fragment))
            # Whatever makes the content another one is in the name.
            content = [
                (r.range.file.name, r.uuid, r.range.file.size, r.start, r.stop, r.n_out, r.lost)
                for r in results
            ]
            stem = PurePosixPath(task[0].file.name).stem
            name = f"{stem}-{task[0].index:04d}-{digest(settings.key, content)}.parquet"
            file = fragment.finish(name)
    except OSError:  # of the output: those of reading are in the results
        remove(marker)  # no file is to blame
        raise
    written, size = (f"{folder}/{name}", file.size) if file else (None, 0)
    record = TaskRecord(key, written, fragment.n_events, size, tuple(results), file)
    write_json(record_path(settings.output, key), record.to_dict())
    remove(marker)
    return record


def _skim(entries: EntryRange, settings: Settings, fragment: FragmentWriter) -> RangeRecord:
    """Write the events of a range that pass, and count all of them."""
    reader = RangeReader(entries, access=settings.access)
    file, label = entries.file, settings.classes.index(entries.file.class_name)
    rejected, lost, n_out = Counter[str](), Losses(), 0
    for chunk in reader.chunks():
        if chunk.events is None:
            lost.add(chunk.reason, chunk.start, chunk.stop)
            continue
        finite = skim.is_finite(chunk.events)
        passed = finite & skim.has_lepton(chunk.events)
        lost.add_each(skim.NOT_FINITE, chunk.start + np.flatnonzero(~finite))
        rejected[skim.NO_LEPTON] += int((finite & ~passed).sum())
        n_out += int(passed.sum())
        if passed.any():
            assert reader.uuid is not None
            rows = np.arange(chunk.start, chunk.stop, dtype=np.int64)[passed]
            flat = events.event_columns(file.class_name, label, file.name, reader.uuid, rows)
            kept = skim.drop_soft(chunk.events[passed])
            fragment.write(events.to_arrow(kept, flat, events.arrow_schema()))
    return reader.record(n_out, rejected, lost)
