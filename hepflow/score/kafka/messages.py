"""A message of a topic: events in the Arrow IPC stream format, with the columns of ingest's Parquet. Written, and read without trust.

A message may come from anybody: what it holds is checked before it is believed, and whatever is wrong with it is said in a line.
"""

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import awkward as ak
import numpy as np
import pyarrow as pa

from hepflow.data.events import arrow_schema
from hepflow.errors import one_line
from hepflow.schema import COLLECTIONS

IDENTITY = {"event_id": "int64", "file": "string", "entry": "int64"}
SCHEMA = arrow_schema(IDENTITY)
"""What a message must have; further columns are left alone."""

_HEADER, _COMPRESSION = 2, 3  # fields of the tables Message and RecordBatch in Arrow's Message.fbs


class Malformed(ValueError):
    """A message that holds no events to score; the text says why."""


@dataclass(frozen=True)
class Content:
    """What a message holds."""

    events: ak.Array
    """(n) records with the collections of `hepflow.schema.COLLECTIONS`"""
    identity: Mapping[str, pa.Array]
    """event_id, file and entry, (n) each"""

    @property
    def digest(self) -> str:
        """Tells these events from others: a message that is published again has the same."""
        return hashlib.blake2b(
            self.identity["event_id"].to_numpy().tobytes(), digest_size=8
        ).hexdigest()


def encode(table: pa.Table) -> bytes:
    """An Arrow IPC stream; a message, if the table has the columns of `SCHEMA`."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def decode(value: bytes | None, most_bytes: int) -> Content:
    """The events of a message.

    Parameters
    ----------
    value : bytes or None
    most_bytes : int
        A larger message is refused unread.

    Raises
    ------
    Malformed
        It is empty, too large, not Arrow, of another schema, damaged, or names an event twice.
    """
    if not value:
        raise Malformed("empty")
    if len(value) > most_bytes:
        raise Malformed(f"{len(value):,} bytes, {most_bytes:,} allowed (kafka.max_message_mb)")
    try:
        _require_plain(value)
        with pa.ipc.open_stream(value) as stream:
            _require_schema(stream.schema)
            table = stream.read_all().select(SCHEMA.names).combine_chunks()
        table.validate(full=True)
    except (pa.ArrowException, OSError, EOFError, ValueError, struct.error) as error:
        if isinstance(error, Malformed):
            raise
        raise Malformed(
            f"not an Arrow IPC stream, or a damaged one ({one_line(error)[:120]})"
        ) from error
    if table.num_rows == 0:
        raise Malformed("no events")
    identity = {name: _no_null(name, table[name].combine_chunks()) for name in IDENTITY}
    if len(np.unique(identity["event_id"].to_numpy())) < table.num_rows:
        raise Malformed("an event_id twice")
    collections = {name: _records(name, table[name].combine_chunks()) for name in COLLECTIONS}
    return Content(ak.zip(collections, depth_limit=1), identity)


def _require_plain(value: bytes) -> None:
    """Refuse what could unpack into more memory than the message takes: Kafka compresses by itself, Arrow need not."""
    for message in pa.ipc.MessageReader.open_stream(value):
        if message.type == "record batch" and _field(
            message.metadata.to_pybytes(), _HEADER, _COMPRESSION
        ):
            raise Malformed("compressed by Arrow; leave that to Kafka (compression.type)")


def _field(metadata: bytes, *path: int) -> bool:
    """Whether a table in a flatbuffer has a field, found by going from table to table."""

    def number(kind: str, at: int) -> int:
        return int(struct.unpack_from(kind, metadata, at)[0])

    table = number("<I", 0)
    for depth, field in enumerate(path, 1):
        vtable = table - number("<i", table)
        offset = number("<H", vtable + 4 + 2 * field) if 4 + 2 * field < number("<H", vtable) else 0
        if not offset:
            return False
        if depth < len(path):
            table += offset + number("<I", table + offset)
    return True


def _require_schema(found: pa.Schema) -> None:
    for wanted in SCHEMA:
        if found.names.count(wanted.name) != 1:
            there = ", ".join(found.names[:20])
            raise Malformed(
                f"column {wanted.name!r} twice"
                if wanted.name in found.names
                else f"no column {wanted.name!r}, only {there}"
            )
        kind = found.field(wanted.name).type
        if not _same(kind, wanted.type):
            raise Malformed(f"column {wanted.name!r} is {kind}, not {wanted.type}")


def _same(kind: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether they are but for the name of a list's elements, the order of a struct's fields, and more of these."""
    if not pa.types.is_list(wanted):
        return bool(kind.equals(wanted))
    if not (pa.types.is_list(kind) and pa.types.is_struct(kind.value_type)):
        return False
    fields, names = wanted.value_type, [field.name for field in kind.value_type]
    return all(
        names.count(field.name) == 1 and kind.value_type.field(field.name).type.equals(field.type)
        for field in fields
    )


def _no_null(name: str, column: pa.Array) -> pa.Array:
    if column.null_count:
        raise Malformed(f"nulls in {name}")
    return column


def _records(name: str, column: pa.ListArray) -> ak.Array:
    """A collection, of the form that awkward gives of ingest's Parquet: nothing in it may be missing."""
    values = _no_null(name, _no_null(name, column).flatten())
    fields = {
        field: _no_null(f"{name}.{field}", values.field(field)).to_numpy()
        for field in COLLECTIONS[name]
    }
    offsets = column.offsets.to_numpy()
    return ak.unflatten(ak.zip(fields), np.diff(offsets))
