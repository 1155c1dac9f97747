"""``spark.read.format("delphes")``: files as a table, of which only the schema is read."""

from pathlib import Path
from typing import Any

import awkward as ak
import pytest

from hepflow.ingest.source import register
from hepflow.physics.skim import has_lepton
from hepflow.reading.delphes import DelphesFile
from hepflow.schema import COLLECTIONS, EVENT_COLUMNS
from tests.support.root_files import write_delphes

pytestmark = [pytest.mark.slow, pytest.mark.spark]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("raw")
    write_delphes(root / "qcd" / "a.root", [30, 40], seed=1)
    write_delphes(root / "mine" / "b.root", [20], seed=2)
    return root


@pytest.fixture
def table(spark: Any) -> Any:
    register(spark)
    return spark.read.format("delphes")


def test_every_entry_is_a_row_with_all_columns(table: Any, raw: Path) -> None:
    frame = table.load(str(raw))
    assert frame.columns == [*EVENT_COLUMNS, *COLLECTIONS]
    rows = frame.select("sample", "label", "file", "entry", "event_id").collect()
    assert sorted((row["file"], row["entry"]) for row in rows) == [
        ("mine/b.root", i) for i in range(20)
    ] + [("qcd/a.root", i) for i in range(70)]
    assert {(row["sample"], row["label"]) for row in rows} == {("qcd", 0), ("mine", -1)}
    assert len({row["event_id"] for row in rows}) == 90


def test_sql_reaches_into_the_collections(table: Any, spark: Any, raw: Path) -> None:
    table.option("collections", "Jet").load(str(raw / "qcd")).createOrReplaceTempView("events")
    found = spark.sql(
        "SELECT sum(aggregate(Jet, 0D, (s, j) -> s + j.PT)), sum(size(Jet)) FROM events"
    ).first()
    with DelphesFile(str(raw / "qcd" / "a.root")) as file:
        jets = ak.concatenate([events["Jet"] for _, _, events in file.iterate(0, file.n_entries)])
    assert found[0] == pytest.approx(ak.sum(ak.values_astype(jets.PT, float)))
    assert found[1] == ak.count(jets.PT)


def test_the_tree_may_have_another_name(table: Any, raw: Path, tmp_path: Path) -> None:
    path = write_delphes(tmp_path / "a.root", [6], tree_name="Events")
    assert table.option("tree", "Events").load(str(path)).count() == 6
    with pytest.raises(Exception, match=r"no tree 'Events' \(it has: Delphes\)"):
        table.option("tree", "Events").load(str(raw)).collect()


def test_large_files_are_cut_into_partitions_and_small_ones_packed(
    table: Any, tmp_path: Path
) -> None:
    path = write_delphes(tmp_path / "a.root", [500] * 6)
    whole = -(-path.stat().st_size // (1 << 20))
    assert whole > 2
    found = {
        mb: table.option("target_partition_mb", mb).load(str(path)).select("entry")
        for mb in ("1", "999")
    }
    assert {mb: frame.rdd.getNumPartitions() for mb, frame in found.items()} == {
        "1": whole,
        "999": 1,
    }
    assert sorted(row["entry"] for row in found["1"].collect()) == list(range(3000))


def test_the_skim_keeps_what_ingest_keeps(table: Any, raw: Path) -> None:
    rows = (
        table.option("skim", "true")
        .schema("entry bigint, EFlowTrack array<struct<Eta: float>>")
        .load(str(raw / "qcd"))
        .collect()
    )
    with DelphesFile(str(raw / "qcd" / "a.root")) as file:
        events = ak.concatenate([events for _, _, events in file.iterate(0, file.n_entries)])
    passed = events[has_lepton(events)]
    assert [len(row["EFlowTrack"]) for row in sorted(rows)] == ak.sum(
        passed.EFlowTrack.PT > 0.5, axis=1
    ).tolist()


def test_a_schema_reads_only_what_it_names(table: Any, tmp_path: Path) -> None:
    write_delphes(tmp_path / "a.root", [5], leave_out=["EFlowTrack", "EFlowPhoton"])
    frame = table.schema("Jet array<struct<PT: double, BTag: bigint>>, entry bigint").load(
        str(tmp_path / "a.root")
    )
    assert frame.count() == 5
    assert frame.first()["Jet"][0]["PT"] > 0


def test_a_bad_file_fails_the_query_or_is_skipped(table: Any, tmp_path: Path) -> None:
    write_delphes(tmp_path / "a.root", [5])
    (tmp_path / "b.root").write_text("no ROOT")
    with pytest.raises(Exception, match=r"b\.root: not a ROOT file.*bad_files=skip"):
        table.load(str(tmp_path)).collect()
    assert table.option("bad_files", "skip").load(str(tmp_path)).count() == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"colections": "Jet"}, "unknown option 'colections'"),
        ({"collections": "Jets"}, "unknown collection 'Jets', allowed are EFlowTrack"),
        ({"skim": "perhaps"}, "allowed are false, true"),
        ({"target_partition_mb": "0"}, "must be a whole number"),
    ],
)
def test_wrong_options_are_errors(
    table: Any, raw: Path, options: dict[str, str], message: str
) -> None:
    with pytest.raises(Exception, match=message):
        table.options(**options).load(str(raw)).collect()


def test_a_schema_that_is_no_collection_is_an_error(table: Any, raw: Path) -> None:
    with pytest.raises(Exception, match="column 'Jet' is array<float>; allowed are"):
        table.schema("Jet array<float>").load(str(raw)).collect()
