"""Real Delphes files against an independent C++ program: every file, entry by entry.

The files are of six cards, written in every way in which ROOT writes a tree, and damaged ones; the
program, RDataFrame with the definitions of docs/physics.md, has nothing of hepflow. Its lines are:
entry, status, selected tracks, photons and neutral hadrons, and the 14 high-level features.
"""

import re
from collections import Counter
from pathlib import Path

import awkward as ak
import numpy as np
import pytest

from hepflow.config.engines import ClusterConfig
from hepflow.config.stages import FeaturesConfig, IngestConfig
from hepflow.data.identity import event_ids
from hepflow.data.ledger import Ledger
from hepflow.data.output import MARKER
from hepflow.data.store import EventStore
from hepflow.errors import DataError
from hepflow.features.job import run as features
from hepflow.ingest.job import run as ingest
from hepflow.physics.columns import columns
from hepflow.physics.features import compute_features
from hepflow.physics.selection import NO_LEPTON, PASSES, REASONS, statuses
from hepflow.reading.delphes import DelphesFile, Unreadable
from hepflow.schema import DEFINITIONS, MAX_NEUTRALS, MAX_PHOTONS, MAX_TRACKS, PARTICLE, SPLITS
from hepflow.system.files import read_json

NO_FLOW = "no collection 'EFlowTrack' .*EFlow branches"
REFUSED = {
    "CMS_PileUp_asis_ttbar": NO_FLOW,  # the card has no energy flow
    "aborted_278_bytes": "not a ROOT file",
    "died_in_init": "no tree 'Delphes'",
    "special_autosaved_killed": "no tree 'Delphes'",  # ROOT recovers 4 entries, uproot sees no key
    "special_cut_at_60pct": "truncated: 318,282 bytes of ",
    "special_cut_last_kb": "truncated: 529,470 bytes of ",
    "variant_rntuple_importer_of_snapshot_ttree": "'Delphes' is a .*RNTuple, not a TTree",
    "variant_snapshot_rntuple": "'Delphes' is a .*RNTuple, not a TTree",
    "variant_snapshot_ttree": NO_FLOW,  # columns EFlowTrack_PT: no longer Delphes' names
    "variant_subdir": "no tree 'Delphes'",  # it is ntuples/Delphes, which --tree reads
}
"""File -> why it is refused."""
EMPTY = {"variant_clonetree_0", "variant_copytree_none", "zero_entries"}
TOLERANCE = {"rtol": 2e-6, "atol": 2e-6}  # both add in another order, in 32 bits
Lines = dict[str, np.ndarray]
both = pytest.mark.parametrize("definitions", DEFINITIONS)


@pytest.fixture(scope="module")
def real(shared: Path) -> Path:
    if not (shared / "delphes" / "expected").is_dir():
        pytest.skip(f"no real Delphes files in {shared / 'delphes'}")
    return shared / "delphes"


def expected(real: Path, definitions: str) -> Lines:
    """File -> its lines; every file is here, is refused, or has no entries."""
    files = sorted((real / "expected").glob(f"*.{definitions}.csv"))
    found = {path.name.split(".")[0]: np.loadtxt(path, delimiter=",", ndmin=2) for path in files}
    names = {path.stem for path in real.glob("*.root")}
    assert names == found.keys() | REFUSED.keys() | EMPTY
    assert len(names) == len(found) + len(REFUSED) + len(EMPTY)
    return found


def read(path: Path, tree: str = "Delphes") -> ak.Array:
    with DelphesFile(str(path), tree) as file:
        return ak.concatenate([events for *_, events in file.iterate(0, file.n_entries)])


@both
def test_every_line_is_that_of_the_other_program(real: Path, definitions: str) -> None:
    n_lines = 0
    for name, lines in expected(real, definitions).items():
        events = read(real / f"{name}.root")
        assert lines[:, 0].tolist() == list(range(len(events))), name
        assert statuses(columns(events), definitions).tolist() == lines[:, 1].tolist(), name
        found = compute_features(events, definitions)
        passed = np.flatnonzero(lines[:, 1] == PASSES)
        assert found.index.tolist() == passed.tolist()
        np.testing.assert_allclose(found.hlf, lines[passed, 5:], **TOLERANCE, err_msg=name)
        n_lines += len(lines)
    assert n_lines == 324


