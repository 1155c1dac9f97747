"""What a Spark task does: shares of ROOT files -> one Parquet fragment and the record of what became of every entry.

Both are written beside their place and renamed into it, the record last. The fragment's name says what is in it: the same shares
of the same files under the same settings give the same name and the same bytes, so a task may run twice, or die at any point.
"""

import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hepflow.data.events import arrow_schema
from hepflow.data.provenance import digest
from hepflow.physics import skim
from hepflow.reading.arrow import event_columns, to_arrow
from hepflow.reading.ranges import EntryRange
from hepflow.reading.reader import Access, Chunk, RangeReader
from hepflow.reading.record import WORKER_DIED, RangeRecord
from hepflow.schema import EVENTS_SCHEMA_VERSION
from hepflow.system.files import write_json

RECORDS = "_records"
ROWS_PER_GROUP = 1000
"""Events a Parquet row group: what the features stage can read of a fragment at a time."""


@dataclass(frozen=True)
class Settings:
    """What all tasks of a run have in common."""

    output: Path
    classes: tuple[str, ...]
    access: Access

    @property
    def key(self) -> str:
        """Changes with whatever changes the fragments."""
        return digest(
            EVENTS_SCHEMA_VERSION,
            self.classes,
            self.access.tree,
            skim.LEPTON_PT,
            skim.SOFT,
            ROWS_PER_GROUP,
        )

    def task_key(self, task: Sequence[EntryRange]) -> str:
        """Name of a task: which shares, read how."""
        return digest(self.key, [split.key for split in task])

    def record_path(self, key: str) -> Path:
        """Where the record of a task lies."""
        return self.output / RECORDS / f"{key}.json"


@dataclass(frozen=True)
class TaskRecord:
    """A finished task, as the file ``_records/KEY.json``."""

    key: str
    fragment: str | None
    """Parquet file below the dataset; None if no event passed."""
    n_events: int
    bytes_written: int
    ranges: tuple[RangeRecord, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for JSON; the key of the ranges is ``shares``."""
        data = {**vars(self), "shares": [one.to_dict() for one in self.ranges]}
        del data["ranges"]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the record of `to_dict`."""
        rest = dict(data)
        return cls(ranges=tuple(map(RangeRecord.from_dict, rest.pop("shares"))), **rest)


def run_task(
    task: Sequence[EntryRange], settings: Settings, last_attempt: bool = False
) -> TaskRecord:
    """Read, skim and write the shares of one task.

    Parameters
    ----------
    task : sequence of EntryRange
        Of one class.
    settings : Settings
    last_attempt : bool
        Earlier attempts died: give up the share that the one before was reading, so that one file cannot take the job down.

    Returns
    -------
    Record
        Also written to the dataset.
    """
    key = settings.task_key(task)
    marker = settings.record_path(key).with_name(f".{key}.now")
    deadly = marker.read_text() if last_attempt and marker.exists() else None
    try:
        with _Fragment(settings.output / task[0].file.class_name) as fragment:
            results = []
            for split in task:
                if split.key == deadly:
                    results.append(RangeRecord(split, lost={WORKER_DIED: None}, transient=True))
                    continue
                marker.write_text(split.key)
                results.append(_read_share(split, settings, fragment))
            name, size = fragment.finish(_fragment_name(task, results, settings))
    except (
        OSError
    ):  # of the output's, as one that reading meets is its share's: no file is to blame
        marker.unlink(missing_ok=True)
        raise
    record = TaskRecord(
        key, name and f"{task[0].file.class_name}/{name}", fragment.n_events, size, tuple(results)
    )
    write_json(settings.record_path(key), record.to_dict())
    marker.unlink(missing_ok=True)
    return record


def _read_share(split: EntryRange, settings: Settings, fragment: "_Fragment") -> RangeRecord:
    reader = RangeReader(split, access=settings.access)
    rejected: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    kept = 0
    for piece in reader.chunks():
        if piece.events is None:
            lost[piece.reason] += piece.stop - piece.start
            continue
        finite = skim.is_finite(piece.events)
        passed = finite & skim.has_lepton(piece.events)
        lost[skim.NOT_FINITE] += int((~finite).sum())
        rejected[skim.NO_LEPTON] += int((finite & ~passed).sum())
        kept += int(passed.sum())
        if passed.any():
            fragment.write(_table(piece, passed, reader, settings))
    return reader.record(kept, rejected, lost)


def _table(piece: Chunk, passed: np.ndarray, reader: RangeReader, settings: Settings) -> pa.Table:
    """The events that passed, in the columns of the dataset."""
    assert reader.uuid is not None
    assert piece.events is not None
    file = reader.range.file
    entries = np.arange(piece.start, piece.stop, dtype=np.int64)[passed]
    columns = event_columns(file, settings.classes.index(file.class_name), reader.uuid, entries)
    return to_arrow(skim.drop_soft(piece.events[passed]), columns, arrow_schema())


def _fragment_name(
    task: Sequence[EntryRange], results: Sequence[RangeRecord], settings: Settings
) -> str:
    content = [
        (r.range.file.name, r.uuid, r.range.file.size, r.start, r.stop, r.n_out, dict(r.lost))
        for r in results
    ]
    stem = PurePosixPath(task[0].file.name).stem
    return f"{stem}-{task[0].index:04d}-{digest(settings.key, content)}.parquet"


@dataclass
class _Fragment:
    """A Parquet file that does not exist before it is finished, in row groups of `ROWS_PER_GROUP`."""

    folder: Path
    n_events: int = 0
    _waiting: list[pa.Table] = field(default_factory=list)
    _writer: pq.ParquetWriter | None = None

    def __enter__(self) -> Self:
        """Itself."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._part = self.folder / f".{uuid.uuid4().hex}.part"
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing half-written behind."""
        try:
            if self._writer is not None:
                self._writer.close()
        finally:
            self._part.unlink(missing_ok=True)

    def write(self, table: pa.Table) -> None:
        """Add events."""
        self.n_events += len(table)
        self._waiting.append(table)
        if sum(map(len, self._waiting)) >= ROWS_PER_GROUP:
            self._flush(whole_groups=True)

    def finish(self, name: str) -> tuple[str | None, int]:
        """Give the file its name, if it holds any event; its name and bytes."""
        self._flush(whole_groups=False)
        if self._writer is None:
            return None, 0
        self._writer.close()
        self._writer = None
        size = self._part.stat().st_size
        self._part.replace(self.folder / name)
        return name, size

    def _flush(self, whole_groups: bool) -> None:
        if not self._waiting:
            return
        table = pa.concat_tables(
            self._waiting
        ).combine_chunks()  # or the bytes would depend on the steps they were read in
        rows = len(table) // ROWS_PER_GROUP * ROWS_PER_GROUP if whole_groups else len(table)
        if self._writer is None:
            self._writer = pq.ParquetWriter(
                self._part, table.schema, compression="zstd", use_dictionary=_DICTIONARY
            )
        self._writer.write_table(table.slice(0, rows), row_group_size=ROWS_PER_GROUP)
        self._waiting = [table.slice(rows)] if rows < len(table) else []


_DICTIONARY = [
    f"{field.name}.list.element.{child.name}" if pa.types.is_list(field.type) else field.name
    for field in arrow_schema()
    for child in (field.type.value_type if pa.types.is_list(field.type) else [field])
    if pa.types.is_string(child.type) or pa.types.is_int32(child.type)
]
"""Columns worth a dictionary: strings and small integers. Floats are all different."""
