"""`hepflow store compact`: the same events, ledger and sources in fewer files; runs still fit."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hepflow.config.tools import CompactConfig, StoreConfig
from hepflow.data.blocks import EventBlock, Range
from hepflow.data.part_writer import PartWriter
from hepflow.data.store import EventStore
from hepflow.errors import ConfigError
from hepflow.schema import SPLITS
from hepflow.tools import store as tools
from hepflow.tools.compact import run
from tests.support.calm_store import contents
from tests.support.old_store import old_store
from tests.support.toy_store import toy_store


@pytest.fixture(params=["version 1", "version 2"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> EventStore:
    """A store of nine small parts."""
    made = toy_store(tmp_path / "made.zarr", parts=9, events=8)
    if request.param == "version 1":
        return old_store(tmp_path / "old.zarr", made)
    return made


def rows_of(store: EventStore, read: Callable[[Range], EventBlock]) -> dict[str, np.ndarray]:
    found = {}
    for split in SPLITS:
        for name in store.spec.classes:
            whole = EventBlock.joined([read(rows) for rows in store.ranges(split, name)])
            for array in EventBlock.__dataclass_fields__:
                found[f"{split} {name} {array}"] = getattr(whole, array)
    return found


def assert_same_events(one: EventStore, other: EventStore) -> None:
    a, b = (rows_of(store, store.read) for store in (one, other))
    assert a.keys() == b.keys()
    for name, values in a.items():
        np.testing.assert_array_equal(b[name], values, err_msg=name)


def test_a_copy_has_the_same_events_in_fewer_files(store: EventStore, tmp_path: Path) -> None:
    config = CompactConfig(input=store.path, output=tmp_path / "few.zarr")
    run(config)
    few = EventStore.open(config.output)
    assert_same_events(store, few)
    assert len(few.sources()) == 1
    assert len(few.all_ranges(*SPLITS)) == 9
    assert len(contents(few.path)) == 5 + 6 + 1 + 2 < len(contents(store.path))
    assert few.spec == store.spec
    assert few.ledger() == store.ledger()
    assert few.attributes["counts"] == store.attributes["counts"]
    tools.check(StoreConfig(input=few.path))
    before = contents(few.path)
    run(config)
    assert contents(few.path) == before


def test_sources_stay_so_that_events_can_be_added(store: EventStore, tmp_path: Path) -> None:
    run(CompactConfig(input=store.path, output=tmp_path / "few.zarr"))

    def names(of: Path) -> dict[str, str]:
        sources = EventStore.open(of).sources().values()
        return {name: mark for own in sources for name, mark in own.items()}

    assert names(tmp_path / "few.zarr") == names(store.path)


def test_an_interrupted_copy_is_resumed(
    store: EventStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hepflow.data.packing._SMALLEST", 100_000)
    run(CompactConfig(input=store.path, output=tmp_path / "calm.zarr"))
    finish, calls = PartWriter.finish, []

    def killed(self: PartWriter, *arguments: object) -> None:
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(self)
        finish(self, *arguments)  # type: ignore[arg-type]

    config = CompactConfig(input=store.path, output=tmp_path / "few.zarr")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PartWriter, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            run(config)
    stamps = {path: path.stat().st_mtime_ns for path in config.output.glob("particles/c.*")}
    assert len(stamps) == 2
    run(config)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert contents(config.output) == contents(tmp_path / "calm.zarr")


def test_a_store_is_not_copied_over_itself_or_another(store: EventStore, tmp_path: Path) -> None:
    other = toy_store(tmp_path / "other.zarr", seed=2)
    for output, message in ((store.path, "the store itself"), (other.path, "holds a store with")):
        before = contents(output)
        with pytest.raises(ConfigError, match=message):
            run(CompactConfig(input=store.path, output=output))
        assert contents(output) == before
    run(CompactConfig(input=store.path, output=other.path, overwrite=True))
    assert_same_events(store, EventStore.open(other.path))
