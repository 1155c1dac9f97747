"""Reading Delphes files: every event is read, and every unreadable file has a reason."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot

from hepflow.data.events import arrow_schema, to_arrow
from hepflow.errors import DataError
from hepflow.physics import selection
from hepflow.physics.columns import columns
from hepflow.physics.features import compute_features
from hepflow.physics.skim import drop_soft, has_lepton, is_finite
from hepflow.reading.delphes import DelphesFile, Unreadable
from hepflow.reading.listing import list_files
from hepflow.reading.ranges import EntryRange, SourceFile
from hepflow.reading.reader import Access, Chunk, RangeReader
from hepflow.schema import COLLECTIONS, OPTIONAL
from tests.support.root_files import corrupt_basket, public_folder, random_events, write_delphes

DATA = Path(__file__).parents[1] / "support" / "files"
CLONES = sorted(DATA.glob("clones_*.root"))


def entry_range(path: Path, index: int = 0, count: int = 1) -> EntryRange:
    return EntryRange(
        SourceFile("qcd", path.name, str(path), path.stat().st_size, "1"), index, count
    )


def read(path: Path, step_bytes: int = 1 << 20, **options: object) -> ak.Array:
    with DelphesFile(str(path), **options) as file:
        return ak.concatenate(
            [events for _, _, events in file.iterate(0, file.n_entries, step_bytes)]
        )


def read_ranges(path: Path, count: int) -> list[list[Chunk]]:
    readers = [
        RangeReader(entry_range(path, index, count), access=Access(retries=0))
        for index in range(count)
    ]
    return [list(reader.chunks()) for reader in readers]


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


def test_of_two_cycles_of_the_tree_the_highest_counts(tmp_path: Path) -> None:
    path = write_delphes(tmp_path / "a.root", [5, 3], cycles=2)
    with uproot.open(path) as file:
        first, second = (file[f"Delphes;{cycle}"]["Jet.PT"].array() for cycle in (1, 2))
    assert not ak.array_equal(first, second)
    assert ak.array_equal(read(path)["Jet", "PT"], second)


def test_dotted_and_nested_names_give_one_schema(tmp_path: Path) -> None:
    tables = [
        to_arrow(read(path), {}, arrow_schema(columns={}))
        for path in (write_delphes(tmp_path / "a.root", [5]), CLONES[0])
    ]
    assert tables[0].schema == tables[1].schema


def test_a_missing_optional_field_gets_its_value_and_is_reported(tmp_path: Path) -> None:
    def without_mass(events: dict[str, ak.Array]) -> dict[str, ak.Array]:
        return events | {"Jet": events["Jet"][["PT", "Eta", "Phi", "BTag"]]}

    path = write_delphes(tmp_path / "a.root", [5], reshape=without_mass)
    with DelphesFile(str(path)) as file:
        assert file.filled == ("Jet.Mass",)
    jets = read(path)["Jet"]
    assert jets.fields == list(COLLECTIONS["Jet"])
    assert ak.all(jets.Mass == OPTIONAL["Jet"]["Mass"])
    assert ak.num(jets.Mass).tolist() == ak.num(jets.PT).tolist()
    with pytest.raises(Unreadable, match=r"no field Jet\.Mass"):
        read(path, wanted={"Jet": {"Mass": "float32"}})  # no other field gives their number


def test_unwanted_fields_and_collections_change_nothing(tmp_path: Path) -> None:
    def more(events: dict[str, ak.Array]) -> dict[str, ak.Array]:
        return events | {
            "Jet": ak.with_field(events["Jet"], events["Jet"].PT, "TauTag"),
            "Tower": events["EFlowPhoton"],
        }

    plain, wide = (
        write_delphes(tmp_path / "a.root", [5]),
        write_delphes(tmp_path / "b.root", [5], reshape=more),
    )
    assert ak.array_equal(read(wide), read(plain), dtype_exact=True)


def test_muon_is_read_only_where_there_is_no_muon_tight(tmp_path: Path) -> None:
    def loose(events: dict[str, ak.Array]) -> dict[str, ak.Array]:
        return events | {"Muon": events["Electron"]}

    both = write_delphes(tmp_path / "a.root", [9], reshape=loose)
    alone = write_delphes(tmp_path / "b.root", [9], reshape=loose, leave_out=["MuonTight"])
    assert ak.array_equal(read(alone)["MuonTight", "PT"], read(both)["Electron", "PT"])
    assert not ak.array_equal(read(both)["MuonTight", "PT"], read(both)["Electron", "PT"])


@pytest.mark.parametrize("kind", ["int8", "uint32", "int32", "int64"])
def test_integers_of_any_width_become_the_schemas(tmp_path: Path, kind: str) -> None:
    path = write_delphes(tmp_path / "a.root", [9], reshape=with_flags(kind))
    flags = read(path)["Jet", "BTag"]
    assert str(flags.type) == "9 * var * int32"
    assert ak.array_equal(flags, read(write_delphes(tmp_path / "b.root", [9]))["Jet", "BTag"])


def test_integers_that_do_not_fit_are_lost_with_the_reason(tmp_path: Path) -> None:
    path = write_delphes(tmp_path / "a.root", [9, 4], reshape=with_flags("int64", add=1 << 40))
    (chunks,) = read_ranges(path, 1)
    assert [(chunk.start, chunk.stop, chunk.events) for chunk in chunks] == [
        (0, 9, None),
        (9, 13, None),
    ]
    assert all("numbers too large for int32" in chunk.reason for chunk in chunks)


def with_flags(kind: str, add: int = 0) -> Callable[[dict[str, ak.Array]], dict[str, ak.Array]]:
    def change(events: dict[str, ak.Array]) -> dict[str, ak.Array]:
        jets = events["Jet"]
        return events | {
            "Jet": ak.with_field(
                jets, ak.values_astype(jets.BTag, kind) + np.dtype(kind).type(add), "BTag"
            )
        }

    return change


def test_the_table_has_the_types_of_the_schema_and_unsigned_flags_become_signed(
    tmp_path: Path,
) -> None:
    path = write_delphes(tmp_path / "a.root", [5])
    table = to_arrow(read(path), {}, arrow_schema(columns={}))
    table.validate(full=True)
    assert table.schema.names == list(COLLECTIONS)
    for name, fields in COLLECTIONS.items():
        struct = table.schema.field(name).type.value_type
        assert {
            field.name: str(field.type).replace("float", "float32") for field in struct
        } == dict(fields)
    assert ak.all(ak.from_arrow(table)["Jet", "BTag"] == read(path)["Jet", "BTag"])


@pytest.mark.parametrize("step_bytes", [1, 20_000, 1 << 30])
def test_the_step_does_not_change_the_events(tmp_path: Path, step_bytes: int) -> None:
    path = write_delphes(tmp_path / "a.root", [7, 100, 1, 30])
    assert ak.array_equal(read(path, step_bytes), read(path))


def test_no_basket_is_read_for_two_ranges(tmp_path: Path) -> None:
    path = write_delphes(tmp_path / "a.root", [7, 100, 1, 30, 30])
    with DelphesFile(str(path)) as file:
        assert file.boundaries == [0, 7, 107, 108, 138, 168]
    chunks = [chunk for one in read_ranges(path, 4) for chunk in one]
    assert next((chunk.start, chunk.stop) for chunk in chunks if chunk.stop > chunk.start)[0] == 0
    assert ak.array_equal(ak.concatenate([chunk.events for chunk in chunks]), read(path))


def test_only_wanted_branches_are_read(tmp_path: Path) -> None:
    events = read(write_delphes(tmp_path / "a.root", [5]), wanted={"Jet": {"Phi": "float64"}})
    assert str(events.type) == "5 * {Jet: var * {Phi: float64}}"


def test_an_empty_tree_has_no_entries(tmp_path: Path) -> None:
    (found,) = read_ranges(write_delphes(tmp_path / "a.root", []), 1)
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
        file.mktree("Delphes", {"MissingET.MET": "float32"}).extend(
            {"MissingET.MET": np.zeros(3, np.float32)}
        )


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
def test_unreadable_files_have_a_reason(tmp_path: Path, make: object, message: str) -> None:
    path = tmp_path / "bad.root"
    make(path)
    with pytest.raises(Unreadable, match=message):
        read(path)


@contextmanager
def another_user() -> Iterator[None]:
    """Become the user nobody, as root may read everything."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_missing_permissions_make_a_bad_file_at_once_and_an_unlistable_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("hepflow.reading.reader.sleep", waits.append)
    with public_folder() as root:
        write_delphes(root / "open.root", [5]).chmod(0o444)
        write_delphes(root / "closed.root", [5]).chmod(0)
        write_delphes(root / "folder" / "a.root", [5]).parent.chmod(0)
        readers = {
            name: RangeReader(entry_range(root / f"{name}.root")) for name in ("open", "closed")
        }
        with another_user():
            entries = {
                name: [chunk.stop for chunk in reader.chunks()] for name, reader in readers.items()
            }
            with pytest.raises(DataError, match=r"cannot be listed.*Permission denied"):
                list_files(root / "folder")
        (root / "folder").chmod(0o755)
    assert entries == {"open": [5], "closed": []}
    assert readers["closed"].unreadable == "permission denied"
    assert waits == [], "nothing that a retry would help"


