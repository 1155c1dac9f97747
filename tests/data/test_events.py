"""The Parquet dataset: any reader finds the events written, and a damaged dataset is refused."""

import shutil
from itertools import pairwise
from pathlib import Path

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from hepflow.data.catalog import Footer, FragmentFile
from hepflow.data.events import (
    COLUMNS,
    arrow_schema,
    empty_events,
    event_columns,
    open_events,
    read_fragment,
    to_arrow,
)
from hepflow.data.fragment_writer import FragmentWriter
from hepflow.data.identity import event_ids
from hepflow.data.ledger import Ledger
from hepflow.data.output import write_marker
from hepflow.errors import DataError
from hepflow.schema import COLLECTIONS, EVENT_COLUMNS

UUID = b"0123456789abcdef"


def random_events(n: int, seed: int = 0) -> ak.Array:
    rng = np.random.default_rng(seed)
    collections = {}
    for name, fields in COLLECTIONS.items():
        lengths = rng.integers(0, 4, n)
        values = {
            field: rng.normal(0, 50, lengths.sum()).astype(kind) for field, kind in fields.items()
        }
        collections[name] = ak.unflatten(ak.zip(values), lengths)
    return ak.zip(collections, depth_limit=1)


def table(n: int, seed: int = 0) -> pa.Table:
    flat = event_columns("ttbar", 1, "a.root", UUID, np.arange(n))
    return to_arrow(random_events(n, seed), flat, arrow_schema())


def write(path: Path, *tables: pa.Table) -> FragmentFile | None:
    with FragmentWriter(path.parent) as writer:
        for one in tables:
            writer.write(one)
        return writer.finish(path.name)


def dataset(folder: Path, **changes: object) -> Path:
    """Write a dataset of 2,500 events in ttbar/a and 30 in qcd/b."""
    write(folder / "ttbar" / "a.parquet", table(2500))
    write(folder / "qcd" / "b.parquet", table(30, seed=1))
    about = {
        "schema_version": 1,
        "classes": ["qcd", "ttbar"],
        "provenance": "p",
        "ledger": Ledger(2600, 2530, {"no lepton": 70}).to_dict(),
        "fragments": ["ttbar/a.parquet", "qcd/b.parquet"],
    }
    write_marker(folder, {**about, **changes})
    return folder


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return dataset(tmp_path_factory.mktemp("sound") / "events")


@pytest.fixture
def events(sound, tmp_path):
    """Return a sound dataset that a test may damage."""
    return Path(shutil.copytree(sound, tmp_path / "events"))


def test_pyarrow_alone_reads_the_events_that_were_written(tmp_path):
    written = random_events(40)[np.arange(40) % 3 != 1]  # with gaps, as after a selection
    rows = np.arange(100, 100 + len(written))
    flat = event_columns("ttbar", 1, "a.root", UUID, rows)
    write(tmp_path / "a.parquet", to_arrow(written, flat, arrow_schema()))
    found = pq.read_table(tmp_path / "a.parquet")
    assert found.select(list(COLLECTIONS)).to_pylist() == ak.to_list(written)
    assert found.select(list(EVENT_COLUMNS)).to_pydict() == {
        "sample": ["ttbar"] * len(rows),
        "label": [1] * len(rows),
        "event_id": event_ids(UUID, rows).tolist(),
        "file": ["a.root"] * len(rows),
        "entry": rows.tolist(),
    }


def test_no_column_of_a_fragment_may_hold_nulls_and_numbers_take_32_bits(tmp_path):
    write(tmp_path / "a.parquet", table(3))
    schema = pq.read_schema(tmp_path / "a.parquet")
    assert schema.names == [*EVENT_COLUMNS, *COLLECTIONS]
    assert not any(field.nullable for field in schema)
    for name, members in COLLECTIONS.items():
        element = schema.field(name).type.value_field
        assert not element.nullable
        assert {m.name: (str(m.type), m.nullable) for m in element.type} == {
            member: ({"float32": "float", "int32": "int32"}[kind], False)
            for member, kind in members.items()
        }


def test_a_table_has_the_flat_columns_and_collections_that_its_schema_names():
    events = random_events(5)
    schema = arrow_schema({"entry": "int64"})
    assert schema.names == ["entry", *COLLECTIONS]
    found = to_arrow(events, {"entry": pa.array(range(5)), "file": pa.nulls(5)}, schema)
    assert found.schema == schema
    jets = pa.schema([schema.field("Jet")])
    assert to_arrow(events, {}, jets).to_pylist() == [{"Jet": ak.to_list(e.Jet)} for e in events]


