"""The feature store: events are read as written, whole or not at all, and always the same bytes."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from hepflow.data.blocks import EventBlock, StoreSpec
from hepflow.data.ledger import Ledger
from hepflow.data.store import EventStore
from hepflow.data.store_writer import StoreWriter, check_replaceable
from hepflow.errors import ConfigError, DataError
from hepflow.schema import HLF, PARTICLE

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


def filled(path: Path, order=("a", "b", "c")) -> EventStore:
    store = StoreWriter.create(path, SPEC)
    for name in order:
        seed = ord(name)
        blocks = {("train", "qcd"): block(20, seed), ("test", "ttbar"): block(5, seed + 1, label=1)}
        store.write_part(name, blocks, Ledger(30, 25, {"no lepton": 5}), source=f"source of {name}")
    store.finalise()
    return store


@settings(max_examples=15)
@given(n_events=st.integers(1, 40), seed=st.integers(0, 99), data=st.data())
def test_any_range_of_events_comes_back_as_it_was_written(tmp_path_factory, n_events, seed, data):
    store = StoreWriter.create(tmp_path_factory.mktemp("store") / "s.zarr", SPEC)
    whole = block(n_events, seed)
    store.write_part("a", {("train", "qcd"): whole}, Ledger(n_events, n_events))
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


def test_arrays_longer_than_a_shard_come_back(tmp_path, monkeypatch):
    monkeypatch.setattr("hepflow.data.arrays.ROWS_PER_CHUNK", 16)
    monkeypatch.setattr("hepflow.data.arrays.CHUNKS_PER_SHARD", 2)
    store = StoreWriter.create(tmp_path / "s.zarr", SPEC)
    whole = block(150)
    store.write_part("a", {("train", "qcd"): whole}, Ledger(150, 150))
    store.finalise()
    (part,) = store.ranges("train", "qcd")
    assert_same(store.read(part), whole)


def test_the_order_of_writing_parts_does_not_matter(tmp_path):
    filled(tmp_path / "one.zarr", "abc")
    filled(tmp_path / "two.zarr", "cab")
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
    store.write_part("a", {("train", "qcd"): block(4)}, Ledger(4, 4))
    with pytest.raises(DataError, match=r"unfinished\. Repeat `hepflow features` to resume"):
        EventStore.open(store.path)
    assert StoreWriter.create(store.path, SPEC).done() == {"a"}


def test_a_part_whose_record_is_missing_does_not_exist_and_is_replaced(tmp_path):
    store = filled(tmp_path / "s.zarr")
    before = contents(store.path)
    (store.path / "_parts" / "b.json").unlink()  # a writer killed before its last act
    again = StoreWriter.create(store.path, SPEC)
    assert again.done() == {"a", "c"}
    assert [part.name for part in again.ranges("train", "qcd")] == ["a", "c"]
    filled(store.path, "b")
    assert contents(store.path) == before


def test_a_part_that_cannot_be_written_leaves_nothing(tmp_path):
    store = filled(tmp_path / "s.zarr")
    before = contents(store.path)
    blocks = {
        ("test", "qcd"): block(3),
        ("train", "n" * 300): block(3),
    }  # the second cannot be written
    with pytest.raises(OSError, match="too long"):
        store.write_part("d", blocks, Ledger(6, 6))
    assert contents(store.path) == before
    assert not list(store.path.glob(".*"))


def test_a_store_of_another_provenance_is_replaced(tmp_path):
    store = filled(tmp_path / "s.zarr")
    other = StoreSpec(("qcd", "ttbar"), HLF, PARTICLE, "reference", "two")
    assert StoreWriter.create(store.path, other).done() == set()


def test_parts_of_the_same_settings_can_be_kept_over_a_change_of_input(tmp_path):
    store = filled(tmp_path / "s.zarr")
    grown = StoreSpec(("qcd", "ttbar"), HLF, PARTICLE, "corrected", "two")
    assert StoreWriter.create(store.path, grown, keep=True).sources() == {
        name: f"source of {name}" for name in "abc"
    }
    changed = StoreSpec(("qcd", "ttbar"), HLF, PARTICLE, "reference", "three")
    assert StoreWriter.create(store.path, changed, keep=True).sources() == {}


@pytest.mark.parametrize("name", ["notes.txt", "train/precious.npy", ".git/config"])
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
    metadata = json.loads((store.path / "zarr.json").read_text())
    metadata["attributes"]["hepflow"]["schema_version"] = 99
    (store.path / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(
        DataError, match=r"schema version 99, this hepflow reads 1\. Run `hepflow features` again"
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


@pytest.mark.parametrize(
    "left", [(), ("_parts/",), ("_parts/", "zarr.0a1b.partial"), ("zarr.0a1b.partial",)]
)
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
    metadata = json.loads((store.path / "zarr.json").read_text())
    metadata["attributes"]["hepflow"]["schema_version"] = 0
    (store.path / "zarr.json").write_text(json.dumps(metadata))
    assert StoreWriter.create(store.path, SPEC, keep=True).done() == set()


def test_a_store_of_the_same_settings_is_replaced_unless_its_parts_are_to_be_kept(tmp_path):
    store = filled(tmp_path / "s.zarr")
    grown = StoreSpec(("qcd", "ttbar"), HLF, PARTICLE, "corrected", "two")
    again = StoreWriter.create(store.path, grown)
    assert again.done() == set()
    assert not list(again.path.rglob("particles"))


def test_a_store_that_is_continued_is_unfinished_until_it_is_finalised(tmp_path):
    store = filled(tmp_path / "s.zarr")
    again = StoreWriter.create(store.path, SPEC)
    with pytest.raises(DataError, match="unfinished"):
        EventStore.open(store.path)
    again.finalise()
    assert EventStore.open(store.path).spec == SPEC


@pytest.mark.parametrize(
    "draft",
    [
        "zarr.0a1b.partial",
        "train/zarr.0a1b.partial",
        "train/qcd/zarr.0a1b.partial",
        "_parts/.a.json.0a1b.part",
        ".a-0a1b/train/qcd/a/zarr.json",
    ],
)
def test_drafts_of_killed_writers_are_removed_at_the_start_and_at_the_end(tmp_path, draft):
    store = filled(tmp_path / "s.zarr", "a")
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


def test_zarr_alone_finds_all_groups_and_arrays(tmp_path):
    store = filled(tmp_path / "s.zarr")
    root = zarr.open_group(store.path, mode="r", zarr_format=3)
    for split in ("train", "val", "test"):
        assert set(root[split].group_keys()) == {"qcd", "ttbar"}
    assert set(root["train/qcd"].group_keys()) == {"a", "b", "c"}
    whole, part = block(20, ord("a")), root["train/qcd/a"]
    assert set(part.array_keys()) == {"particles", "offsets", "hlf", "label", "event_id"}
    for name, array in part.arrays():
        assert array.dtype == getattr(whole, name).dtype
        np.testing.assert_array_equal(array[...], getattr(whole, name))
    assert root.metadata.zarr_format == part.metadata.zarr_format == 3


def test_the_attributes_hold_counts_ledger_and_description(tmp_path):
    store = filled(tmp_path / "s.zarr")
    about = dict(zarr.open_group(store.path, mode="r").attrs["hepflow"])
    assert about["schema_version"] == 1
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
    store.write_part("a", {("val", "qcd"): wide}, Ledger(5, 5))
    found = store.read(*store.ranges("val", "qcd"))
    assert_same(found, whole)
    for name in names:
        assert getattr(found, name).dtype == getattr(whole, name).dtype


def test_a_store_reports_parts_that_it_wrote_itself(tmp_path):
    store = StoreWriter.create(tmp_path / "s.zarr", SPEC)
    for n, name in enumerate("ab", start=1):
        store.write_part(name, {("train", "qcd"): block(n)}, Ledger(n, n), source=name)
        assert [part.n_events for part in store.ranges("train", "qcd")] == list(range(1, n + 1))
    store.discard(["a", "never written"])
    assert [part.name for part in store.ranges("train", "qcd")] == ["b"]
    assert store.sources() == {"b": "b"}
    assert store.ledger() == Ledger(2, 2)


def test_a_discarded_part_leaves_no_file(tmp_path):
    store = filled(tmp_path / "s.zarr", "ab")
    store.discard(["b"])
    store.finalise()
    assert contents(store.path) == contents(filled(tmp_path / "other.zarr", "a").path)


def test_a_part_without_a_source_counts_as_one_of_an_unknown_source(tmp_path):
    store = filled(tmp_path / "s.zarr", "a")
    record = json.loads((store.path / "_parts" / "a.json").read_text())
    del record["source"]  # as in the first stores
    (store.path / "_parts" / "a.json").write_text(json.dumps(record))
    store.write_part("b", {("val", "qcd"): block(2)}, Ledger(2, 2))
    assert store.sources() == {"a": "", "b": ""}


def test_a_store_without_training_events_has_plain_json_and_statistics_of_no_events(tmp_path):
    store = StoreWriter.create(tmp_path / "s.zarr", SPEC)
    store.write_part("a", {("val", "qcd"): block(2)}, Ledger(2, 2))
    store.write_part("b", {}, Ledger(3, 0, {"no lepton": 3}))
    assert store.finalise() == Ledger(5, 2, {"no lepton": 3})
    assert store.statistics["hlf"]["count"] == store.statistics["particles"]["count"] == 0
    for path in store.path.rglob("*.json"):
        json.loads(path.read_text(), parse_constant=pytest.fail)  # NaN and Infinity are no JSON


def test_two_writers_of_the_same_part_leave_one_whole_part(tmp_path):
    store = StoreWriter.create(tmp_path / "s.zarr", SPEC)
    blocks = {("train", "qcd"): block(20), ("test", "ttbar"): block(5, label=1)}
    with ThreadPoolExecutor(2) as pool:
        for name in "abcdefgh":
            twice = [pool.submit(store.write_part, name, blocks, Ledger(25, 25)) for _ in range(2)]
            for one in twice:
                one.result()
    assert not list(store.path.glob(".*"))
    for place, events in blocks.items():
        assert [part.name for part in store.parts(*place)] == list("abcdefgh")
        for part in store.parts(*place):
            assert_same(store.read(part), events)


def test_parts_are_listed_class_by_class_and_split_by_split(tmp_path):
    store = StoreWriter.create(tmp_path / "s.zarr", SPEC)
    for name in ("b", "a"):
        both = {(split, c): block(2) for split in ("train", "test") for c in SPEC.classes}
        store.write_part(name, both, Ledger(8, 8))
    classes = ["qcd/a", "qcd/b", "ttbar/a", "ttbar/b"]
    assert [part.path for part in store.all_ranges("test", "train")] == [
        *(f"test/{name}" for name in classes),
        *(f"train/{name}" for name in classes),
    ]
    assert store.all_ranges() == store.all_ranges("val") == []


def test_events_are_read_without_their_particles(tmp_path):
    store = filled(tmp_path / "s.zarr")
    part = store.ranges("train", "qcd")[0]
    few, whole = store.read(part, 3, 9, particles=False), block(20, ord("a"))
    assert few.particles.shape == (0, len(PARTICLE))
    assert few.particles.dtype == np.float32
    assert few.offsets.tolist() == [0] * 7
    assert few.offsets.dtype == np.int64
    for name in ("hlf", "label", "event_id"):
        np.testing.assert_array_equal(getattr(few, name), getattr(whole, name)[3:9])


def test_features_labels_and_identities_of_a_split_are_joined(tmp_path):
    store = filled(tmp_path / "s.zarr")
    blocks = [block(20, ord(name)) for name in "abc"]
    shutil.rmtree(store.path / "train" / "qcd" / "a" / "particles")  # not read at all
    for found, name in zip(store.high_level("train"), ("hlf", "label", "event_id"), strict=True):
        np.testing.assert_array_equal(found, np.concatenate([getattr(b, name) for b in blocks]))


def test_the_blocks_of_a_split_are_read_in_order_with_or_without_particles(tmp_path):
    store = filled(tmp_path / "s.zarr")
    for found, name in zip(store.blocks("train"), "abc", strict=True):
        assert_same(found, block(20, ord(name)))
    assert [len(found.particles) for found in store.blocks("train", particles=False)] == [0] * 3


@given(start=st.integers(0, 20), more=st.integers(0, 20))
def test_lengths_of_events_are_read_without_their_particles(finished, start, more):
    stop, whole = min(start + more, 20), block(20, ord("a"))
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
    shard = next((store.path / part.path / "particles" / "c").rglob("0"))
    while shard.is_dir():
        shard = shard / "0"
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 0xFF
    shard.write_bytes(bytes(data))
    with pytest.raises(DataError, match="checksum"):
        store.read(part)
