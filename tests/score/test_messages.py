"""Messages: written ones are read back, all others are refused with a reason."""

import awkward as ak
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hepflow.data.events import to_arrow
from hepflow.schema import COLLECTIONS
from hepflow.score.kafka.messages import SCHEMA, Malformed, decode, encode
from tests.support.toy_trigger import events_of, write_raw

N = 6
LIMIT = 1 << 20


def table_of(events: ak.Array, first: int = 0) -> pa.Table:
    n = len(events)
    ids = pa.array(np.arange(first, first + n, dtype=np.int64))
    return to_arrow(events, {"event_id": ids, "file": pa.repeat("a.root", n), "entry": ids}, SCHEMA)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    return table_of(events_of(write_raw(tmp_path_factory.mktemp("raw") / "a.root", [N], seed=2)))


def with_column(table: pa.Table, name: str, column: pa.Array | None) -> pa.Table:
    index = table.schema.get_field_index(name)
    rest = table.remove_column(index)
    return rest if column is None else rest.append_column(name, column)


def test_encoded_events_are_decoded(table: pa.Table) -> None:
    content = decode(encode(table), LIMIT)
    assert ak.to_list(content.events) == [
        {name: row[name] for name in COLLECTIONS} for row in table.to_pylist()
    ]
    assert content.identity["event_id"].to_pylist() == list(range(N))
    assert content.identity["file"].to_pylist() == ["a.root"] * N


def test_slices_chunks_nullable_types_and_further_columns_do(table: pa.Table) -> None:
    """pyarrow's types for Python objects, slices of a larger table, and a further column."""
    loose = pa.Table.from_pylist(
        table.to_pylist(), schema=pa.schema([_nullable(field) for field in SCHEMA])
    )
    pieces = pa.concat_tables([loose.slice(1, 2), loose.slice(4, 2)]).append_column(
        "run", pa.array([7] * 4)
    )
    wanted = [table.to_pylist()[i] for i in (1, 2, 4, 5)]
    content = decode(encode(pieces), LIMIT)
    assert ak.to_list(content.events) == [
        {name: row[name] for name in COLLECTIONS} for row in wanted
    ]
    assert (
        content.digest
        == decode(encode(pa.concat_tables([table.slice(1, 2), table.slice(4, 2)])), LIMIT).digest
    )
    assert content.digest != decode(encode(table), LIMIT).digest


def _nullable(field: pa.Field) -> pa.Field:
    if not pa.types.is_list(field.type):
        return pa.field(field.name, field.type)
    members = [
        pa.field(member.name, member.type) for member in reversed(list(field.type.value_type))
    ]
    return pa.field(field.name, pa.list_(pa.struct(members)))


def test_each_error_of_a_message_is_named(table: pa.Table) -> None:
    jets = table["Jet"].combine_chunks()
    no_pt = pa.ListArray.from_arrays(
        jets.offsets, pa.StructArray.from_arrays([jets.values.field("Eta")], ["Eta"])
    )
    doubles = pa.ListArray.from_arrays(
        jets.offsets,
        pa.StructArray.from_arrays(
            [jets.values.field(name).cast(pa.float64()) for name in COLLECTIONS["Jet"]],
            COLLECTIONS["Jet"],
        ),
    )
    holes = pa.array(
        [None, *table.to_pylist()[1:]][:1] + [row["Jet"] for row in table.to_pylist()[1:]],
        type=_nullable(SCHEMA.field("Jet")).type,
    )
    whole = encode(table)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(
        sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")
    ) as writer:
        writer.write_table(table)
    cases = {
        "empty": b"",
        "not an Arrow IPC stream": b"no Arrow at all",
        "damaged": whole[: len(whole) // 2],
        f"{LIMIT + 1:,} bytes, {LIMIT:,} allowed": b"x" * (LIMIT + 1),
        "no events": encode(table.slice(0, 0)),
        "an event_id twice": encode(pa.concat_tables([table, table])),
        "no column 'Jet', only": encode(with_column(table, "Jet", None)),
        "column 'Jet' is list<": encode(with_column(table, "Jet", no_pt)),
        "column 'Jet' is": encode(with_column(table, "Jet", doubles)),
        "column 'event_id' is int32": encode(
            with_column(table, "event_id", pa.array(range(N), pa.int32()))
        ),
        "column 'entry' twice": encode(table.append_column("entry", table["entry"])),
        "nulls in Jet": encode(with_column(table, "Jet", holes)),
        "nulls in entry": encode(with_column(table, "entry", pa.array([None] * N, pa.int64()))),
        "compressed by Arrow": sink.getvalue().to_pybytes(),
    }
    for reason, value in cases.items():
        with pytest.raises(Malformed, match=reason):
            decode(value, LIMIT)
    with pytest.raises(Malformed, match="empty"):
        decode(None, LIMIT)


@given(data=st.data())
def test_a_damaged_message_is_refused_or_is_events(table: pa.Table, data: st.DataObject) -> None:
    """Any bytes changed or cut: never another error, and whatever is accepted is whole."""
    content = bytearray(encode(table.slice(0, 2)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = decode(bytes(content[: data.draw(st.integers(0, len(content)))]), LIMIT)
    except Malformed:
        return
    assert set(found.events.fields) == set(COLLECTIONS)
    assert len(found.events) == len(found.identity["event_id"]) > 0