def test_text_and_small_integers_have_dictionaries_and_floats_have_none(tmp_path):
    write(tmp_path / "a.parquet", table(1000))
    group = pq.read_metadata(tmp_path / "a.parquet").row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    assert {column.compression for column in columns} == {"ZSTD"}
    with_dictionary = {c.path_in_schema for c in columns if c.has_dictionary_page}
    assert with_dictionary == {"sample", "label", "file"} | {
        f"{name}.list.element.{member}"
        for name, members in COLLECTIONS.items()
        for member, kind in members.items()
        if kind == "int32"
    }


@settings(max_examples=8)
@given(cuts=st.lists(st.integers(0, 2500), max_size=6))
def test_the_bytes_do_not_depend_on_the_tables_in_which_the_events_came(
    sound, tmp_path_factory, cuts
):
    edges = [0, *sorted(cuts), 2500]
    whole = table(2500)
    pieces = [whole.slice(a, b - a) for a, b in pairwise(edges)]
    path = tmp_path_factory.mktemp("cut") / "a.parquet"
    write(path, *pieces)
    assert path.read_bytes() == (sound / "ttbar" / "a.parquet").read_bytes()


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [
        ([2500], [1000, 1000, 500]),
        ([999, 1, 1000], [1000, 1000]),
        ([400] * 4, [1000, 600]),
        ([1], [1]),
    ],
)
def test_row_groups_have_1000_events_but_the_last(tmp_path, sizes, groups):
    write(tmp_path / "a.parquet", *(table(n, seed) for seed, n in enumerate(sizes)))
    found = pq.read_metadata(tmp_path / "a.parquet")
    assert [found.row_group(i).num_rows for i in range(found.num_row_groups)] == groups


def test_a_writer_counts_events_and_bytes(tmp_path):
    with FragmentWriter(tmp_path) as writer:
        for n in (700, 0, 800):
            writer.write(table(n))
        assert writer.n_events == 1500
        assert writer.finish("a.parquet").size == (tmp_path / "a.parquet").stat().st_size > 0


def test_a_fragment_without_events_is_no_file(tmp_path):
    assert write(tmp_path / "new" / "a.parquet") is None
    assert write(tmp_path / "new" / "a.parquet", table(0)) is None
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("n_events", [5, 1500])
def test_a_writer_that_does_not_finish_leaves_nothing(tmp_path, n_events):
    with FragmentWriter(tmp_path) as writer:
        writer.write(table(n_events))
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_writer_leaves_nothing(tmp_path):
    def interrupted():
        with FragmentWriter(tmp_path) as writer:
            writer.write(table(1500))
            assert len(list(tmp_path.iterdir())) == 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_writers_of_the_same_file_do_not_mix_and_the_last_one_stays(tmp_path):
    with FragmentWriter(tmp_path) as one, FragmentWriter(tmp_path) as other:
        for seed in range(2):
            one.write(table(1000, seed))
            other.write(table(1000, seed + 2))
        one.finish("a.parquet")
        other.finish("a.parquet")
    expected = pa.concat_tables([table(1000, 2), table(1000, 3)])
    assert pq.read_table(tmp_path / "a.parquet") == expected
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


def test_a_dataset_is_opened_as_its_marker_describes_it(events):
    write(events / "qcd" / "of-a-dead-run.parquet", table(7))
    found = open_events(events)
    assert (found.path, found.classes, found.provenance) == (events, ("qcd", "ttbar"), "p")
    assert found.ledger == Ledger(2600, 2530, {"no lepton": 70})
    assert [(one.name, one.path, one.n_events) for one in found.fragments] == [
        ("qcd--b", events / "qcd" / "b.parquet", 30),
        ("ttbar--a", events / "ttbar" / "a.parquet", 2500),
    ]


def test_all_events_are_read_in_the_order_of_the_paths(sound):
    expected = ak.concatenate([random_events(30, seed=1), random_events(2500)])
    found = open_events(sound).read()
    assert set(found.fields) == set(COLUMNS)
    assert ak.almost_equal(found[list(COLLECTIONS)], expected, check_parameters=False)
    assert found.event_id.to_numpy().tolist() == [
        *event_ids(UUID, np.arange(30)),
        *event_ids(UUID, np.arange(2500)),
    ]


@given(share=st.floats(0, 4))
def test_a_file_is_cut_between_row_groups_into_pieces_no_larger_than_a_task(sound, share):
    metadata = pq.read_metadata(sound / "ttbar" / "a.parquet")
    sizes = [metadata.row_group(i).total_byte_size for i in range(3)]
    task_bytes = int(share * sizes[0])
    pieces = [one for one in open_events(sound, task_bytes).fragments if "ttbar" in one.name]
    assert [group for piece in pieces for group in piece.row_groups] == [0, 1, 2]
    for piece in pieces:
        assert piece.n_bytes == sum(sizes[group] for group in piece.row_groups)
        assert piece.n_events == sum(metadata.row_group(i).num_rows for i in piece.row_groups)
        assert piece.n_bytes <= task_bytes or len(piece.row_groups) == 1
    for piece, following in pairwise(pieces):
        assert piece.n_bytes + sizes[following.row_groups[0]] > task_bytes, "cut without need"
    assert len({piece.fingerprint for piece in pieces}) == len(pieces)