def test_a_branch_of_another_type_is_unreadable(tmp_path: Path) -> None:
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
    chunks = [chunk for one in read_ranges(path, count) for chunk in one]
    (bad,) = [chunk for chunk in chunks if chunk.events is None]
    assert (bad.start, bad.stop) == (90, 150)
    assert "corrupt baskets in entries 90 to 150" in bad.reason
    assert sum(len(chunk.events) for chunk in chunks if chunk.events is not None) == 160


def test_a_missing_collection_loses_every_entry_once(tmp_path: Path) -> None:
    path = write_delphes(tmp_path / "a.root", [40, 50], leave_out=["Jet"])
    chunks = [chunk for one in read_ranges(path, 3) for chunk in one]
    assert [(chunk.start, chunk.stop, chunk.events) for chunk in chunks] == [(0, 90, None)]


def test_the_skim_keeps_events_with_a_lepton_strictly_above_23_gev() -> None:
    below, at, above = (
        np.nextafter(np.float32(23), np.float32(0)),
        np.float32(23),
        np.nextafter(np.float32(23), np.float32(99)),
    )
    leptons = [[], [below], [at], [above], [at, above], []]
    column = ak.zip({"PT": ak.values_astype(ak.Array(leptons), np.float32)})
    empty_lists = column[column.PT < 0]
    for events in (
        {"Electron": column, "MuonTight": empty_lists},
        {"Electron": empty_lists, "MuonTight": column},
    ):
        assert has_lepton(ak.zip(events, depth_limit=1)).tolist() == [
            False,
            False,
            False,
            True,
            True,
            False,
        ]


