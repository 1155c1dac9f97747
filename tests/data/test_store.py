"""The feature store: events are read as written, whole or not at all, and always the same bytes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hepflow.data.blocks import EventBlock, StoreSpec
from hepflow.data.ledger import Ledger
from hepflow.data.moments import Moments
from hepflow.data.store import EventStore
from hepflow.errors import DataError
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
    store = EventStore.create(path, SPEC)
    for name in order:
        seed = ord(name)
        blocks = {("train", "qcd"): block(20, seed), ("test", "ttbar"): block(5, seed + 1, label=1)}
        store.write_part(name, blocks, Ledger(30, 25, {"no lepton": 5}), source=f"source of {name}")
    store.finalise()
    return store


@settings(max_examples=15)
@given(n_events=st.integers(1, 40), seed=st.integers(0, 99), data=st.data())
def test_any_range_of_events_comes_back_as_it_was_written(tmp_path_factory, n_events, seed, data):
    store = EventStore.create(tmp_path_factory.mktemp("store") / "s.zarr", SPEC)
    whole = block(n_events, seed)
    store.write_part("a", {("train", "qcd"): whole}, Ledger(n_events, n_events))
    store.finalise()
    store = EventStore.open(store.path)
    (part,) = store.parts("train", "qcd")
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
    store = EventStore.create(tmp_path / "s.zarr", SPEC)
    whole = block(150)
    store.write_part("a", {("train", "qcd"): whole}, Ledger(150, 150))
    store.finalise()
    (part,) = store.parts("train", "qcd")
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
    x = np.concatenate([store.read(part).hlf for part in store.parts("train", "qcd")]).astype(
        np.float64
    )
    statistics = store.statistics["hlf"]
    assert statistics["count"] == len(x) == 60
    np.testing.assert_allclose(statistics["mean"], x.mean(axis=0))
    np.testing.assert_allclose(statistics["std"], x.std(axis=0))
    assert statistics["min"] == x.min(axis=0).tolist()
    assert statistics["max"] == x.max(axis=0).tolist()


@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=20),
        elements=st.floats(-1e6, 1e6, width=32),
    ),
    st.integers(0, 20),
)
def test_moments_add_up(x, cut):
    together, apart = Moments.of(x), Moments.of(x[:cut]) + Moments.of(x[cut:])
    np.testing.assert_allclose(apart.mean, together.mean, rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(apart.m2, together.m2, rtol=1e-6, atol=1e-3)
    assert apart.count == together.count
    assert apart.min.tolist() == together.min.tolist()


def test_an_unfinished_store_cannot_be_opened_but_continued(tmp_path):
    store = EventStore.create(tmp_path / "s.zarr", SPEC)
    store.write_part("a", {("train", "qcd"): block(4)}, Ledger(4, 4))
    with pytest.raises(DataError, match=r"unfinished\. Repeat `hepflow features` to resume"):
        EventStore.open(store.path)
    assert EventStore.create(store.path, SPEC).done() == {"a"}


def test_a_part_whose_record_is_missing_does_not_exist_and_is_replaced(tmp_path):
    store = filled(tmp_path / "s.zarr")
    before = contents(store.path)
    (store.path / "_parts" / "b.json").unlink()  # a writer killed before its last act
    again = EventStore.create(store.path, SPEC)
    assert again.done() == {"a", "c"}
    assert [part.name for part in again.parts("train", "qcd")] == ["a", "c"]
    filled(store.path, "b")
    assert contents(store.path) == before


def test_a_part_that_cannot_be_written_leaves_nothing(tmp_path):
    store = filled(tmp_path / "s.zarr")
    before = contents(store.path)
    blocks = {
        ("test", "qcd"): block(3),
        ("train", "no\0name"): block(3),
    }  # the second cannot be written
    with pytest.raises(ValueError, match="null"):
        store.write_part("d", blocks, Ledger(6, 6))
    assert contents(store.path) == before
    assert not list(store.path.glob(".*"))


def test_scratch_folders_of_killed_writers_are_removed(tmp_path):
    store = filled(tmp_path / "s.zarr")
    before = contents(store.path)
    shutil.copytree(store.path / "train", store.path / ".b-0123")
    filled(store.path)
    assert contents(store.path) == before


def test_a_store_of_another_provenance_is_replaced(tmp_path):
    store = filled(tmp_path / "s.zarr")
    other = StoreSpec(("qcd", "ttbar"), HLF, PARTICLE, "reference", "two")
    assert EventStore.create(store.path, other).done() == set()


def test_parts_of_the_same_settings_can_be_kept_over_a_change_of_input(tmp_path):
    store = filled(tmp_path / "s.zarr")
    grown = StoreSpec(("qcd", "ttbar"), HLF, PARTICLE, "corrected", "two")
    assert EventStore.create(store.path, grown, keep=True).sources() == {
        name: f"source of {name}" for name in "abc"
    }
    changed = StoreSpec(("qcd", "ttbar"), HLF, PARTICLE, "reference", "three")
    assert EventStore.create(store.path, changed, keep=True).sources() == {}


@pytest.mark.parametrize("name", ["notes.txt", "train/precious.npy", ".git/config"])
def test_other_files_and_folders_are_left_alone(tmp_path, name):
    path = tmp_path / "s.zarr"
    (path / name).parent.mkdir(parents=True)
    (path / name).write_text("precious")
    with pytest.raises(DataError, match="not a feature store"):
        EventStore.create(path, SPEC)
    assert (path / name).read_text() == "precious"


def test_a_foreign_zarr_group_is_left_alone(tmp_path):
    zarr.create_group(tmp_path / "s.zarr").create_array("precious", shape=3, dtype="i4")
    with pytest.raises(DataError, match="not a feature store"):
        EventStore.create(tmp_path / "s.zarr", SPEC)
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


def test_reading_detects_a_flipped_byte(tmp_path):
    store = filled(tmp_path / "s.zarr")
    (part, *_) = store.parts("train", "qcd")
    shard = next((store.path / part.path / "particles" / "c").rglob("0"))
    while shard.is_dir():
        shard = shard / "0"
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 0xFF
    shard.write_bytes(bytes(data))
    with pytest.raises(DataError, match="checksum"):
        store.read(part)


def test_events_of_a_block_are_selected_by_slice_mask_or_positions() -> None:
    whole = block(20)
    mask = np.arange(20) % 3 == 1
    for chosen in (whole[mask], whole[1::3], whole[np.flatnonzero(mask)]):
        assert chosen.event_id.tolist() == whole.event_id[1::3].tolist()
        for i, j in enumerate(range(1, 20, 3)):
            np.testing.assert_array_equal(rows(chosen, i), rows(whole, j))
    part = whole[2:5]
    assert np.shares_memory(part.particles, whole.particles), "a slice is a view"
    np.testing.assert_array_equal(rows(part, 0), rows(whole, 2))
    assert len(whole[5:2]) == len(whole[mask & False]) == 0
    assert whole[20:].offsets.tolist() == [0]


def rows(events: EventBlock, i: int) -> np.ndarray:
    return events.particles[events.offsets[i] : events.offsets[i + 1]]
