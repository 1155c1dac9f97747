"""data/events/: the Parquet dataset between ingest and features, its schema and its readers.

    _hepflow.json           classes, ledger, and the fragments of the dataset; written last
    _fragments.json         sizes, fingerprints and row groups of the fragments, see `catalog`
    CLASS/NAME.parquet      a fragment: the events of one task, in row groups of 1,000
    _records/               records of finished tasks, which only ingest reads

A row is an event: the flat columns of `hepflow.schema.EVENT_COLUMNS`, then one ``list<struct>`` per
collection. Nothing is null. Readers take the fragments that ``_hepflow.json`` names and no others.

To open a dataset, the marker, the catalogue and a listing per class are enough. The task that reads
a fragment compares its footer with the catalogue: a file that was changed in place is refused.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.parquet import open_parquet_file

from hepflow.data.catalog import Footer, FragmentFile, whole_fragments
from hepflow.data.identity import event_ids
from hepflow.data.ledger import Ledger
from hepflow.data.output import MARKER, read_marker
from hepflow.data.parquet import opened
from hepflow.errors import DataError, one_line
from hepflow.schema import COLLECTIONS, EVENT_COLUMNS, EVENTS_SCHEMA_VERSION
from hepflow.system.files import inside, plain_name, recorded
from hepflow.system.remote import is_remote, may_pass
from hepflow.system.storage import listed, system_of

COLUMNS = ("label", "event_id", *COLLECTIONS)  # columns that the features are made of
REPAIR = "Remove it and run `hepflow ingest` again."
"""Advice for a damaged fragment."""
FRAGMENT_EVENTS = 60_000  # events per fragment, so that a part of the store has room for them


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
    file_bytes: int = 0
    """Bytes of the file."""


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
        files = sorted(PurePosixPath(inside(name)) for name in about["fragments"])
        names = list(map(str, files))
        classes = tuple(map(plain_name, about["classes"]))
        ledger = Ledger.from_dict(about["ledger"])
    known = {n: file for n, file in whole_fragments(path, names).items() if file is not None}
    others = [name for name in names if name not in known]
    with ThreadPoolExecutor(16) as pool:  # reading footers is mostly waiting for the file system
        read = pool.map(_read_footer, (path / name for name in others))
        known |= dict(zip(others, read, strict=True))
    lists = [cut(name, path / name, known[name], task_bytes) for name in names]
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
    """Return the events of a fragment, (n,) records; refuse a file that has changed."""
    groups = list(fragment.row_groups)
    try:
        with _opened(fragment, columns) as (source, footer, is_sealed):
            if footer.fingerprint != fragment.fingerprint.partition(":")[0]:
                raise DataError(f"{fragment.path}: changed since it was written. {REPAIR}")
            how = {"metadata": footer.metadata(), "page_checksum_verification": not is_sealed}
            with pq.ParquetFile(source, **how) as file:
                table = file.read_row_groups(groups, columns=list(columns), use_threads=False)
            if len(table) != fragment.n_events:
                raise pa.ArrowInvalid(f"{len(table)} rows of {fragment.n_events}")
    except (OSError, pa.ArrowException) as error:
        advice = REPAIR
        if may_pass(error):
            advice = "Check the disk or the store, and run the same command again."
        raise DataError(f"{fragment.path}: not readable ({one_line(error)}). {advice}") from error
    return ak.from_arrow(table)


@contextmanager
def _opened(fragment: Fragment, columns: Sequence[str]) -> Iterator[tuple[Any, Footer, bool]]:
    """Yield an open file for pyarrow, its footer, and whether the whole file was checked.

    Of a remote file, the needed bytes are here already.
    """
    path = fragment.path
    if not is_remote(path) or fragment.is_file:  # the columns that nobody needs are small
        source, is_sealed = opened(path, REPAIR, fragment.file_bytes or None)
        with source:
            yield source, Footer.within(source), is_sealed
        return
    system, where = system_of(path)
    wanted = {"columns": list(columns), "row_groups": list(fragment.row_groups)}
    with open_parquet_file(where, fs=system, engine="pyarrow", **wanted) as file:
        yield file, Footer.within(file), False


def empty_events() -> ak.Array:
    """Return no events, in the form of `read_fragment`."""
    return ak.from_arrow(arrow_schema().empty_table().select(list(COLUMNS)))


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


def _read_footer(file: Path) -> FragmentFile:
    """Check a file that the catalogue does not describe, and describe it."""
    try:
        footer = Footer.read(file)
        schema, found = footer.metadata().schema.to_arrow_schema(), footer.describe()
    except (OSError, pa.ArrowException) as error:
        gone = isinstance(error, FileNotFoundError)
        what = f"missing, though {MARKER} names it" if gone else f"not a Parquet file ({error})"
        raise DataError(f"{file}: {what}. {REPAIR}") from error
    _check_columns(file, schema)
    return found


def cut(name: str, path: Path, file: FragmentFile, task_bytes: int) -> list[Fragment]:
    """Cut a file into runs of row groups of at most ``task_bytes``."""
    groups, starts = file.row_groups, [0]
    for i in range(1, len(groups)):
        held, size = map(sum, zip(*groups[starts[-1] : i + 1], strict=True))
        if held > FRAGMENT_EVENTS or size > task_bytes:
            starts.append(i)
    cuts = list(pairwise([*starts, len(groups)]))
    name = name.removesuffix(PurePosixPath(name).suffix).replace("/", "--")
    name = re.sub(r"[^A-Za-z0-9=.+-]", "_", name)
    fragments = []
    for number, (first, stop) in enumerate(cuts):
        own = name if len(cuts) == 1 else f"{name}--rows{number:04d}"
        n_events = sum(events for events, _ in groups[first:stop])
        n_bytes, alone = sum(size for _, size in groups[first:stop]), len(cuts) == 1
        rows, content = tuple(range(first, stop)), f"{file.fingerprint}:{first}-{stop}"
        fragments.append(Fragment(own, path, rows, n_events, n_bytes, content, alone, file.size))
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