def test_the_skim_makes_the_cuts_of_the_trigger() -> None:
    """Many values are exactly at a threshold."""
    events = random_events(500, np.random.default_rng(1))
    for name, field, below, threshold in (
        ("EFlowTrack", "PT", 5, 0.5),
        ("EFlowPhoton", "ET", 9, 1.0),
        ("EFlowNeutralHadron", "ET", 9, 1.0),
        ("Electron", "PT", 30, 23.0),
        ("MuonTight", "PT", 30, 23.0),
    ):
        values = events[name][field]
        events[name] = ak.with_field(
            events[name],
            ak.values_astype(ak.where(values < below, threshold, values), np.float32),
            field,
        )
    full = ak.zip(events, depth_limit=1)
    thin = drop_soft(full)
    assert np.array_equal(
        has_lepton(full),
        selection.statuses(columns(full)) != selection.NO_LEPTON,
    )
    n_thin = sum(
        ak.to_numpy(ak.num(thin[name], axis=1))
        for name in ("EFlowTrack", "EFlowPhoton", "EFlowNeutralHadron")
    )
    for definitions in ("corrected", "reference"):
        before, after = (compute_features(found, definitions) for found in (full, thin))
        assert np.array_equal(after.status, before.status)
        assert np.array_equal(after.hlf, before.hlf)
        assert np.array_equal(after.particles, before.particles)
        assert 50 < len(before.index) < 450
        assert np.array_equal(np.diff(before.offsets) - 1, n_thin[before.index]), (
            "the skim keeps what the physics does not look at"
        )


def test_the_skim_drops_only_soft_particles() -> None:
    events = ak.zip(random_events(50, np.random.default_rng(1)), depth_limit=1)
    thin = drop_soft(events)
    for name, field, cut in (
        ("EFlowTrack", "PT", 0.5),
        ("EFlowPhoton", "ET", 1.0),
        ("EFlowNeutralHadron", "ET", 1.0),
    ):
        assert ak.array_equal(thin[name], events[name][events[name][field] > cut])
    assert ak.array_equal(thin.Jet, events.Jet)


def test_events_with_nan_or_infinity_are_found() -> None:
    events = random_events(4, np.random.default_rng(1))
    phi = ak.Array([[0.0], [np.nan], [np.inf], [1.0]])
    events["MissingET"] = ak.zip({"MET": ak.ones_like(phi), "Phi": phi})
    assert is_finite(ak.zip(events, depth_limit=1)).tolist() == [True, False, False, True]
