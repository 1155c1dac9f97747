"""Reading: what is in a file comes out, and what is wrong with it is said."""

from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot
from root_files import corrupt_basket, random_events, write_delphes

from hepflow.ingest.arrow import arrow_schema, to_arrow
from hepflow.ingest.delphes import DelphesFile, Unreadable
from hepflow.ingest.share import Access, Piece, ShareReader
from hepflow.ingest.skim import drop_soft, has_lepton, is_finite
from hepflow.ingest.splits import SourceFile, Split
from hepflow.physics import selection
from hepflow.schema import COLLECTIONS

DATA = Path(__file__).parent / "data"
CLONES = sorted(DATA.glob("clones_*.root"))


def split(path: Path, index: int = 0, count: int = 1) -> Split:
    return Split(SourceFile("qcd", path.name, str(path), path.stat().st_size, "1"), index, count)


def read(path: Path, step_bytes: int = 1 << 20, **options: object) -> ak.Array:
    with DelphesFile(str(path), **options) as file:
        return ak.concatenate([events for _, _, events in file.iterate(0, file.n_entries, step_bytes)])


def shares(path: Path, count: int) -> list[list[Piece]]:
    readers = [ShareReader(split(path, index, count), access=Access(retries=0)) for index in range(count)]
    return [list(reader.pieces()) for reader in readers]


@pytest.mark.parametrize("path", CLONES, ids=lambda path: path.stem)
def test_nested_branches_of_real_layout_are_read(path: Path) -> None:
    events = read(path)
    with uproot.open(path) as file:
        tree = file["Delphes"]
        for name, fields in COLLECTIONS.items():
            for field in fields:
                assert ak.all(events[name, field] == tree[f"{name}/{name}.{field}"].array())
    assert len(events) == 8


def test_a_real_file_with_two_cycles_and_muon_is_read(shared: Path) -> None:
    path = shared / "real" / "delphes_full_schema_10events.root"
    events = read(path)
    with uproot.open(path) as file:
        tree = file["Delphes;2"]
        assert len(events) == tree.num_entries == 10
        assert ak.all(events["MuonTight", "PT"] == tree["Muon.PT"].array())
        assert ak.all(events["EFlowTrack", "Z"] == tree["EFlowTrack.Z"].array())


def test_the_table_has_the_types_of_the_schema_and_unsigned_flags_become_signed(tmp_path: Path) -> None:
    path = write_delphes(tmp_path / "a.root", [5])
    table = to_arrow(read(path), {}, arrow_schema(columns={}))
    table.validate(full=True)
    assert table.schema.names == list(COLLECTIONS)
    for name, fields in COLLECTIONS.items():
        struct = table.schema.field(name).type.value_type
        assert {field.name: str(field.type).replace("float", "float32") for field in struct} == dict(fields)
    assert ak.all(ak.from_arrow(table)["Jet", "BTag"] == read(path)["Jet", "BTag"])


@pytest.mark.parametrize("step_bytes", [1, 20_000, 1 << 30])
def test_the_step_does_not_change_the_events(tmp_path: Path, step_bytes: int) -> None:
    path = write_delphes(tmp_path / "a.root", [7, 100, 1, 30])
    assert ak.array_equal(read(path, step_bytes), read(path))


def test_no_basket_is_read_by_two_shares(tmp_path: Path) -> None:
    path = write_delphes(tmp_path / "a.root", [7, 100, 1, 30, 30])
    with DelphesFile(str(path)) as file:
        assert file.boundaries == [0, 7, 107, 108, 138, 168]
    pieces = [piece for share in shares(path, 4) for piece in share]
    assert next((piece.start, piece.stop) for piece in pieces if piece.stop > piece.start)[0] == 0
    assert ak.array_equal(ak.concatenate([piece.events for piece in pieces]), read(path))


def test_only_what_is_asked_for_is_read(tmp_path: Path) -> None:
    events = read(write_delphes(tmp_path / "a.root", [5]), wanted={"Jet": {"Phi": "float64"}})
    assert str(events.type) == "5 * {Jet: var * {Phi: float64}}"


def test_an_empty_tree_has_no_entries(tmp_path: Path) -> None:
    (found,) = shares(write_delphes(tmp_path / "a.root", []), 1)
    assert found == []


def not_root(path: Path) -> None:
    path.write_text("hello")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncated(path: Path) -> None:
    write_delphes(path, [50, 50])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def no_tree(path: Path) -> None:
    with uproot.recreate(path) as file:
        file.mktree("Events", {"x": "float32"}).extend({"x": np.zeros(3, np.float32)})