def test_a_task_of_exactly_its_size_is_not_cut(sound):
    metadata = pq.read_metadata(sound / "ttbar" / "a.parquet")
    two = sum(metadata.row_group(i).total_byte_size for i in range(2))
    pieces = open_events(sound, two).fragments
    assert [piece.row_groups for piece in pieces] == [(0,), (0, 1), (2,)]


def test_pieces_of_a_file_are_numbered_and_hold_their_own_events(sound):
    pieces = open_events(sound, 1).fragments[1:]
    assert [piece.name for piece in pieces] == [f"ttbar--a--rows000{i}" for i in range(3)]
    ids = event_ids(UUID, np.arange(2500))
    for piece, first in zip(pieces, (0, 1000, 2000), strict=True):
        found = read_fragment(piece, ["event_id"])
        assert found.fields == ["event_id"]
        assert found.event_id.to_list() == ids[first : first + 1000].tolist()


def test_a_fragment_has_a_name_that_a_folder_may_have(tmp_path):
    odd = tmp_path / "qcd" / "run 1" / "übung_a=b+c-d.0.parquet"
    write(odd, table(3))
    fragments = [str(odd.relative_to(tmp_path))]
    about = {"schema_version": 1, "classes": ["qcd"], "provenance": "p", "fragments": fragments}
    write_marker(tmp_path, {**about, "ledger": Ledger(3, 3).to_dict()})
    (fragment,) = open_events(tmp_path).fragments
    assert fragment.name == "qcd--run_1--_bung_a=b+c-d.0"


def test_a_fingerprint_never_changes_between_versions(tmp_path):
    footer = b"describes the columns"
    tail = footer + len(footer).to_bytes(4, "little") + b"PAR1"
    (tmp_path / "a").write_bytes(b"PAR1 columns" + tail)
    assert Footer.read(tmp_path / "a").fingerprint == "5bcf9b5ec0d9b082"
    (tmp_path / "a").write_bytes(b"PAR1 Columns" + tail)
    assert Footer.read(tmp_path / "a").fingerprint == "5bcf9b5ec0d9b082", (
        "the footer and the size alone"
    )
    (tmp_path / "a").write_bytes(b"PAR1 columns " + tail)
    assert Footer.read(tmp_path / "a").fingerprint != "5bcf9b5ec0d9b082"


def test_a_copy_has_the_fingerprints_of_its_original_and_other_events_have_others(sound, events):
    def fingerprints(path):
        return [fragment.fingerprint for fragment in open_events(path).fragments]

    assert fingerprints(events) == fingerprints(sound)
    write(events / "ttbar" / "a.parquet", table(2500, seed=2))
    unchanged, changed = np.equal(fingerprints(events), fingerprints(sound))
    assert unchanged
    assert not changed


def test_no_events_have_the_form_of_read_events(sound):
    found = open_events(sound).fragments[0]
    assert ak.type(empty_events()).content == ak.type(read_fragment(found)).content
    assert len(empty_events()) == 0


def of_another_version(events):
    dataset(events, schema_version=99)


def unfinished(events):
    (events / "_hepflow.json").unlink()


def folder_of_root_files(events):
    unfinished(events)
    (events / "qcd" / "a.root").touch()


def feature_store(events):
    unfinished(events)
    zarr.create_group(events)


def miscounted(events):
    dataset(events, ledger=Ledger(2529, 2529).to_dict())


def without_a_file(events):
    (events / "qcd" / "b.parquet").unlink()


def with_a_foreign_file(events):
    (events / "qcd" / "b.parquet").write_bytes(b"no Parquet")


def with_a_truncated_file(events):
    file = events / "qcd" / "b.parquet"
    file.write_bytes(file.read_bytes()[:-9])


def with_an_empty_file(events):
    (events / "qcd" / "b.parquet").write_bytes(b"")


def without_a_column(events):
    pq.write_table(table(30).drop_columns(["label"]), events / "qcd" / "b.parquet")


def without_a_field(events):
    one = table(30)
    jets = one["Jet"].combine_chunks()
    fields = [f for f in jets.type.value_type if f.name not in ("PT", "BTag")]
    content = pa.StructArray.from_arrays([jets.values.field(f.name) for f in fields], fields=fields)
    fewer = pa.ListArray.from_arrays(jets.offsets, content)
    place = one.schema.get_field_index("Jet")
    pq.write_table(one.set_column(place, "Jet", fewer), events / "qcd" / "b.parquet")


