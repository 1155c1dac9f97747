"""data/events/: the Parquet dataset between ingest and features, its writer, reader and validator.

    _hepflow.json           classes, ledger, and the fragments of the dataset; written last
    CLASS/NAME.parquet      a fragment: the events of one task, in row groups of 1,000
    _records/               records of finished tasks, which only ingest reads

A row is an event: the flat columns of `hepflow.schema.EVENT_COLUMNS`, then one ``list<struct>`` per
collection. Nothing is null. Readers take the fragments that ``_hepflow.json`` names and no others.
"""

import hashlib
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.parquet import open_parquet_file

from hepflow.data.identity import event_ids
from hepflow.data.ledger import Ledger
from hepflow.data.output import MARKER, read_marker
from hepflow.errors import DataError, one_line
from hepflow.schema import COLLECTIONS, EVENT_COLUMNS, EVENTS_SCHEMA_VERSION
from hepflow.system.byte_ranges import read_range
from hepflow.system.files import inside, plain_name, recorded
from hepflow.system.publishing import draft, publish
from hepflow.system.remote import is_remote
from hepflow.system.storage import listed, make_folder, system_of

COLUMNS = ("label", "event_id", *COLLECTIONS)  # columns that the features are made of
ROWS_PER_GROUP = 1000  # events per row group, the smallest unit that the features stage reads
FRAGMENT_EVENTS = 60_000  # events per fragment, so that a part of the store has room for them
_FOOTER = struct.Struct("<I4s")  # a Parquet file ends in the footer's length and PAR1
_GUESS = 64 << 10  # bytes at the end of a file in which most footers fit


def arrow_schema(columns: Mapping[str, str] = EVENT_COLUMNS) -> pa.Schema:
    """Return the Arrow schema of some flat columns and all collections."""
    field = partial(pa.field, nullable=False)
    schema = [field(name, pa.type_for_alias(kind)) for name, kind in columns.items()]
    for name, members in COLLECTIONS.items():
        content = [field(member, pa.type_for_alias(kind)) for member, kind in members.items()]
        schema.append(field(name, pa.list_(field("element", pa.struct(content)))))
    return pa.schema(schema)


def event_columns(
    sample: str, label: int, file: str, file_uuid: bytes, entries: np.ndarray
) -> dict[str, pa.Array]:
    """Return the flat columns of the entries of a file, (n,) each; ``sample`` is its class."""
    n = len(entries)
    return {
        "sample": pa.repeat(sample, n),
        "label": pa.repeat(pa.scalar(label, pa.int32()), n),
        "event_id": pa.array(event_ids(file_uuid, entries)),
        "file": pa.repeat(file, n),
        "entry": pa.array(entries),
    }