def test_a_tree_in_a_folder_of_the_file_is_read_by_its_path(real: Path) -> None:
    lines = expected(real, "corrected")["variant_base_a"]
    found = compute_features(read(real / "variant_subdir.root", "ntuples/Delphes"))
    np.testing.assert_allclose(found.hlf, lines[lines[:, 1] == PASSES, 5:], **TOLERANCE)


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_file_has_its_reason(real: Path, name: str) -> None:
    with pytest.raises(Unreadable, match=REFUSED[name]):
        read(real / f"{name}.root")


@pytest.fixture(scope="module")
def dataset(real: Path, spark: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All files in one run, the refused ones too."""
    output = tmp_path_factory.mktemp("real") / "events"
    config = IngestConfig(
        input=real,
        output=output,
        samples={"delphes": ("*.root",)},
        unmatched="skip",
        max_lost_files=len(REFUSED),
    )
    ingest(config)
    with pytest.raises(DataError, match=rf"{len(REFUSED)} of 49 files lost events"):
        ingest(IngestConfig(**(vars(config) | {"max_lost_files": len(REFUSED) - 1})))
    return output


@pytest.mark.slow
def test_ingest_loses_the_refused_files_and_nothing_else(real: Path, dataset: Path) -> None:
    ledger = Ledger.from_dict(read_json(dataset / MARKER)["ledger"])
    lost = {item.file.removesuffix(".root"): item.reason for item in ledger.lost}
    assert lost.keys() == REFUSED.keys()
    assert [name for name, reason in lost.items() if not re.search(REFUSED[name], reason)] == []
    count = Counter(
        int(status)
        for lines in expected(real, "corrected").values()
        for status in lines[:, 1].tolist()
    )
    assert ledger.rejected == {REASONS[NO_LEPTON]: count[NO_LEPTON]}
    assert ledger.n_out == count.total() - count[NO_LEPTON]


@pytest.mark.slow
@both
def test_the_store_holds_the_lines_that_pass(
    real: Path, dataset: Path, definitions: str, tmp_path: Path
) -> None:
    cluster = ClusterConfig(workers=1)
    path = tmp_path / "s.zarr"
    features(FeaturesConfig(input=dataset, output=path, definitions=definitions, cluster=cluster))
    wanted: dict[int, np.ndarray] = {}
    rejected: Counter[str] = Counter()
    for name, lines in expected(real, definitions).items():
        with DelphesFile(str(real / f"{name}.root")) as file:
            ids = event_ids(file.uuid, lines[:, 0].astype(np.int64)).tolist()
        passed = lines[:, 1] == PASSES
        wanted |= {one: line for one, line, good in zip(ids, lines, passed, strict=True) if good}
        rejected.update(REASONS[int(status)] for status in lines[~passed, 1])
    del rejected[REASONS[NO_LEPTON]]  # which ingest rejects
    store = EventStore.open(path)
    assert store.ledger().rejected == rejected
    assert store.ledger().n_out == len(wanted) == 215
    kinds = [
        [one.name for one in PARTICLE].index(f"is{kind}") for kind in ("ChHad", "Gamma", "NeuHad")
    ]
    for split in SPLITS:
        for block in store.blocks(split):
            for i, one in enumerate(block.event_id.tolist()):
                line = wanted.pop(one)
                np.testing.assert_allclose(block.hlf[i], line[5:], **TOLERANCE)
                rows = block.particles[block.offsets[i] : block.offsets[i + 1]]
                tracks, photons, neutrals = line[2:5].astype(int)
                n_tracks, n_photons, n_neutrals = rows[:, kinds].sum(axis=0).astype(int)
                assert n_photons == min(photons, MAX_PHOTONS)
                assert n_neutrals == min(neutrals, MAX_NEUTRALS)
                assert n_tracks <= min(tracks, MAX_TRACKS)
    assert wanted == {}
