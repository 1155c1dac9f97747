"""Messages of a topic: events as an Arrow IPC stream, with the columns of ingest's Parquet.

A message may come from anybody: its content is checked before use, and errors are reported in one
line.
"""

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import awkward as ak
import numpy as np
import pyarrow as pa
from flatbuffers.table import Table

from hepflow.data.events import arrow_schema
from hepflow.errors import one_line
from hepflow.physics.columns import Columns, Flat, columns_of, mark_infinite
from hepflow.schema import COLLECTIONS

IDENTITY = {"event_id": "int64", "file": "string", "entry": "int64"}
SCHEMA = arrow_schema(IDENTITY)  # required columns of a message; others are ignored


class Malformed(ValueError):
    """A message without events to score; the text is the reason."""


@dataclass(frozen=True)
class Content:
    """Events of a message, and their event_id, file and entry, (n) each."""

    collections: Flat
    identity: Mapping[str, pa.Array]

    def __len__(self) -> int:
        return len(self.identity["event_id"])

    @property
    def events(self) -> ak.Array:
        """The events as (n) records, which cost ten times as much as ``columns``."""
        lists = {
            name: ak.unflatten(ak.zip(dict(arrays)), np.diff(offsets))
            for name, (offsets, arrays) in self.collections.items()
        }
        return ak.zip(lists, depth_limit=1)

    @property
    def columns(self) -> Columns:
        """The events as flat arrays, those that hepflow's physics takes."""
        return columns_of(self.collections)

    @property
    def finite(self) -> np.ndarray:
        """(n) bool: whether all values of an event are finite, in all columns."""
        finite = np.ones(len(self), bool)
        for offsets, arrays in self.collections.values():
            mark_infinite(finite, offsets, arrays.values())
        return finite

    @property
    def digest(self) -> str:
        """Hash of the event_ids: the same if a message is published again."""
        ids = self.identity["event_id"].to_numpy().tobytes()
        return hashlib.blake2b(ids, digest_size=8).hexdigest()


def encode(table: pa.Table) -> bytes:
    """Return an Arrow IPC stream: a message, if the table has the columns of `SCHEMA`."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def example() -> bytes:
    """Return a message with one event that passes the trigger, for rehearsals."""
    track = {"PID": 211, "Charge": 1, "PT": 3.0, "Eta": 0.2, "Phi": 0.7, "X": 0, "Y": 0, "Z": 12}
    muon, met = {"PT": 31.0, "Eta": 0.4, "Phi": 1.2, "Charge": -1}, {"MET": 40.0, "Phi": -2.0}
    jet = {"PT": 52.0, "Eta": -1.1, "Phi": 2.9, "Mass": 8.0, "BTag": 1}
    event = {"EFlowTrack": [track], "MuonTight": [muon], "Jet": [jet], "MissingET": [met]}
    identity = {"event_id": 0, "file": "", "entry": 0}
    return encode(pa.Table.from_pylist([dict.fromkeys(COLLECTIONS, ()) | event | identity], SCHEMA))


def decode(value: bytes | None, most_bytes: int) -> Content:
    """Return the events of a message; one larger than ``most_bytes`` is not read."""
    if not value:
        raise Malformed("empty")
    if len(value) > most_bytes:
        raise Malformed(f"{len(value):,} bytes, {most_bytes:,} allowed (kafka.max_message_mb)")
    try:
        _require_plain(value)
        with pa.ipc.open_stream(value) as stream:
            _require_schema(stream.schema)
            table = stream.read_all().select(SCHEMA.names)
        table.validate(full=True)  # before a copy, which trusts the lengths
        table = table.combine_chunks()
    except Malformed:
        raise
    except (pa.ArrowException, OSError, EOFError, ValueError, struct.error) as error:
        what = f"not an Arrow IPC stream, or a damaged one ({one_line(error)[:120]})"
        raise Malformed(what) from error
    if table.num_rows == 0:
        raise Malformed("no events")
    columns = {name: _filled(name, table[name].combine_chunks()) for name in SCHEMA.names}
    identity = {name: columns[name] for name in IDENTITY}
    if len(np.unique(identity["event_id"].to_numpy())) < table.num_rows:
        raise Malformed("an event_id twice")
    collections = {}
    for name, fields in COLLECTIONS.items():
        values = _filled(name, columns[name].flatten())
        arrays = {f: _filled(f"{name}.{f}", values.field(f)).to_numpy() for f in fields}
        offsets = columns[name].offsets.to_numpy().astype(np.int64)
        collections[name] = offsets - offsets[0], arrays
    return Content(collections, identity)


def _require_plain(value: bytes) -> None:
    """Refuse compressed batches, which could unpack into far more memory than the message takes.

    pyarrow does not report the compression, so it is read from the flatbuffer of each batch.
    """
    header, compression = 8, 10  # in Arrow's Message.fbs: 4 + 2 * field number
    for message in pa.ipc.MessageReader.open_stream(value):
        if message.type == "record batch":
            metadata = message.metadata.to_pybytes()
            root = Table(metadata, struct.unpack_from("<I", metadata)[0])
            batch = Table(metadata, root.Indirect(root.Pos + root.Offset(header)))
            if batch.Offset(compression):
                raise Malformed("compressed by Arrow; leave that to Kafka (compression.type)")


def _require_schema(found: pa.Schema) -> None:
    for name, wanted in zip(SCHEMA.names, SCHEMA.types, strict=True):
        if name not in found.names:
            raise Malformed(f"no column {name!r}, only {', '.join(found.names[:20])}")
        if found.names.count(name) > 1:
            raise Malformed(f"column {name!r} twice")
        kind = found.field(name).type
        if not _same(kind, wanted):
            raise Malformed(f"column {name!r} is {kind}, not {wanted}")


def _same(kind: pa.DataType, wanted: pa.DataType) -> bool:
    """Compare types, except for the element name of a list, and order and number of its fields."""
    if not pa.types.is_list(wanted):
        return bool(kind.equals(wanted))
    if not (pa.types.is_list(kind) and pa.types.is_struct(kind.value_type)):
        return False
    found = [(field.name, field.type) for field in kind.value_type]
    names = [name for name, _ in found]
    fields = [(field.name, field.type) for field in wanted.value_type]
    return all(names.count(name) == 1 and (name, type_) in found for name, type_ in fields)


def _filled(name: str, column: pa.Array) -> pa.Array:
    if column.null_count:
        raise Malformed(f"nulls in {name}")
    return column