def to_arrow(events: ak.Array, columns: Mapping[str, pa.Array], schema: pa.Schema) -> pa.Table:
    """Return a table of flat columns, (n,) each, and the collections that the schema names."""
    arrays = []
    for field in schema:
        if field.name in columns:
            arrays.append(columns[field.name])
            continue
        packed = ak.to_packed(events[field.name]).layout
        members = list(field.type.value_type)
        values = [pa.array(ak.to_numpy(packed.content[member.name])) for member in members]
        content = pa.StructArray.from_arrays(values, fields=members)
        offsets = packed.offsets.data
        arrays.append(pa.ListArray.from_arrays(offsets, content, type=field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


_DICTIONARY = [
    f"{field.name}.list.element.{child.name}" if pa.types.is_list(field.type) else field.name
    for field in arrow_schema()
    for child in (field.type.value_type if pa.types.is_list(field.type) else [field])
    if pa.types.is_string(child.type) or pa.types.is_int32(child.type)
]
"""Columns with a dictionary: strings and small integers. Floats are all different."""


class FragmentWriter:
    """Writes a Parquet file that gets its name at the end; without `finish`, nothing stays.

    The bytes depend on the events only, not on the tables in which they came.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.n_events = 0
        self._part = draft(folder / "fragment")
        self._waiting: list[pa.Table] = []  # less than a row group
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> Self:
        make_folder(self.folder)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._writer is not None:
                self._writer.close()
        finally:
            self._part.unlink(missing_ok=True)

    def write(self, table: pa.Table) -> None:
        """Add events."""
        self.n_events += len(table)
        self._waiting.append(table)
        n_waiting = sum(map(len, self._waiting))
        if n_waiting >= ROWS_PER_GROUP:
            self._flush(n_waiting // ROWS_PER_GROUP * ROWS_PER_GROUP)

    def finish(self, name: str) -> int:
        """Give the file its name, and return its size in bytes; without events, 0 and no file."""
        if not self.n_events:
            return 0
        self._flush(sum(map(len, self._waiting)))
        assert self._writer is not None
        self._writer.close()
        self._writer = None
        size = self._part.stat().st_size
        publish(self._part, self.folder / name)
        return size

    def _flush(self, rows: int) -> None:
        if rows:
            # chunks combined, or the bytes would depend on them
            table = pa.concat_tables(self._waiting).combine_chunks()
            if self._writer is None:
                how: Any = {"compression": "zstd", "use_dictionary": _DICTIONARY}
                self._writer = pq.ParquetWriter(self._part, table.schema, **how)
            self._writer.write_table(table.slice(0, rows), row_group_size=ROWS_PER_GROUP)
            self._waiting = [table.slice(rows)] if rows < len(table) else []


@dataclass(frozen=True)
class Fragment:
    """Rows that one features task reads: a Parquet file, or some of its row groups."""

    name: str
    """Name in the dataset, and of the part made from it."""
    path: Path
    row_groups: tuple[int, ...]
    n_events: int
    n_bytes: int
    """Uncompressed bytes."""
    fingerprint: str
    """Hash of the content: copying or touching the file does not change it."""
    is_file: bool = False
    """Whether these are all rows of the file."""


@dataclass(frozen=True)
class EventsDataset:
    """A finished dataset of events."""

    path: Path
    classes: tuple[str, ...]
    provenance: str
    ledger: Ledger
    fragments: tuple[Fragment, ...]

    def read(self) -> ak.Array:
        """Return all events, (n,) records, in memory: for samples that fit there."""
        return ak.concatenate([read_fragment(fragment) for fragment in self.fragments])


def open_events(path: Path, task_bytes: int = 128 << 20) -> EventsDataset:
    """Check a dataset, which must be finished, undamaged and not empty, and list its fragments.

    Files of more than ``task_bytes`` uncompressed bytes, or of very many events, are cut between
    row groups.
    """
    about = _about(path)
    with recorded(path / MARKER):
        files = sorted(path / inside(name) for name in about["fragments"])
        classes = tuple(map(plain_name, about["classes"]))
        ledger = Ledger.from_dict(about["ledger"])
    with ThreadPoolExecutor(16) as pool:  # reading footers is mostly waiting for the file system
        lists = list(pool.map(lambda file: _fragments_of(file, path, task_bytes), files))
    fragments = tuple(fragment for found in lists for fragment in found)
    n_events = sum(fragment.n_events for fragment in fragments)
    if n_events != ledger.n_out:
        counts = f"{n_events:,} events in the files, {ledger.n_out:,} in the ledger"
        raise DataError(f"{path}: {counts}. Run `hepflow ingest` again.")
    if n_events == 0:
        raise DataError(f"{path}: no events ({ledger.summary()}). Ingest events that pass.")
    if len({fragment.name for fragment in fragments}) != len(fragments):
        raise DataError(f"{path}: two paths differ only in their separators. Rename one file.")
    return EventsDataset(path, classes, str(about["provenance"]), ledger, fragments)


def read_fragment(fragment: Fragment, columns: Sequence[str] = COLUMNS) -> ak.Array:
    """Return the events of a fragment, (n,) records."""
    groups = list(fragment.row_groups)
    try:
        with _opened(fragment, columns) as source, pq.ParquetFile(source) as file:
            table = file.read_row_groups(groups, columns=list(columns), use_threads=False)
            if len(table) != fragment.n_events:
                raise pa.ArrowInvalid(f"{len(table)} rows of {fragment.n_events}")
    except (OSError, pa.ArrowException) as error:
        why = f"not readable ({one_line(error)}). Ingest its ROOT files again."
        raise DataError(f"{fragment.path}: {why}") from error
    return ak.from_arrow(table)


@contextmanager
def _opened(fragment: Fragment, columns: Sequence[str]) -> Iterator[Any]:
    """Yield what pyarrow reads: a path, or a remote file whose needed bytes are here already."""
    if not is_remote(fragment.path):
        yield fragment.path
        return
    system, where = system_of(fragment.path)
    if fragment.is_file:  # one request; the columns that nobody needs are small
        yield pa.BufferReader(system.cat_file(where, start=None, end=None))
        return
    wanted = {"columns": list(columns), "row_groups": list(fragment.row_groups)}
    with open_parquet_file(where, fs=system, engine="pyarrow", **wanted) as file:
        yield file


def empty_events() -> ak.Array:
    """Return no events, in the form of `read_fragment`."""
    return ak.from_arrow(arrow_schema().empty_table().select(list(COLUMNS)))


def fingerprint(file: Path) -> str:
    """Return a hash of the size and the footer, which locates and describes every column."""
    return _identity(*_size_and_footer(file))


def _identity(size: int, footer: bytes) -> str:
    return hashlib.blake2b(size.to_bytes(8, "little") + footer, digest_size=8).hexdigest()


def _size_and_footer(file: Path) -> tuple[int, bytes]:
    """Return the size of a Parquet file, and its footer; a remote file costs two requests."""
    size, n_bytes = file.stat().st_size, _GUESS
    while True:
        tail = read_range(file, max(0, size - n_bytes), size)
        length, magic = _FOOTER.unpack(tail[-_FOOTER.size :])
        if magic != b"PAR1" or length + _FOOTER.size > size:
            raise pa.ArrowInvalid("it does not end as Parquet does")
        if length + _FOOTER.size <= len(tail):
            return size, tail[-(length + _FOOTER.size) : -_FOOTER.size]
        n_bytes = length + _FOOTER.size


def _about(path: Path) -> dict[str, Any]:
    """Return the content of ``_hepflow.json``, or refuse the folder."""
    if not path.is_dir():
        raise DataError(f"{path}: no such folder. Make it with `hepflow ingest --output {path}`.")
    about = read_marker(path)
    if about is None:
        what = f"no {MARKER}: `hepflow ingest` did not finish here. Run it again to resume."
        if any(listed(path, f"{depth}*.root") for depth in ("", "*/", "*/*/")):
            what = f"ROOT files. Make a dataset of them: `hepflow ingest --input {path}`."
        elif (path / "zarr.json").is_file():
            what = "a feature store. Give the Parquet dataset of `hepflow ingest`."
        raise DataError(f"{path}: {what}")
    version = about.get("schema_version")
    if version != EVENTS_SCHEMA_VERSION:
        versions = f"schema version {version}, this hepflow reads {EVENTS_SCHEMA_VERSION}"
        raise DataError(f"{path}: events of {versions}. Run `hepflow ingest` again.")
    return about


def _fragments_of(file: Path, root: Path, task_bytes: int) -> list[Fragment]:
    """Check a file, and cut it into runs of row groups of at most ``task_bytes``."""
    try:
        size, footer = _size_and_footer(file)
        end = _FOOTER.pack(len(footer), b"PAR1")
        metadata = pq.read_metadata(pa.BufferReader(b"PAR1" + footer + end))
        schema, mark = metadata.schema.to_arrow_schema(), _identity(size, footer)
    except (OSError, struct.error, pa.ArrowException) as error:
        gone = isinstance(error, FileNotFoundError)
        what = f"missing, though {MARKER} names it" if gone else f"not a Parquet file ({error})"
        raise DataError(f"{file}: {what}. Remove it and run `hepflow ingest` again.") from error
    _check_columns(file, schema)
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    sizes = [group.total_byte_size for group in groups]
    starts = [0]
    for i in range(1, len(groups)):
        rows = sum(group.num_rows for group in groups[starts[-1] : i + 1])
        if rows > FRAGMENT_EVENTS or sum(sizes[starts[-1] : i + 1]) > task_bytes:
            starts.append(i)
    cuts = list(pairwise([*starts, len(groups)]))
    name = file.relative_to(root).with_suffix("").as_posix().replace("/", "--")
    name = re.sub(r"[^A-Za-z0-9=.+-]", "_", name)
    fragments = []
    for number, (first, stop) in enumerate(cuts):
        own = name if len(cuts) == 1 else f"{name}--rows{number:04d}"
        n_events = sum(group.num_rows for group in groups[first:stop])
        rows, content = tuple(range(first, stop)), f"{mark}:{first}-{stop}"
        n_bytes, alone = sum(sizes[first:stop]), len(cuts) == 1
        fragments.append(Fragment(own, file, rows, n_events, n_bytes, content, alone))
    return fragments


def _check_columns(file: Path, schema: pa.Schema) -> None:
    advice = "Was it written by `hepflow ingest`?"
    for name in COLUMNS:
        if name not in schema.names:
            names = ", ".join(schema.names)
            raise DataError(f"{file}: no column {name!r}, only {names}. {advice}")
    for name, fields in COLLECTIONS.items():
        kind = schema.field(name).type
        is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
        content = kind.value_type if is_list else pa.null()
        present = [content.field(i).name for i in range(content.num_fields)]
        if missing := [field for field in fields if field not in present]:
            what = f"column {name!r} has no field {missing[0]!r}, it is {kind}"
            raise DataError(f"{file}: {what}. {advice}")
