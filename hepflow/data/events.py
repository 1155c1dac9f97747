"""The Parquet dataset that ingest writes: checked, listed, cut into tasks of bounded size, and read as awkward arrays."""

import hashlib
import re
import struct
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import awkward as ak
import pyarrow as pa
import pyarrow.parquet as pq

from hepflow.data.ledger import Ledger
from hepflow.data.output import MARKER, read_marker
from hepflow.errors import DataError, one_line
from hepflow.schema import COLLECTIONS, EVENT_COLUMNS, EVENTS_SCHEMA_VERSION

COLUMNS = ("label", "event_id", *COLLECTIONS)
"""What is read of each event."""
_FOOTER = struct.Struct("<I4s")  # a Parquet file ends in the footer's length and PAR1


@dataclass(frozen=True)
class Fragment:
    """Rows that one task reads: a Parquet file, or some of its row groups."""

    name: str
    """Unique in the dataset; the name of the part made from it."""
    path: Path
    row_groups: tuple[int, ...]
    n_events: int
    n_bytes: int
    """Uncompressed."""
    fingerprint: str
    """Changes with the content, not with copies or touches."""


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


def arrow_schema(columns: Mapping[str, str] = EVENT_COLUMNS) -> pa.Schema:
    """Flat columns, then a list of structs a collection, as Arrow has them. Nothing in it is ever null."""
    collections = {
        name: pa.list_(
            _field(
                "element",
                pa.struct(
                    [_field(field, pa.type_for_alias(kind)) for field, kind in fields.items()]
                ),
            )
        )
        for name, fields in COLLECTIONS.items()
    }
    flat = {name: pa.type_for_alias(kind) for name, kind in columns.items()}
    return pa.schema([_field(name, kind) for name, kind in (flat | collections).items()])


def _field(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


def open_events(path: Path, task_bytes: int = 128 << 20) -> EventsDataset:
    """Check a dataset and list its fragments.

    Parameters
    ----------
    path : Path
        Folder with ``_hepflow.json``, which ingest writes last, and the Parquet files that it names.
    task_bytes : int
        Larger files are cut between row groups.

    Raises
    ------
    DataError
        The dataset is missing, unfinished, of another schema version, damaged, empty, or does not hold what its ledger says.
    """
    about = _marker(path)
    files = sorted(
        path / name for name in about["fragments"]
    )  # and no others: a later ingest may be writing beside them
    with ThreadPoolExecutor(16) as pool:  # footers: waiting for the file system, mostly
        lists = list(pool.map(lambda file: _fragments_of(file, path, task_bytes), files))
    fragments = tuple(fragment for found in lists for fragment in found)
    ledger = Ledger.from_dict(about["ledger"])
    n_events = sum(fragment.n_events for fragment in fragments)
    if n_events != ledger.n_out:
        raise DataError(
            f"{path}: {n_events:,} events in the files, {ledger.n_out:,} in the ledger of `hepflow ingest`. Run it again."
        )
    if n_events == 0:
        raise DataError(
            f"{path}: the dataset holds no events ({ledger.summary()}). Ingest files with events that pass."
        )
    if len({fragment.name for fragment in fragments}) != len(fragments):
        raise DataError(f"{path}: two files whose paths differ in separators alone: rename one.")
    return EventsDataset(path, tuple(about["classes"]), str(about["provenance"]), ledger, fragments)


def read_fragment(fragment: Fragment, columns: Sequence[str] = COLUMNS) -> ak.Array:
    """The events of a fragment.

    Raises
    ------
    DataError
        The file is damaged.
    """
    try:
        with pq.ParquetFile(fragment.path) as file:
            table = file.read_row_groups(
                list(fragment.row_groups), columns=list(columns), use_threads=False
            )
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{fragment.path}: not readable ({one_line(error)}). Ingest the files it came from again."
        ) from error
    return ak.from_arrow(table)


