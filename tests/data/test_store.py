"""The feature store: events are read as written, whole or not at all, and always the same bytes."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from hepflow.data.blocks import EventBlock, StoreSpec
from hepflow.data.layout import MOST_EVENTS, RANGE_COLUMNS, ROWS_PER_PART
from hepflow.data.ledger import Ledger
from hepflow.data.store import EventStore
from hepflow.data.store_writer import StoreWriter, check_replaceable
from hepflow.errors import ConfigError, DataError
from hepflow.schema import HLF, PARTICLE
from tests.support.seals import unseal

SPEC = StoreSpec(("qcd", "ttbar"), HLF, PARTICLE, "corrected", "one")


def block(n_events: int, seed: int = 0, label: int = 0) -> EventBlock:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 9, n_events)
    return EventBlock(
        hlf=rng.normal(size=(n_events, len(HLF))).astype(np.float32),
        particles=rng.normal(size=(counts.sum(), len(PARTICLE))).astype(np.float32),
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        label=np.full(n_events, label, np.int8),
        event_id=rng.integers(-(2**62), 2**62, n_events),
    )


def assert_same(a: EventBlock, b: EventBlock) -> None:
    for name in ("hlf", "particles", "offsets", "label", "event_id"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def contents(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def filled(path: Path, order=(0, 1, 2)) -> StoreWriter:
    store = StoreWriter.create(path, SPEC)
    for number in order:
        blocks = {
            ("train", "qcd"): block(20, number),
            ("test", "ttbar"): block(5, 50 + number, label=1),
        }
        sources = {f"fragment {number}": f"hash of {number}"}
        store.write_part(number, blocks, Ledger(30, 25, {"no lepton": 5}), sources)
    store.finalise()
    return store


@settings(max_examples=15)
@given(n_events=st.integers(1, 40), seed=st.integers(0, 99), data=st.data())
def test_any_range_of_events_comes_back_as_it_was_written(tmp_path_factory, n_events, seed, data):
    store = StoreWriter.create(tmp_path_factory.mktemp("store") / "s.zarr", SPEC)
    whole = block(n_events, seed)
    store.write_part(0, {("train", "qcd"): whole}, Ledger(n_events, n_events))
    store.finalise()
    store = EventStore.open(store.path)
    (part,) = store.ranges("train", "qcd")
    assert (part.n_events, part.n_particles) == (n_events, len(whole.particles))
    assert_same(store.read(part), whole)
    start = data.draw(st.integers(0, n_events))
    stop = data.draw(st.integers(start, n_events))
    few = store.read(part, start, stop)
    rows = slice(whole.offsets[start], whole.offsets[stop])
    np.testing.assert_array_equal(few.particles, whole.particles[rows])
    np.testing.assert_array_equal(
        few.offsets, whole.offsets[start : stop + 1] - whole.offsets[start]
    )
    np.testing.assert_array_equal(few.event_id, whole.event_id[start:stop])


def test_the_order_of_writing_parts_does_not_matter(tmp_path):
    filled(tmp_path / "one.zarr", (0, 1, 2))
    filled(tmp_path / "two.zarr", (2, 0, 1))
    assert contents(tmp_path / "one.zarr") == contents(tmp_path / "two.zarr")


def test_a_part_written_again_replaces_itself(tmp_path):
    store = filled(tmp_path / "s.zarr")
    before = contents(store.path)
    filled(store.path)
    assert contents(store.path) == before


def test_statistics_are_of_the_training_split_only(tmp_path):
    store = filled(tmp_path / "s.zarr")
    x = np.concatenate([store.read(part).hlf for part in store.ranges("train", "qcd")]).astype(
        np.float64
    )
    statistics = store.statistics["hlf"]
    assert statistics["count"] == len(x) == 60
    np.testing.assert_allclose(statistics["mean"], x.mean(axis=0))
    np.testing.assert_allclose(statistics["std"], x.std(axis=0))
    assert statistics["min"] == x.min(axis=0).tolist()
    assert statistics["max"] == x.max(axis=0).tolist()


def test_an_unfinished_store_cannot_be_opened_but_continued(tmp_path):
    store = StoreWriter.create(tmp_path / "s.zarr", SPEC)
    store.write_part(0, {("train", "qcd"): block(4)}, Ledger(4, 4))
    with pytest.raises(DataError, match=r"unfinished\. Repeat `hepflow features` to resume"):
        EventStore.open(store.path)
    assert StoreWriter.create(store.path, SPEC).sources().keys() == {0}


def test_a_part_without_a_record_does_not_exist_and_is_replaced(tmp_path):
    store = filled(tmp_path / "s.zarr")
    before = contents(store.path)
    store.discard([1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hepflow.data.part_writer.write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            store.write_part(1, {("train", "qcd"): block(9)}, Ledger(9, 9))
    assert (store.path / "hlf" / "c.1.0").is_file()
    again = StoreWriter.create(store.path, SPEC)
    assert not (store.path / "hlf" / "c.1.0").exists()
    assert again.sources().keys() == {0, 2}
    assert [rows.first // ROWS_PER_PART for rows in again.ranges("train", "qcd")] == [0, 2]
    filled(store.path, [1])
    assert contents(store.path) == before


def killed(*_):
    raise KeyboardInterrupt


def test_a_part_that_cannot_be_written_leaves_nothing(tmp_path):
    store = filled(tmp_path / "s.zarr")
    before = contents(store.path)
    bad = replace(block(3), hlf=None)
    with store.part_writer(3) as part:
        part.add({("test", "qcd"): block(3)})
        with pytest.raises(AttributeError):
            part.add({("train", "qcd"): bad})
    assert contents(store.path) == before


@pytest.mark.parametrize("n", [MOST_EVENTS, MOST_EVENTS + 1])
def test_a_part_takes_as_many_events_as_it_has_room_for(tmp_path, n):
    store = StoreWriter.create(tmp_path / "s.zarr", SPEC)
    whole = block(n)
    with store.part_writer(1) as part:
        part.add({("train", "qcd"): whole[: n - 1]})
        if n > MOST_EVENTS:
            with pytest.raises(DataError, match="more than 63,999 events in a part"):
                part.add({("val", "qcd"): whole[n - 1 :]})
            return
        part.add({("val", "qcd"): whole[n - 1 :]})
        part.finish(Ledger(n, n), {})
    store.write_part(2, {("val", "ttbar"): block(3, label=1)}, Ledger(3, 3))
    store.finalise()
    found = [store.read(rows) for rows in store.all_ranges("train", "val")]
    for one, expected in zip(
        found, (whole[: n - 1], whole[n - 1 :], block(3, label=1)), strict=True
    ):
        assert_same(one, expected)


@given(cuts=st.lists(st.integers(0, 20), max_size=4).map(sorted))
def test_rounds_of_a_part_are_ranges_of_rows_that_follow_each_other(tmp_path_factory, cuts):
    store = StoreWriter.create(tmp_path_factory.mktemp("store") / "s.zarr", SPEC)
    whole = block(20)
    rounds = [whole[i:j] for i, j in pairwise([0, *cuts, 20])]
    with store.part_writer(5) as part:
        for own in rounds:
            part.add({("train", "qcd"): own})
        part.finish(Ledger(20, 20), {})
    store.finalise()
    opened = EventStore.open(store.path)
    ranges = opened.ranges("train", "qcd")
    assert sum(rows.n_events for rows in ranges) == 20
    for rows, own in zip(ranges, (own for own in rounds if len(own)), strict=True):
        assert_same(opened.read(rows), own)
    np.testing.assert_array_equal(opened.range_rows, store.range_rows)


def test_a_store_of_another_provenance_is_replaced(tmp_path):
    store = filled(tmp_path / "s.zarr")
    other = StoreSpec(("qcd", "ttbar"), HLF, PARTICLE, "reference", "two")
    assert StoreWriter.create(store.path, other).sources() == {}


def test_parts_of_the_same_settings_can_be_kept_over_a_change_of_input(tmp_path):
    store = filled(tmp_path / "s.zarr")
    grown = StoreSpec(("qcd", "ttbar"), HLF, PARTICLE, "corrected", "two")
    assert StoreWriter.create(store.path, grown, keep=True).sources() == {
        number: {f"fragment {number}": f"hash of {number}"} for number in range(3)
    }
    changed = StoreSpec(("qcd", "ttbar"), HLF, PARTICLE, "reference", "three")
    assert StoreWriter.create(store.path, changed, keep=True).sources() == {}


@pytest.mark.parametrize("name", ["notes.txt", "hlf/precious.npy", ".git/config"])
def test_other_files_and_folders_are_left_alone(tmp_path, name):
    path = tmp_path / "s.zarr"
    (path / name).parent.mkdir(parents=True)
    (path / name).write_text("precious")
    with pytest.raises(DataError, match="not a feature store"):
        StoreWriter.create(path, SPEC)
    assert (path / name).read_text() == "precious"


def test_a_foreign_zarr_group_is_left_alone(tmp_path):
    zarr.create_group(tmp_path / "s.zarr").create_array("precious", shape=3, dtype="i4")
    with pytest.raises(DataError, match="not a feature store"):
        StoreWriter.create(tmp_path / "s.zarr", SPEC)
    assert zarr.open_group(tmp_path / "s.zarr", mode="r")["precious"].shape == (3,)


def test_another_schema_version_is_refused(tmp_path):
    store = filled(tmp_path / "s.zarr")
    metadata = json.loads(unseal(store.path / "zarr.json").read_text())
    metadata["attributes"]["hepflow"]["schema_version"] = 99
    (store.path / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(
        DataError, match=r"schema version 99, this hepflow reads 1 and 2\. Install the version"
    ):
        EventStore.open(store.path)


def test_a_missing_store_is_an_error_with_advice(tmp_path):
    (tmp_path / "events" / "qcd").mkdir(parents=True)
    (tmp_path / "events" / "qcd" / "a.parquet").touch()
    with pytest.raises(
        DataError,
        match=r"Parquet events\. Make a store of them: `hepflow features --input .*events`",
    ):
        EventStore.open(tmp_path / "events")
    with pytest.raises(DataError, match=r"no feature store here\. Make one with `hepflow features"):
        EventStore.open(tmp_path / "nothing.zarr")


def test_a_store_that_needs_what_this_version_lacks_is_refused(tmp_path):
    store = filled(tmp_path / "s.zarr")
    metadata = json.loads(unseal(store.path / "zarr.json").read_text())
    metadata["attributes"]["hepflow"]["requires"] = ["derived columns"]
    (store.path / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(DataError, match=r"schema version 2 with derived columns, this hepflow"):
        EventStore.open(store.path)


@pytest.mark.parametrize("left", [(), ("_parts/",), ("_parts/", "hlf/")])
def test_a_store_whose_creation_was_interrupted_is_begun_again(tmp_path, left):
    path = tmp_path / "s.zarr"
    path.mkdir()
    for name in left:
        (path / name).mkdir() if name.endswith("/") else (path / name).write_text("{")
    StoreWriter.create(path, SPEC)
    StoreWriter.create(tmp_path / "new.zarr", SPEC)
    assert contents(path) == contents(tmp_path / "new.zarr")


def test_a_file_in_place_of_a_store_is_left_alone(tmp_path):
    (tmp_path / "s.zarr").write_text("precious")
    with pytest.raises(DataError, match="not a feature store"):
        StoreWriter.create(tmp_path / "s.zarr", SPEC)
    assert (tmp_path / "s.zarr").read_text() == "precious"


def test_an_outdated_schema_is_replaced_even_if_nothing_else_changed(tmp_path):
    store = filled(tmp_path / "s.zarr")
    metadata = json.loads(unseal(store.path / "zarr.json").read_text())
    metadata["attributes"]["hepflow"]["schema_version"] = 0
    (store.path / "zarr.json").write_text(json.dumps(metadata))
    assert StoreWriter.create(store.path, SPEC, keep=True).sources() == {}


def test_a_store_of_the_same_settings_is_replaced_unless_its_parts_are_to_be_kept(tmp_path):
    store = filled(tmp_path / "s.zarr")
    grown = StoreSpec(("qcd", "ttbar"), HLF, PARTICLE, "corrected", "two")
    again = StoreWriter.create(store.path, grown)
    assert again.sources() == {}
    assert not list(again.path.rglob("c.*"))


def test_a_store_that_is_continued_is_unfinished_until_it_is_finalised(tmp_path):
    store = filled(tmp_path / "s.zarr")
    again = StoreWriter.create(store.path, SPEC)
    with pytest.raises(DataError, match="unfinished"):
        EventStore.open(store.path)
    again.finalise()
    assert EventStore.open(store.path).spec == SPEC


HEX = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    "draft",
    [f".zarr.json.{HEX}.part", f"hlf/.c.0.0.{HEX}.part", f"_parts/.0.{HEX}.part", "label/c.9"],
)
def test_drafts_of_killed_writers_are_removed_at_the_start_and_at_the_end(tmp_path, draft):
    store = filled(tmp_path / "s.zarr", [0])
    before = contents(store.path)

    def plant():
        (store.path / draft).parent.mkdir(parents=True, exist_ok=True)
        (store.path / draft).write_text("{")

    plant()
    again = StoreWriter.create(store.path, SPEC)
    assert contents(store.path).keys() == before.keys()
    plant()
    again.finalise()
    assert contents(store.path) == before


def test_zarr_alone_finds_all_arrays_and_events(tmp_path):
    store = filled(tmp_path / "s.zarr")
    root = zarr.open_group(store.path, mode="r", zarr_format=3)
    assert not list(root.group_keys())
    names = {"particles", "offsets", "hlf", "label", "event_id"}
    assert set(root.array_keys()) == names | {"ranges"}
    assert root["label"].shape == root["offsets"].shape == (3 * ROWS_PER_PART,)
    assert root["ranges"].attrs["columns"] == list(RANGE_COLUMNS)
    assert root["ranges"].attrs["classes"] == ["qcd", "ttbar"]
    ranges = root["ranges"][...].tolist()
    assert len(ranges) == 6
    for number, (split, label, first, n_events, particle, n_particles) in enumerate(ranges):
        whole = block(20, number // 2) if label == 0 else block(5, 50 + number // 2, label=1)
        assert (split, n_events, n_particles) == (2 * label, len(whole), len(whole.particles))
        rows = slice(first, first + n_events)
        for name in ("hlf", "label", "event_id"):
            assert root[name].dtype == getattr(whole, name).dtype
            np.testing.assert_array_equal(root[name][rows], getattr(whole, name))
        offsets = root["offsets"][first : first + n_events + 1]
        np.testing.assert_array_equal(offsets - particle, whole.offsets)
        particles = root["particles"][particle : particle + n_particles]
        np.testing.assert_array_equal(particles, whole.particles)


def test_a_store_has_few_files_and_folders(tmp_path):
    """One shard per array and part, one description per array, and three files for the store."""
    store = filled(tmp_path / "s.zarr")
    found = list(store.path.rglob("*"))
    assert sum(path.is_file() for path in found) == 5 * 3 + 6 + 1 + 2
    assert sum(path.is_dir() for path in found) == 7


def test_the_attributes_hold_counts_ledger_and_description(tmp_path):
    store = filled(tmp_path / "s.zarr")
    about = dict(zarr.open_group(store.path, mode="r").attrs["hepflow"])
    assert about["schema_version"] == 2
    assert about["complete"] is True
    zeros = {"qcd": 0, "ttbar": 0}
    assert about["counts"] == {
        "train": {"qcd": 60, "ttbar": 0},
        "val": zeros,
        "test": {"qcd": 0, "ttbar": 15},
    }
    ledger = Ledger(90, 75, {"no lepton": 15})
    assert Ledger.from_dict(about["ledger"]) == store.ledger() == ledger
    assert StoreSpec.from_dict(about) == SPEC
    assert about == store.attributes


def test_a_summary_counts_events_per_split_and_class(tmp_path):
    assert filled(tmp_path / "s.zarr").summary() == (
        "75 events (60 train, 0 val, 15 test; 60 qcd, 15 ttbar), corrected definitions"
    )


def test_wider_numbers_of_a_physics_function_become_those_of_the_format(tmp_path):
    whole = block(5)
    names = ("hlf", "particles", "offsets", "label", "event_id")
    kinds = ("f8", "f8", "i4", "i8", "u8")
    wide = EventBlock(*(getattr(whole, n).astype(k) for n, k in zip(names, kinds, strict=True)))
    store = StoreWriter.create(tmp_path / "s.zarr", SPEC)
    store.write_part(0, {("val", "qcd"): wide}, Ledger(5, 5))
    store.finalise()
    found = store.read(*store.ranges("val", "qcd"))
    assert_same(found, whole)
    for name in names:
        assert getattr(found, name).dtype == getattr(whole, name).dtype


def test_a_store_reports_parts_that_it_wrote_itself(tmp_path):
    store = StoreWriter.create(tmp_path / "s.zarr", SPEC)
    for n in (1, 2):
        store.write_part(n, {("train", "qcd"): block(n)}, Ledger(n, n), {str(n): "mark"})
        sizes = [rows.n_events for rows in store.ranges("train", "qcd")]
        assert sizes == list(range(1, n + 1))
    store.discard([1, 99])
    assert [rows.n_events for rows in store.ranges("train", "qcd")] == [2]
    assert store.sources() == {2: {"2": "mark"}}
    assert store.ledger() == Ledger(2, 2)


def test_a_discarded_part_leaves_no_file_and_its_number_is_not_used_again(tmp_path):
    store = filled(tmp_path / "s.zarr", (0, 1))
    assert store.n_numbers == 2
    again = StoreWriter.create(store.path, SPEC, keep=True)
    again.discard([1])
    again.finalise()
    assert not list(store.path.rglob("c.1*"))
    assert again.n_numbers == 2
    events = [block for split in ("train", "test") for block in again.blocks(split)]
    alone = filled(tmp_path / "other.zarr", [0])
    expected = [block for split in ("train", "test") for block in alone.blocks(split)]
    for one, other in zip(events, expected, strict=True):
        assert_same(one, other)


def test_a_file_that_is_missing_or_cut_is_found(tmp_path):
    store = filled(tmp_path / "s.zarr")
    assert store.incomplete() == {}
    gone, cut = store.path / "label" / "c.1", store.path / "particles" / "c.2.0"
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:-1])
    assert store.incomplete() == {gone: 1, cut: 2}


def test_a_store_without_training_events_has_plain_json_and_statistics_of_no_events(tmp_path):
    store = StoreWriter.create(tmp_path / "s.zarr", SPEC)
    store.write_part(0, {("val", "qcd"): block(2)}, Ledger(2, 2))
    store.write_part(1, {}, Ledger(3, 0, {"no lepton": 3}))
    assert store.finalise() == Ledger(5, 2, {"no lepton": 3})
    assert store.statistics["hlf"]["count"] == store.statistics["particles"]["count"] == 0
    for path in store.path.rglob("*.json"):
        json.loads(path.read_text(), parse_constant=pytest.fail)  # NaN and Infinity are no JSON


def test_two_writers_of_the_same_part_leave_one_whole_part(tmp_path):
    store = StoreWriter.create(tmp_path / "s.zarr", SPEC)
    blocks = {("train", "qcd"): block(20), ("test", "ttbar"): block(5, label=1)}
    with ThreadPoolExecutor(2) as pool:
        for number in range(8):
            write = partial(store.write_part, number, blocks, Ledger(25, 25))
            twice = [pool.submit(write) for _ in range(2)]
            for one in twice:
                one.result()
    assert not list(store.path.rglob(".*"))
    store.finalise()
    for place, events in blocks.items():
        assert len(store.ranges(*place)) == 8
        for rows in store.ranges(*place):
            assert_same(store.read(rows), events)


def test_ranges_are_listed_class_by_class_and_split_by_split(tmp_path):
    store = StoreWriter.create(tmp_path / "s.zarr", SPEC)
    for number in (1, 0):
        both = {(split, c): block(2) for split in ("train", "test") for c in SPEC.classes}
        store.write_part(number, both, Ledger(8, 8))
    found = [(rows.split, rows.class_name) for rows in store.all_ranges("test", "train")]
    assert found == [
        (split, name) for split in ("test", "train") for name in SPEC.classes for _ in range(2)
    ]
    rows = [rows.first for rows in store.ranges("train", "ttbar")]
    assert rows == sorted(rows)
    assert store.all_ranges() == store.all_ranges("val") == []


def test_events_are_read_without_their_particles(tmp_path):
    store = filled(tmp_path / "s.zarr")
    part = store.ranges("train", "qcd")[0]
    few, whole = store.read(part, 3, 9, particles=False), block(20, 0)
    assert few.particles.shape == (0, len(PARTICLE))
    assert few.particles.dtype == np.float32
    assert few.offsets.tolist() == [0] * 7
    assert few.offsets.dtype == np.int64
    for name in ("hlf", "label", "event_id"):
        np.testing.assert_array_equal(getattr(few, name), getattr(whole, name)[3:9])


def test_features_labels_and_identities_of_a_split_are_joined(tmp_path):
    store = filled(tmp_path / "s.zarr")
    blocks = [block(20, number) for number in range(3)]
    shutil.rmtree(store.path / "particles")  # not read at all
    for found, name in zip(store.high_level("train"), ("hlf", "label", "event_id"), strict=True):
        np.testing.assert_array_equal(found, np.concatenate([getattr(b, name) for b in blocks]))


def test_the_blocks_of_a_split_are_read_in_order_with_or_without_particles(tmp_path):
    store = filled(tmp_path / "s.zarr")
    for number, found in enumerate(store.blocks("train")):
        assert_same(found, block(20, number))
    assert [len(found.particles) for found in store.blocks("train", particles=False)] == [0] * 3


@given(start=st.integers(0, 20), more=st.integers(0, 20))
def test_lengths_of_events_are_read_without_their_particles(finished, start, more):
    stop, whole = min(start + more, 20), block(20, 0)
    lengths = finished.lengths(finished.ranges("train", "qcd")[0], start, stop)
    assert lengths.tolist() == np.diff(whole.offsets)[start:stop].tolist()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return filled(tmp_path_factory.mktemp("finished") / "s.zarr")


def test_a_finished_store_is_replaceable_by_one_of_the_same_settings(finished, tmp_path):
    settings = ("classes", "definitions")
    other = StoreSpec(("qcd", "ttbar"), HLF, PARTICLE, "corrected", "two", input="more")
    assert check_replaceable(finished.path, other, settings) == SPEC
    assert check_replaceable(tmp_path / "nowhere", other, settings) is None
    StoreWriter.create(tmp_path / "begun.zarr", SPEC)
    changed = StoreSpec(("qcd", "wjets"), HLF, PARTICLE, "reference", "two")
    assert check_replaceable(tmp_path / "begun.zarr", changed, settings) is None
    assert check_replaceable(finished.path, changed, ("hlf",)) == SPEC
    with pytest.raises(ConfigError) as error:
        check_replaceable(finished.path, changed, settings)
    for word in (
        f"{finished.path} holds a store",
        "classes ('qcd', 'ttbar') (now ('qcd', 'wjets'))",
        "definitions corrected (now reference)",
    ):
        assert word in str(error.value)


def test_reading_detects_a_flipped_byte(tmp_path):
    store = filled(tmp_path / "s.zarr")
    (part, *_) = store.ranges("train", "qcd")
    shard = store.path / "particles" / "c.0.0"
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 0xFF
    shard.write_bytes(bytes(data))
    with pytest.raises(DataError, match="checksum"):
        store.read(part)


def test_one_file_describes_all_arrays_as_their_own_files_do(tmp_path):
    store = filled(tmp_path / "s.zarr")
    group = zarr.open_group(store.path, mode="r", use_consolidated=True)
    together = group.metadata.consolidated_metadata.metadata
    assert set(together) == {"hlf", "particles", "offsets", "label", "event_id", "ranges"}
    for name, metadata in together.items():
        own = json.loads((store.path / name / "zarr.json").read_text())
        assert json.loads(json.dumps(metadata.to_dict())) == own


def test_a_store_that_grows_describes_its_new_length(tmp_path):
    store = filled(tmp_path / "s.zarr")
    n_parts = store.n_numbers
    again = StoreWriter.create(store.path, SPEC, keep=True)
    with pytest.raises(DataError, match="unfinished"):
        EventStore.open(store.path)
    again.write_part(n_parts, {("train", "qcd"): block(5)}, Ledger(5, 5))
    again.finalise()
    (last,) = EventStore.open(store.path).parts[n_parts]
    assert len(EventStore.open(store.path).read(last)) == 5
    assert zarr.open_group(store.path, mode="r")["label"].shape == ((n_parts + 1) * ROWS_PER_PART,)
