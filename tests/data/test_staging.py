"""A staged store: the same events, made once, continued, and removed if its disk is full."""

import multiprocessing
import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hepflow.data import staging
from hepflow.data.staging import RECORD, staged
from hepflow.data.store import EventStore
from hepflow.system.publishing import publish_folder
from hepflow.system.storage import sizes_below
from hepflow.train.data import EventData
from tests.support.toy_store import toy_store

Usage = namedtuple("Usage", "free")


@pytest.fixture(autouse=True)
def _locks() -> Any:
    """Release the locks that this process would hold to its end."""
    yield
    while staging._HELD:
        staging._HELD.pop().close()


@pytest.fixture
def store(tmp_path: Path) -> EventStore:
    return toy_store(tmp_path / "toy.zarr", events=30)


def assert_same_events(a: EventStore, b: EventStore) -> None:
    for split in ("train", "val", "test"):
        for ours, theirs in zip(a.blocks(split), b.blocks(split), strict=True):
            assert np.array_equal(ours.particles, theirs.particles)
            assert np.array_equal(ours.event_id, theirs.event_id)


def test_a_copy_is_made_once_and_again_if_the_store_has_changed(
    store: EventStore, tmp_path: Path
) -> None:
    copy = staged(store, tmp_path / "cache")
    assert copy.path.is_relative_to(tmp_path / "cache")
    assert_same_events(copy, store)
    before = {path: path.stat().st_mtime_ns for path in copy.path.rglob("hlf/*")}
    assert staged(store, tmp_path / "cache").path == copy.path
    assert {path: path.stat().st_mtime_ns for path in copy.path.rglob("hlf/*")} == before != {}
    grown = toy_store(tmp_path / "toy.zarr", events=31, seed=2)
    assert staged(grown, tmp_path / "cache").path != copy.path


def test_a_copy_that_was_killed_or_damaged_is_completed(store: EventStore, tmp_path: Path) -> None:
    copy = staged(store, tmp_path / "cache")
    kept, cut, gone = sorted(copy.path.rglob("c.*"))[:3]
    before = kept.stat().st_mtime_ns
    cut.write_bytes(cut.read_bytes()[:-1])
    gone.unlink()
    (gone.parent / ".draft.part").write_text("killed")
    assert_same_events(staged(store, tmp_path / "cache"), store)
    assert not list(copy.path.rglob("*.part"))
    assert kept.stat().st_mtime_ns == before
    (copy.path / RECORD).unlink()
    assert_same_events(staged(store, tmp_path / "cache"), store)


def _stage(path: Path, folder: Path, _: int) -> str:
    return str(staged(EventStore.open(path), folder).path)


def test_the_processes_of_a_machine_share_one_copy(store: EventStore, tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        work = [(store.path, tmp_path / "cache", rank) for rank in range(4)]
        (path,) = set(pool.starmap(_stage, work, chunksize=1))
    assert sizes_below(Path(path)).keys() - {RECORD} == sizes_below(store.path).keys()


def test_a_full_disk_loses_the_copy_that_nobody_reads(
    store: EventStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk has room for two copies, of which one is read."""
    folder = tmp_path / "cache"
    inside = folder / f"hepflow-{os.geteuid()}"
    unused = staged(toy_store(tmp_path / "unused.zarr", events=30), folder)
    staging._HELD.pop().close()
    used = staged(toy_store(tmp_path / "used.zarr", events=30), folder)
    other = inside / "not-ours.zarr"
    other.mkdir()
    size = sum(sizes_below(store.path).values())
    room = 2.5 * size

    def usage(_: Path) -> Usage:
        return Usage(room - sum(sizes_below(folder).values()))

    monkeypatch.setattr(shutil, "disk_usage", usage)
    copy = staged(store, folder)
    assert copy.path.parent == inside
    assert used.path.is_dir()
    assert not unused.path.exists()
    assert other.is_dir()
    third = toy_store(tmp_path / "third.zarr", events=30)
    assert staged(third, folder).path == third.path, "both copies are read: no room"


@pytest.mark.slow
def test_a_remote_store_is_read_from_its_copy(
    store: EventStore, away: Path, tmp_path: Path
) -> None:
    publish_folder(shutil.copytree(store.path, tmp_path / "copy"), away)
    data = EventData(store=away, cache=tmp_path / "cache")
    assert data.store.path.is_relative_to(tmp_path / "cache")
    assert_same_events(data.store, store)