def empty_events() -> ak.Array:
    """No events, of the form that `read_fragment` gives."""
    return ak.from_arrow(arrow_schema().empty_table().select(list(COLUMNS)))


def _marker(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise DataError(f"{path}: no such folder. Make it with `hepflow ingest --output {path}`.")
    about = read_marker(path)
    if about is None and next(path.rglob("*.root"), None) is not None:
        raise DataError(
            f"{path}: ROOT files, which `hepflow ingest --input {path}` reads. Give the Parquet dataset that it writes."
        )
    if about is None and (path / "zarr.json").is_file():
        raise DataError(
            f"{path}: a feature store, which `hepflow train` reads. Give the Parquet dataset of `hepflow ingest`."
        )
    if about is None:
        raise DataError(
            f"{path}: no {MARKER}: `hepflow ingest` did not finish here. Run it again, it goes on where it stopped."
        )
    if about.get("schema_version") != EVENTS_SCHEMA_VERSION:
        raise DataError(
            f"{path}: events of schema version {about.get('schema_version')}, this hepflow reads {EVENTS_SCHEMA_VERSION}. "
            "Run `hepflow ingest` again."
        )
    return about


def _fragments_of(file: Path, root: Path, task_bytes: int) -> list[Fragment]:
    try:
        metadata = pq.read_metadata(file)
        schema = metadata.schema.to_arrow_schema()
        mark = fingerprint(file)
    except FileNotFoundError as error:
        raise DataError(
            f"{file}: missing, though {MARKER} names it. Run `hepflow ingest` again."
        ) from error
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{file}: not a Parquet file ({error}). Remove it and run `hepflow ingest` again."
        ) from error
    _check_columns(file, schema)
    groups = [
        (i, metadata.row_group(i).num_rows, metadata.row_group(i).total_byte_size)
        for i in range(metadata.num_row_groups)
    ]
    cuts = _cut([size for _, _, size in groups], task_bytes)
    name = re.sub(
        r"[^A-Za-z0-9=.+-]",
        "_",
        file.relative_to(root).with_suffix("").as_posix().replace("/", "--"),
    )
    return [
        Fragment(
            name=name if len(cuts) == 1 else f"{name}--rows{number:04d}",
            path=file,
            row_groups=tuple(range(first, stop)),
            n_events=sum(rows for _, rows, _ in groups[first:stop]),
            n_bytes=sum(size for _, _, size in groups[first:stop]),
            fingerprint=f"{mark}:{first}-{stop}",
        )
        for number, (first, stop) in enumerate(cuts)
    ]


def _cut(sizes: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Runs of consecutive row groups, each of at most ``most`` bytes or of one group."""
    cuts, first, held = [], 0, 0
    for i, size in enumerate(sizes):
        if i > first and held + size > most:
            cuts.append((first, i))
            first, held = i, 0
        held += size
    return [*cuts, (first, len(sizes))]


def _check_columns(file: Path, schema: pa.Schema) -> None:
    for name in COLUMNS:
        if name not in schema.names:
            raise DataError(
                f"{file}: no column {name!r}, only {', '.join(schema.names)}. Was it written by `hepflow ingest`?"
            )
    for name, fields in COLLECTIONS.items():
        kind = schema.field(name).type
        is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
        there = (
            [kind.value_type.field(i).name for i in range(kind.value_type.num_fields)]
            if is_list
            else []
        )
        missing = [field for field in fields if field not in there]
        if missing:
            raise DataError(
                f"{file}: column {name!r} has no field {missing[0]!r}, it is {kind}. Was it written by `hepflow ingest`?"
            )


def fingerprint(file: Path) -> str:
    """Hash of size and footer: Parquet's footer holds place, size and range of every column chunk."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        stream.seek(-_FOOTER.size, 2)
        length, _ = _FOOTER.unpack(stream.read())
        stream.seek(-(_FOOTER.size + length), 2)
        footer = stream.read(length)
    return hashlib.blake2b(size.to_bytes(8, "little") + footer, digest_size=8).hexdigest()
