"""`hepflow store check` finds what is wrong with a store, `hepflow store info` tells what is inside."""

import json

import numpy as np
import pytest
import zarr
from delphes_events import write_dataset

from hepflow.config import StoreConfig
from hepflow.errors import DataError
from hepflow.features import make_part
from hepflow.fragments import open_events
from hepflow.physics.features import hlf_features
from hepflow.schema import PARTICLE
from hepflow.store import EventStore, StoreSpec
from hepflow.store_tools import check, info

SPLITS = {"train": 0.6, "val": 0.2, "test": 0.2}


@pytest.fixture
def store(tmp_path) -> EventStore:
    dataset = open_events(write_dataset(tmp_path / "events", fragments=3, events=30), 2**26)
    spec = StoreSpec(dataset.classes, hlf_features("corrected"), PARTICLE, "corrected", "a test", splits=SPLITS)
    store = EventStore.create(tmp_path / "s.zarr", spec)
    for fragment in dataset.fragments:
        assert make_part(store, fragment, None).error is None
    EventStore(store.path, spec).finalise()
    return EventStore.open(store.path)


def group_of(store, split="train"):
    (part, *_) = store.parts(split, "qcd")
    return zarr.open_group(store.path / part.path, mode="r+")


def set_nan(store):
    group_of(store)["particles"][0, 3] = np.nan


def set_offset(store):
    group_of(store)["offsets"][1] = 10**6


def set_label(store):
    group_of(store)["label"][0] = 2


def set_identity(store):
    group = group_of(store)
    group["event_id"][0] = group["event_id"][1]


def set_statistics(store):
    metadata = json.loads((store.path / "zarr.json").read_text())
    metadata["attributes"]["hepflow"]["statistics"]["hlf"]["mean"][0] += 1.0
    (store.path / "zarr.json").write_text(json.dumps(metadata))


def set_counts(store):
    record = next((store.path / "_parts").iterdir())
    data = json.loads(record.read_text())
    data["parts"][0]["n_events"] += 1
    record.write_text(json.dumps(data))


def add_orphan(store):
    zarr.create_group(store.path / "train" / "qcd" / "orphan")


def swap_splits(store):
    (train, *_), (test, *_) = store.parts("train", "qcd"), store.parts("test", "qcd")
    for one, other in ((train, "aside"), (test, train.path), ("aside", test.path)):
        (store.path / getattr(one, "path", one)).rename(store.path / other)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (set_nan, "1 values of particles are not finite"),
        (set_offset, "offsets do not rise from 0 to"),
        (set_label, "labels of other classes than qcd"),
        (set_identity, "events are there more than once"),
        (set_statistics, "the statistics of hlf are not those of the training split"),
        (set_counts, "recorded are"),
        (add_orphan, "train/qcd/orphan: a part without a record"),
        (swap_splits, "events belong to another split by their identity"),
    ],
)
def test_check_finds(store, spoil, message, caplog):
    check(StoreConfig(input=store.path))
    spoil(store)
    with pytest.raises(DataError):
        check(StoreConfig(input=store.path))
    assert message in caplog.text


def test_info_tells_events_sizes_and_features(store, capsys):
    info(StoreConfig(input=store.path))
    text = " ".join(capsys.readouterr().out.split())
    for word in ("qcd", "ttbar", "wjets", "train", "bytes an event", "LepIsoCh", "vtxZ", "corrected", "90 events in"):
        assert word in text
