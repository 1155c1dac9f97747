"""Files in Delphes' layout: they read back, have the UUID given, and the same bytes at any time."""

import time
import uuid
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot

from hepflow.schema import COLLECTIONS, TREE
from hepflow.simulate.writer import write_events

pytestmark = pytest.mark.slow

IDENTITY = uuid.UUID("00000000-0000-5000-8000-00000000abcd")


def collections(n_events: int, seed: int = 1) -> dict[str, ak.Array]:
    rng = np.random.default_rng(seed)
    out = {}
    for name, fields in COLLECTIONS.items():
        counts = np.ones(n_events, int) if name == "MissingET" else rng.poisson(15, n_events)
        columns = {
            field: rng.normal(size=counts.sum()).astype(kind)
            if kind == "float32"
            else rng.integers(0, 8, counts.sum()).astype(kind)
            for field, kind in fields.items()
        }
        if name == "Jet":
            columns["BTag"] = columns["BTag"].astype("uint32")
        out[name] = ak.unflatten(ak.zip(columns), counts)
    return out


@pytest.mark.parametrize("n_events", [1, 2, 3, 5, 7, 13, 40, 150, 400, 1200])
def test_every_branch_reads_back(tmp_path: Path, n_events: int) -> None:
    """Many sizes, as the gaps that uproot leaves depend on them."""
    written = collections(n_events, seed=n_events)
    write_events(tmp_path / "x.root", written, IDENTITY)
    with uproot.open(tmp_path / "x.root") as file:
        tree = file[TREE]
        assert tree.num_entries == n_events
        for name, fields in COLLECTIONS.items():
            for field in fields:
                assert ak.array_equal(tree[f"{name}.{field}"].array(), written[name][field])
            assert tree[f"{name}_size"].array().tolist() == ak.num(written[name]).tolist()


def test_types_are_those_of_delphes(tmp_path: Path, shared: Path) -> None:
    write_events(tmp_path / "x.root", collections(3), IDENTITY)
    with (
        uproot.open(tmp_path / "x.root") as mine,
        uproot.open(shared / "real" / "delphes_full_schema_10events.root") as real,
    ):
        for name, fields in COLLECTIONS.items():
            source = "Muon" if name == "MuonTight" else name
            for field in fields:
                assert (
                    mine[TREE][f"{name}.{field}"].typename
                    == real[TREE][f"{source}.{field}"].typename
                )


@pytest.mark.parametrize("n_events", [3, 5, 50])
def test_the_same_events_give_the_same_bytes_at_any_time(tmp_path: Path, n_events: int) -> None:
    first, second = tmp_path / "a" / "x.root", tmp_path / "b" / "x.root"
    for path in (first, second):
        path.parent.mkdir()
    write_events(first, collections(n_events), IDENTITY)
    time.sleep(1.1)  # ROOT's clock has seconds
    write_events(second, collections(n_events), IDENTITY)
    assert first.read_bytes() == second.read_bytes()


def test_the_uuid_is_the_one_given(tmp_path: Path) -> None:
    write_events(tmp_path / "x.root", collections(2), IDENTITY)
    with uproot.open(tmp_path / "x.root") as file:
        assert file.file.uuid == IDENTITY


def test_nothing_half_written_stays(tmp_path: Path) -> None:
    broken = collections(3)
    del broken["Jet"]
    with pytest.raises(KeyError):
        write_events(tmp_path / "x.root", broken, IDENTITY)
    assert not (tmp_path / "x.root").exists()