def with_numbers_for_a_collection(events):
    one = table(30)
    place = one.schema.get_field_index("Jet")
    pq.write_table(one.set_column(place, "Jet", one["label"]), events / "qcd" / "b.parquet")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "events: no such folder.*`hepflow ingest --output .*events`"),
        (unfinished, "events: no _hepflow.json.*Run it again to resume"),
        (folder_of_root_files, "events: ROOT files.*`hepflow ingest --input .*events`"),
        (feature_store, "events: a feature store"),
        (of_another_version, "events: events of schema version 99, this hepflow reads 1"),
        (miscounted, "events: 2,530 events in the files, 2,529 in the ledger"),
        (without_a_file, r"b\.parquet: missing, though _hepflow\.json names it"),
        (with_a_foreign_file, r"b\.parquet: not a Parquet file \(.*run `hepflow ingest` again"),
        (with_a_truncated_file, r"b\.parquet: not a Parquet file"),
        (with_an_empty_file, r"b\.parquet: not a Parquet file"),
        (without_a_column, r"b\.parquet: no column 'label', only sample, event_id, file, entry"),
        (without_a_field, r"b\.parquet: column 'Jet' has no field 'PT', it is list"),
        (with_numbers_for_a_collection, r"b\.parquet: column 'Jet' has no field 'PT', it is int32"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_an_unfinished_or_damaged_dataset_is_refused(events, spoil, message):
    spoil(events)
    with pytest.raises(DataError, match=message) as error:
        open_events(events)
    assert str(error.value).startswith(str(events))


def test_a_dataset_without_events_is_refused_with_what_became_of_them(tmp_path):
    dataset(tmp_path, fragments=[], ledger=Ledger(70, 0, {"no lepton": 70}).to_dict())
    with pytest.raises(DataError, match=r"no events \(70 events in, 0 out, 70 no lepton"):
        open_events(tmp_path)


def test_two_files_whose_parts_would_have_one_name_are_refused(events):
    shutil.copy(events / "qcd" / "b.parquet", events / "qcd--b.parquet")
    names = ["ttbar/a.parquet", "qcd/b.parquet", "qcd--b.parquet"]
    dataset(events, fragments=names, ledger=Ledger(2560, 2560).to_dict())
    with pytest.raises(DataError, match="two paths differ only in their separators"):
        open_events(events)


def test_long_lists_of_other_writers_are_read(events):
    one = table(30, seed=1)
    place = one.schema.get_field_index("Jet")
    jets = one["Jet"].combine_chunks().cast(pa.large_list(one["Jet"].type.value_type))
    pq.write_table(one.set_column(place, "Jet", jets), events / "qcd" / "b.parquet")
    assert pa.types.is_large_list(pq.read_schema(events / "qcd" / "b.parquet").field("Jet").type)
    fragment = open_events(events).fragments[0]
    assert ak.to_list(read_fragment(fragment).Jet) == ak.to_list(random_events(30, seed=1).Jet)


@pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_bytes(b"PAR1")])
def test_a_file_that_is_damaged_after_opening_is_an_error_in_one_line(events, damage):
    fragment = open_events(events).fragments[0]
    damage(fragment.path)
    with pytest.raises(DataError, match=r"b\.parquet: not readable \(.*Remove it and run") as error:
        read_fragment(fragment)
    assert "\n" not in str(error.value)


def test_every_flipped_bit_of_a_fragment_is_noticed_or_has_no_effect(tmp_path):
    write(tmp_path / "events" / "qcd" / "a.parquet", table(1500, seed=3))
    about = {"classes": ["qcd"], "provenance": "p", "schema_version": 1}
    ledger = Ledger(1500, 1500).to_dict()
    write_marker(tmp_path / "events", {**about, "ledger": ledger, "fragments": ["qcd/a.parquet"]})
    (fragment,) = open_events(tmp_path / "events").fragments
    expected, data = read_fragment(fragment).to_list(), fragment.path.read_bytes()
    rng, noticed = np.random.default_rng(1), []
    for position in rng.choice(8 * len(data), 300, replace=False).tolist():
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        fragment.path.write_bytes(bytes(flipped))
        try:
            found = read_fragment(fragment).to_list()
        except DataError as error:
            noticed.append(str(error))
        else:
            assert found == expected, f"bit {position % 8} of byte {position // 8}"
    assert len(noticed) > 250  # the others are in columns that the features do not read
    assert all("run `hepflow ingest` again" in line for line in noticed)
