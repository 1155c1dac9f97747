"""`hepflow store check` finds the faults of a store, `hepflow store info` shows its content."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

from hepflow.config.tools import StoreConfig
from hepflow.data.blocks import StoreSpec
from hepflow.data.events import open_events
from hepflow.data.store import EventStore
from hepflow.data.store_writer import StoreWriter
from hepflow.errors import DataError
from hepflow.features.packing import PlannedPart
from hepflow.features.parts import make_part
from hepflow.physics.features import hlf_features
from hepflow.schema import PARTICLE
from hepflow.system.files import read_json, write_json
from hepflow.tools.store import check, find_problems, info
from tests.support.delphes_events import write_dataset
from tests.support.seals import unseal

SPLITS = {"train": 0.6, "val": 0.2, "test": 0.2}


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    dataset = open_events(write_dataset(folder / "events", fragments=3, events=30), 2**26)
    spec = StoreSpec(
        dataset.classes, hlf_features("corrected"), PARTICLE, "corrected", "a test", splits=SPLITS
    )
    store = StoreWriter.create(folder / "s.zarr", spec)
    for number, fragment in enumerate(dataset.fragments):
        planned = PlannedPart(number, (fragment,))
        assert make_part(store, planned, None, 2**26).error is None
    StoreWriter(store.path, spec).finalise()
    check(StoreConfig(input=store.path))
    return store.path


@pytest.fixture
def store(sound, tmp_path) -> EventStore:
    """Return a sound store that a test may damage."""
    return EventStore.open(Path(shutil.copytree(sound, tmp_path / "s.zarr")))


def arrays(store):
    return zarr.open_group(store.path, mode="r+")


def first(store, split="train"):
    return store.ranges(split, "qcd")[0].first


def set_nan(store):
    root = arrays(store)
    root["particles"][root["offsets"][first(store)], 3] = np.nan


def set_offset(store):
    root, row = arrays(store), first(store) + 1
    root["offsets"][row] = root["offsets"][row - 1] - 1


def set_label(store):
    arrays(store)["label"][first(store)] = 2


def set_identity(store):
    ids, row = arrays(store)["event_id"], first(store)
    ids[row] = ids[row + 1]


def set_statistics(store):
    metadata = json.loads(unseal(store.path / "zarr.json").read_text())
    metadata["attributes"]["hepflow"]["statistics"]["hlf"]["mean"][0] += 1.0
    (store.path / "zarr.json").write_text(json.dumps(metadata))


def change_record(store, change):
    path = store.path / "_parts" / "finished.json"
    data = read_json(path)
    change(data["000000"])
    write_json(path, data)


def set_counts(store):
    def change(record):
        record["ranges"][0][2] += 1

    change_record(store, change)


def set_ledger(store):
    change_record(
        store,
        lambda data: data["ledger"].update(
            n_in=data["ledger"]["n_in"] + 1, n_out=data["ledger"]["n_out"] + 1
        ),
    )


def unbalance_ledger(store):
    change_record(store, lambda data: data["ledger"].update(n_in=data["ledger"]["n_in"] + 1))


def flip_a_bit(store):
    shard = store.path / "particles" / "c.0.0"
    data = bytearray(shard.read_bytes())
    data[99] ^= 1
    shard.write_bytes(bytes(data))


def remove_part(store):
    (store.path / "label" / "c.1").unlink()


def set_hlf_infinite(store):
    arrays(store)["hlf"][first(store) + 1, 2] = np.inf


def leak(store):
    ids = arrays(store)["event_id"]
    ids[first(store, "test")] = ids[first(store)]


def add_orphan(store):
    (store.path / "hlf" / "c.7.0").write_text("of a killed writer")


def swap_splits(store):
    def change(record):
        for row in record["ranges"]:
            row[0] = {"train": "test", "test": "train"}.get(row[0], row[0])

    change_record(store, change)
    StoreWriter(store.path, store.spec).finalise()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (set_nan, "NaN or infinite in particles: 1 value"),
        (set_offset, "offsets do not rise from 0 to"),
        (set_label, "labels of other classes than qcd"),
        (set_identity, "more than once in a split: 1 event"),
        (set_statistics, "the statistics of hlf are not those of the training split"),
        (set_counts, "ranges: other rows than in the records of the parts"),
        (set_ledger, ", but the ledger has"),
        (flip_a_bit, "is damaged: its checksum is wrong"),
        (remove_part, "label/c.1: missing, or of another size than it was written with"),
        (set_hlf_infinite, "NaN or infinite in hlf: 1 value"),
        (leak, "in more than one split: 1 event"),
        (add_orphan, "hlf/c.7.0: a part without a record"),
        (swap_splits, "in the wrong split by the hash of the event_id: "),
    ],
)
def test_check_reports_the_problem(store, spoil, message, caplog):
    spoil(store)
    with pytest.raises(DataError) as error:
        check(StoreConfig(input=store.path))
    assert message in caplog.text
    assert (
        str(error.value).count(str(store.path)) == str(error.value).count("`hepflow features`") == 1
    )


def test_a_ledger_that_does_not_reconcile_is_refused(store):
    unbalance_ledger(store)
    with pytest.raises(DataError, match=r"finished\.json: .*not reconcile"):
        check(StoreConfig(input=store.path))


def test_an_unreadable_part_is_one_problem(store):
    flip_a_bit(store)
    (problem,) = find_problems(store)
    assert problem.startswith("particles/c.0.0: chunk 0")


def test_info_shows_events_sizes_and_features(store, capsys):
    info(StoreConfig(input=store.path))
    text = " ".join(capsys.readouterr().out.split())
    for word in (
        "qcd",
        "ttbar",
        "wjets",
        "train",
        "bytes per event",
        "LepIsoCh",
        "vtxZ",
        "corrected",
        "90 events in",
    ):
        assert word in text


def test_both_can_print_one_json_object(store, capsys):
    info(StoreConfig(input=store.path, json=True))
    printed = json.loads(capsys.readouterr().out)
    assert printed["events"] == store.attributes["counts"]
    assert printed["statistics"] == store.statistics
    assert [feature["name"] for feature in printed["features"]["particles"]] == [
        feature.name for feature in store.spec.particles
    ]
    check(StoreConfig(input=store.path, json=True))
    assert json.loads(capsys.readouterr().out) == {
        "store": str(store.path),
        "sound": True,
        "problems": [],
    }
    set_nan(store)
    with pytest.raises(DataError):
        check(StoreConfig(input=store.path, json=True))
    printed = json.loads(capsys.readouterr().out)
    assert not printed["sound"]
    assert "NaN or infinite in particles: 1 value" in printed["problems"][0]


def test_the_documented_lines_read_a_store_without_hepflow(store, monkeypatch):
    text = (Path(__file__).parents[2] / "docs" / "store-format.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert "hepflow" not in code.replace('attrs["hepflow"]', "")
    store.path.rename(store.path.with_name("features.zarr"))
    monkeypatch.chdir(store.path.parent)
    found: dict = {}
    exec(code, found)
    last = EventStore.open(Path("features.zarr")).ranges("train", "ttbar")[-1]
    block = EventStore.open(Path("features.zarr")).read(last)
    np.testing.assert_array_equal(found["hlf"], block.hlf)
    np.testing.assert_array_equal(
        np.concatenate(found["pt"].to_list()).astype(np.float32), block.particles[:, 4]
    )