def rntuple(path: Path) -> None:
    with uproot.recreate(path) as file:
        file.mkrntuple("Delphes", {"x": np.zeros(3, np.float32)})


def no_collection(path: Path) -> None:
    write_delphes(path, [5], leave_out=["EFlowTrack"])


def other_type(path: Path) -> None:
    with uproot.recreate(path) as file:
        file.mktree("Delphes", {"MissingET.MET": "float32"}).extend({"MissingET.MET": np.zeros(3, np.float32)})


def missing(path: Path) -> None:
    path.unlink(missing_ok=True)


def folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (not_root, "not a ROOT file"),
        (empty, "an empty file"),
        (truncated, "truncated: .* bytes of"),
        (no_tree, r"no tree 'Delphes' \(it has: Events\)"),
        (rntuple, "RNTuple, not a TTree"),
        (no_collection, r"no collection 'EFlowTrack' \(it has: EFlowPhoton.*EFlow branches\?"),
        (missing, "no such file"),
        (folder, "a folder, not a file"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, make: object, message: str) -> None:
    path = tmp_path / "bad.root"
    make(path)
    with pytest.raises(Unreadable, match=message):
        read(path)


def test_a_branch_of_another_type_is_said(tmp_path: Path) -> None:
    other_type(tmp_path / "a.root")
    with pytest.raises(Unreadable, match=r"MissingET.MET holds float, not a list of float32"):
        read(tmp_path / "a.root", wanted={"MissingET": {"MET": "float32"}})
    with pytest.raises(Unreadable, match=r"Jet.PT holds float.*not a list of int32"):
        read(write_delphes(tmp_path / "b.root", [5]), wanted={"Jet": {"PT": "int32"}})
    with pytest.raises(Unreadable, match=r"no field Jet.Pt \(it has: PT, Eta"):
        read(write_delphes(tmp_path / "c.root", [5]), wanted={"Jet": {"Pt": "float32"}})


@pytest.mark.parametrize("count", [1, 3])
def test_a_corrupt_basket_costs_its_cluster_and_no_more(tmp_path: Path, count: int) -> None:
    path = corrupt_basket(write_delphes(tmp_path / "a.root", [40, 50, 60, 70]), basket=2)
    pieces = [piece for share in shares(path, count) for piece in share]
    (bad,) = [piece for piece in pieces if piece.events is None]
    assert (bad.start, bad.stop) == (90, 150)
    assert "corrupt baskets in entries 90 to 150" in bad.reason
    assert sum(len(piece.events) for piece in pieces if piece.events is not None) == 160


def test_a_missing_collection_loses_every_entry_once(tmp_path: Path) -> None:
    path = write_delphes(tmp_path / "a.root", [40, 50], leave_out=["Jet"])
    pieces = [piece for share in shares(path, 3) for piece in share]
    assert [(piece.start, piece.stop, piece.events) for piece in pieces] == [(0, 90, None)]


def test_the_skim_keeps_events_with_a_lepton_strictly_above_23_gev() -> None:
    below, at, above = np.nextafter(np.float32(23), np.float32(0)), np.float32(23), np.nextafter(np.float32(23), np.float32(99))
    leptons = [[], [below], [at], [above], [at, above], []]
    column = ak.zip({"PT": ak.values_astype(ak.Array(leptons), np.float32)})
    empty_lists = column[column.PT < 0]
    for events in ({"Electron": column, "MuonTight": empty_lists}, {"Electron": empty_lists, "MuonTight": column}):
        assert has_lepton(ak.zip(events, depth_limit=1)).tolist() == [False, False, False, True, True, False]


def test_the_skim_drops_soft_particles_and_nothing_that_the_physics_looks_at() -> None:
    events = ak.zip(random_events(50, np.random.default_rng(1)), depth_limit=1)
    thin = drop_soft(events)
    for name, field, cut in (("EFlowTrack", "PT", 0.5), ("EFlowPhoton", "ET", 1.0), ("EFlowNeutralHadron", "ET", 1.0)):
        assert ak.array_equal(thin[name], events[name][events[name][field] > cut])
    assert ak.array_equal(thin.Jet, events.Jet)
    assert (selection.TRACK_PT, selection.NEUTRAL_ET, selection.LEPTON_PT) == (0.5, 1.0, 23.0)


def test_events_with_nan_or_infinity_are_found() -> None:
    events = random_events(4, np.random.default_rng(1))
    phi = ak.Array([[0.0], [np.nan], [np.inf], [1.0]])
    events["MissingET"] = ak.zip({"MET": ak.ones_like(phi), "Phi": phi})
    assert is_finite(ak.zip(events, depth_limit=1)).tolist() == [True, False, False, True]
