"""The ingest stage: every event of the files once, whatever happened before."""

import logging
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pyarrow.parquet as pq
import pytest

from hepflow.config.stages import IngestConfig
from hepflow.data.events import arrow_schema
from hepflow.data.identity import event_ids
from hepflow.data.ledger import Ledger
from hepflow.data.output import MARKER
from hepflow.data.task_records import record_path
from hepflow.errors import ConfigError, DataError
from hepflow.ingest.job import run
from hepflow.ingest.task import Settings, run_task
from hepflow.physics.skim import drop_soft, has_lepton
from hepflow.reading.delphes import DelphesFile
from hepflow.reading.listing import assign, list_files
from hepflow.reading.ranges import pack, plan
from hepflow.reading.reader import Access
from hepflow.schema import CLASSES, COLLECTIONS, EVENT_COLUMNS
from hepflow.system.files import read_json, write_json
from tests.support.root_files import corrupt_basket, passing_ids, random_events, write_delphes

pytestmark = [pytest.mark.slow, pytest.mark.spark, pytest.mark.usefixtures("spark")]
DATA = Path(__file__).parents[1] / "support" / "files"
TWO = {"qcd": ("qcd",), "ttbar": ("ttbar",)}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files per class."""
    root = tmp_path_factory.mktemp("written")
    for seed, name in enumerate(["qcd/a", "qcd/b", "ttbar/c", "ttbar/d"]):
        write_delphes(root / f"{name}.root", [30, 40, 30], seed)
    return root


@pytest.fixture
def raw(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "raw"))


def config(raw: Path, **changed: Any) -> IngestConfig:
    return IngestConfig(
        **{"input": raw, "output": raw.parent / "events", "samples": TWO, "retries": 0, **changed}
    )


def about(raw: Path) -> dict[str, Any]:
    return read_json(raw.parent / "events" / MARKER)


def fragments(raw: Path) -> list[Path]:
    return [raw.parent / "events" / name for name in about(raw)["fragments"]]


def ids(raw: Path) -> list[int]:
    return sorted(
        event_id
        for path in fragments(raw)
        for event_id in pq.read_table(path, columns=["event_id"])["event_id"].to_pylist()
    )


def contents(raw: Path, output: str = "events") -> dict[str, bytes]:
    """Return all files of the dataset except the records, which hold run times."""
    root = raw.parent / output
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.parent.name != "_records"
    }


def test_the_dataset_holds_the_skimmed_events_of_the_files(raw: Path) -> None:
    run(config(raw))
    tables = {path: pq.read_table(path) for path in fragments(raw)}
    for table in tables.values():
        assert table.schema.names == [*EVENT_COLUMNS, *COLLECTIONS]
        assert len(set(table["sample"].to_pylist())) == 1
        assert set(table["label"].to_pylist()) == {list(TWO).index(table["sample"][0].as_py())}
        for file in set(table["file"].to_pylist()):
            rows = table.take(np.flatnonzero(table["file"].to_numpy() == file))
            entries = rows["entry"].to_numpy()
            assert (np.diff(entries) > 0).all()
            with DelphesFile(str(raw / file)) as source:
                ((_, _, events),) = source.iterate(0, source.n_entries, 1 << 30)
                assert (rows["event_id"].to_numpy() == event_ids(source.uuid, entries)).all()
            passed = has_lepton(events)
            assert entries.tolist() == np.flatnonzero(passed).tolist()
            found = ak.from_arrow(rows)
            for name, fields in COLLECTIONS.items():
                for field in fields:
                    assert ak.array_equal(
                        found[name, field], drop_soft(events[passed])[name, field], dtype_exact=True
                    )
    assert ids(raw) == passing_ids(raw)


def test_every_ledger_reconciles(raw: Path) -> None:
    run(config(raw))
    found = about(raw)
    ledger = Ledger.from_dict(found["ledger"]).check()
    assert ledger.n_in == 400
    assert ledger.n_out == found["n_events"] == len(ids(raw))
    assert set(ledger.rejected) == {"no lepton above 23 GeV"}
    assert [file["file"] for file in found["files"]] == [
        "qcd/a.root",
        "qcd/b.root",
        "ttbar/c.root",
        "ttbar/d.root",
    ]
    for file in found["files"]:
        assert (
            file["entries"] == 100 == file["kept"] + sum(file["rejected"].values()) + file["lost"]
        )


def test_a_second_run_skips_and_logs_it(raw: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(config(raw))
    before = contents(raw)
    caplog.set_level(logging.INFO)
    run(config(raw))
    assert "up to date" in caplog.text
    assert contents(raw) == before


def test_two_runs_leave_the_same_bytes(raw: Path) -> None:
    run(config(raw))
    run(config(raw, output=raw.parent / "again"))
    assert contents(raw, "again") == contents(raw)


def test_new_files_are_added_and_finished_ones_are_not_read_again(raw: Path) -> None:
    run(config(raw))
    before = {path: path.stat().st_mtime_ns for path in fragments(raw)}
    write_delphes(raw / "ttbar" / "new.root", [50], seed=9)
    run(config(raw))
    assert before.items() <= {path: path.stat().st_mtime_ns for path in fragments(raw)}.items()
    assert ids(raw) == passing_ids(raw)


def test_the_dataset_follows_changed_and_removed_files(
    raw: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    run(config(raw))
    write_delphes(raw / "qcd" / "a.root", [77], seed=9)
    (raw / "ttbar" / "c.root").unlink()
    run(config(raw))
    assert ids(raw) == passing_ids(raw)
    assert (
        "no longer in the input: 1 file, whose events are removed (the first: ttbar/c.root)"
        in caplog.text
    )
    on_disk = set((raw.parent / "events").rglob("*.parquet"))
    assert on_disk == set(fragments(raw)), "old fragments are gone"


def test_a_dataset_of_other_classes_is_replaced_only_when_asked(raw: Path) -> None:
    run(config(raw))
    first, before = about(raw), contents(raw)
    renamed = {"qcd": ("qcd",), "top": ("ttbar",)}
    with pytest.raises(
        ConfigError,
        match=r"classes \['qcd', 'ttbar'\] \(now \['qcd', 'top'\]\)\. Give .* or --overwrite",
    ):
        run(config(raw, samples=renamed))
    assert contents(raw) == before
    run(config(raw, samples=dict(reversed(TWO.items())), overwrite=True))
    assert about(raw)["provenance"] != first["provenance"]
    assert about(raw)["classes"] == ["ttbar", "qcd"]
    assert {
        pq.read_table(path)["label"][0].as_py()
        for path in fragments(raw)
        if path.parent.name == "ttbar"
    } == {0}


def test_a_dataset_of_other_files_is_replaced_only_when_asked(raw: Path) -> None:
    run(config(raw))
    for name in ("qcd", "ttbar"):
        write_delphes(raw.parent / "elsewhere" / name / "e.root", [50], seed=9)
    elsewhere = config(raw, input=raw.parent / "elsewhere")
    with pytest.raises(
        ConfigError, match=r"a dataset with files such as qcd/a\.root \(now such as qcd/e\.root\)"
    ):
        run(elsewhere)
    assert ids(raw) == passing_ids(raw)
    run(replace(elsewhere, overwrite=True))
    assert ids(raw) == passing_ids(raw.parent / "elsewhere")


def test_a_lost_fragment_is_made_again(raw: Path) -> None:
    run(config(raw))
    before = contents(raw)
    fragments(raw)[0].unlink()
    shutil.rmtree(raw.parent / "events" / "_records")
    run(config(raw))
    assert contents(raw) == before


def test_tasks_of_a_dead_run_are_reused_and_the_rest_is_done(raw: Path) -> None:
    run(config(raw, output=raw.parent / "undisturbed", target_partition_mb=1))
    output = raw.parent / "events"
    settings = Settings(output, tuple(TWO), Access(retries=0))
    tasks = pack(plan(assign(list_files(raw), TWO, raw), 1 << 20), 1 << 20)
    (output / "_records").mkdir(parents=True)
    run_task(tasks[0], settings)
    (output / "qcd" / f".half.{'0' * 32}.part").write_bytes(b"PAR1")
    (output / "qcd" / "orphan.parquet").write_bytes(b"PAR1")
    run(config(raw, target_partition_mb=1))
    assert contents(raw) == contents(raw, "undisturbed")
    assert ids(raw) == passing_ids(raw)


def test_only_the_file_that_kills_every_worker_is_lost(raw: Path) -> None:
    settings = Settings(raw.parent / "events", tuple(TWO), Access(retries=0))
    (settings.output / "_records").mkdir(parents=True)
    task = pack(plan(assign(list_files(raw), TWO, raw), 1 << 20), 1 << 20)[0]
    assert len(task) == 2
    marker = record_path(settings.output, settings.task_key(task)).with_name(
        f".{settings.task_key(task)}.now"
    )
    marker.write_text(task[1].key)  # read by the attempt that died
    first, second = run_task(task, settings, last_attempt=True).ranges
    assert first.n_entries == 100
    assert not first.lost
    assert second.lost == {"the worker died whenever it read this file": None}
    run(config(raw))  # the machine may be to blame: the same command retries
    assert ids(raw) == passing_ids(raw)


def test_an_unwritable_output_makes_no_bad_file(raw: Path, tmp_path: Path) -> None:
    settings = Settings(tmp_path / "out", tuple(TWO), Access(retries=0))
    (settings.output / "_records").mkdir(parents=True)
    task = plan(assign(list_files(raw), TWO, raw), 1 << 20)[:1]
    made = run_task(task, settings)
    (settings.output / str(made.fragment)).unlink()
    (settings.output / str(made.fragment)).mkdir()
    for last in (False, True):
        with pytest.raises(IsADirectoryError):
            run_task(task, settings, last_attempt=last)


def test_a_failed_run_leaves_the_previous_dataset(raw: Path) -> None:
    run(config(raw))
    before = contents(raw)
    for path in raw.rglob("*.root"):
        path.write_bytes(b"damaged")
    with pytest.raises(DataError, match="all 4 files are bad"):
        run(config(raw))
    after = contents(raw)
    assert before.items() <= after.items()


def test_a_disk_error_in_a_task_names_the_output(raw: Path) -> None:
    (raw.parent / "events" / "_records").mkdir(parents=True)
    (raw.parent / "events" / "qcd").write_text("no folder")
    with pytest.raises(OSError, match=f"File exists: '{raw.parent / 'events'}'"):
        run(config(raw))


def test_a_folder_of_other_files_is_left_alone(raw: Path) -> None:
    other = raw.parent / "events" / "run1" / "predictions.parquet"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"PAR1")
    with pytest.raises(
        DataError, match="events: not a dataset of `hepflow ingest`, as it holds run1"
    ):
        run(config(raw, overwrite=True))
    write_json(
        raw.parent / "events" / MARKER, {"schema_version": 2, "accepted": {}}
    )  # the marker of scores
    with pytest.raises(DataError, match="not a dataset"):
        run(config(raw))
    assert other.exists()


def test_bad_files_are_quarantined_and_the_rest_is_done(
    raw: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (raw / "qcd" / "text.root").write_text("not ROOT")
    (raw / "qcd" / "zero.root").write_bytes(b"")
    (raw / "qcd" / "half.root").write_bytes((raw / "qcd" / "a.root").read_bytes()[:5000])
    write_delphes(raw / "ttbar" / "partial.root", [20, 30], seed=8, leave_out=["Jet"])
    corrupt_basket(write_delphes(raw / "ttbar" / "basket.root", [20, 30], seed=9), basket=1)
    events = random_events(10, np.random.default_rng(3))
    nan = ak.from_regular(np.full((10, 1), np.nan, np.float32))
    write_delphes(
        raw / "ttbar" / "nan.root",
        [10, 5],
        seed=10,
        MissingET=ak.zip({"MET": nan, "Phi": events["MissingET"].Phi}),
    )
    with pytest.raises(DataError, match=r"6 of 10 files lost events.*--max-lost-files 6"):
        run(config(raw))
    found = {
        file["file"]: (file["lost"], file["reason"])
        for file in about(raw)["files"]
        if file["reason"]
    }
    assert {name: lost for name, (lost, _) in found.items()} == {
        "qcd/half.root": None,
        "qcd/text.root": None,
        "qcd/zero.root": None,
        "ttbar/basket.root": 30,
        "ttbar/nan.root": 10,
        "ttbar/partial.root": 50,
    }
    for name, word in {
        "qcd/half": "truncated",
        "ttbar/nan": "NaN",
        "ttbar/partial": "no collection 'Jet'",
        "ttbar/basket": "corrupt",
    }.items():
        assert word in found[f"{name}.root"][1]
        assert f"quarantined {name}.root" in caplog.text
    ledger = Ledger.from_dict(about(raw)["ledger"]).check()
    assert (ledger.n_in, ledger.n_lost) == (400 + 50 + 15 + 50, 90)
    run(config(raw, max_lost_files=6))


def test_all_damaged_files_are_in_the_ledger_and_ten_on_the_screen(
    raw: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = write_delphes(raw / "qcd" / "a.root", [3], seed=9).read_bytes()
    corrupt = corrupt_basket(raw / "qcd" / "a.root").read_bytes()
    with DelphesFile(str(raw / "qcd" / "a.root")) as file:
        identity = file.uuid
    damages = {
        "truncated": content[:5000],
        "an empty file": b"",
        "not a ROOT file": b"<html>" * 200,
        "no tree 'Delphes'": content.replace(b"Delphes", b"Delphis"),
        "corrupt baskets": corrupt,
    }
    expected = {}
    for number in range(197):
        reason, damaged = list(damages.items())[number % len(damages)]
        good = number >= 59
        own = (content if good else damaged).replace(identity, number.to_bytes(16, "big"))
        (raw / "qcd" / f"{number:03d}.root").write_bytes(own)
        if not good:
            expected[f"qcd/{number:03d}.root"] = reason
    expected["qcd/a.root"] = "corrupt baskets"
    with pytest.raises(DataError, match=r"60 of 201 files lost events.*--max-lost-files 60"):
        run(config(raw))
    lost = {item["file"]: item["reason"] for item in about(raw)["ledger"]["lost"]}
    assert lost.keys() == expected.keys()
    for name, reason in expected.items():
        assert lost[name].startswith(reason)
    assert caplog.text.count("quarantined") == 10
    assert "... and 50 more, see" in caplog.text


def test_a_repaired_file_is_added(raw: Path) -> None:
    good = (raw / "qcd" / "b.root").read_bytes()
    (raw / "qcd" / "b.root").write_bytes(good[:4000])
    with pytest.raises(DataError, match="truncated"):
        run(config(raw))
    (raw / "qcd" / "b.root").write_bytes(good)
    run(config(raw))
    assert ids(raw) == passing_ids(raw)
    assert all(file["reason"] is None for file in about(raw)["files"])


def test_unchanged_quarantined_files_are_read_again_when_asked(raw: Path) -> None:
    path = raw / "qcd" / "b.root"
    good, stat = path.read_bytes(), path.stat()

    def restore() -> None:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    path.write_bytes(bytes(len(good)))
    restore()
    with pytest.raises(DataError, match="not a ROOT file"):
        run(config(raw))
    path.write_bytes(good)
    restore()
    with pytest.raises(DataError, match="not a ROOT file"):
        run(config(raw))
    run(config(raw, retry_quarantined=True))
    assert ids(raw) == passing_ids(raw)


def test_a_copy_of_a_file_is_refused(raw: Path) -> None:
    (raw / "qcd" / "copy.root").write_bytes((raw / "qcd" / "a.root").read_bytes())
    with pytest.raises(DataError, match=r"copy.root is a copy of qcd/a.root"):
        run(config(raw))


def test_an_output_without_events_is_an_error(tmp_path: Path) -> None:
    events = random_events(10, np.random.default_rng(0))
    soft = {name: events[name][events[name].PT < 20] for name in ("Electron", "MuonTight")}
    write_delphes(tmp_path / "raw" / "qcd" / "a.root", [10], **soft)
    with pytest.raises(DataError, match=r"no event passes.*10 no lepton above 23 GeV"):
        run(config(tmp_path / "raw", samples={"qcd": ("qcd",)}))
    assert not (tmp_path / "events").exists()


def test_different_files_give_one_schema(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Dotted and nested names, two cycles, Muon, other integers, extra and missing fields."""

    def old(events: dict[str, ak.Array]) -> dict[str, ak.Array]:
        jets = events["Jet"][["PT", "Eta", "Phi", "BTag"]]
        renamed = {
            "Muon" if name == "MuonTight" else name: column for name, column in events.items()
        }
        return renamed | {
            "Jet": ak.with_field(jets, ak.values_astype(jets.BTag, np.int64), "BTag"),
            "Tower": events["EFlowPhoton"],
        }

    def no_pt(events: dict[str, ak.Array]) -> dict[str, ak.Array]:
        return events | {"Jet": events["Jet"][["Eta", "Phi", "Mass", "BTag"]]}

    raw = tmp_path / "raw"
    write_delphes(raw / "qcd" / "plain.root", [20], seed=1)
    write_delphes(raw / "qcd" / "old.root", [20], seed=2, reshape=old, cycles=2)
    write_delphes(raw / "qcd" / "unusable.root", [20], seed=3, reshape=no_pt)
    shutil.copy(DATA / "clones_qcd.root", raw / "qcd")
    with pytest.raises(
        DataError, match=r"1 of 4 files lost events .*unusable\.root: no field Jet\.PT"
    ):
        run(config(raw, samples={"qcd": ("qcd",)}))
    assert {pq.read_schema(path) for path in fragments(raw)} == {arrow_schema()}
    found = {
        file["file"].removesuffix(".root").removeprefix("qcd/"): file
        for file in about(raw)["files"]
    }
    assert {name: (file["entries"], file["lost"]) for name, file in found.items()} == {
        "plain": (20, 0),
        "old": (20, 0),
        "unusable": (20, 20),
        "clones_qcd": (8, 0),
    }
    assert [name for name, file in found.items() if file["filled"]] == ["old"]
    assert "without optional fields: 1 file (qcd/old.root: Jet.Mass)" in caplog.text


def test_files_in_real_layout_are_ingested(tmp_path: Path) -> None:
    for name in CLASSES:
        (tmp_path / "raw" / name).mkdir(parents=True)
        (tmp_path / "raw" / name / "clones.root").write_bytes(
            (DATA / f"clones_{name}.root").read_bytes()
        )
    run(config(tmp_path / "raw", samples={name: (name,) for name in CLASSES}))
    assert ids(tmp_path / "raw") == passing_ids(tmp_path / "raw")
    assert Ledger.from_dict(about(tmp_path / "raw")["ledger"]).check().n_in == 24


def test_real_files_are_ingested(shared: Path, tmp_path: Path) -> None:
    run(
        config(
            shared / "real",
            output=tmp_path / "events",
            samples={"real": ("delphes_full*",), "own": ("clones_*",)},
        )
    )
    found = read_json(tmp_path / "events" / MARKER)
    assert [file["entries"] for file in found["files"]] == [8, 8, 8, 10]
    Ledger.from_dict(found["ledger"]).check()


def test_skipped_files_are_left_out_of_the_run_and_the_next_run(
    raw: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hepflow")
    own = config(raw, samples={"qcd": ("qcd/a.root",), "ttbar": ("ttbar",)}, unmatched="skip")
    for _ in range(2):
        caplog.clear()
        run(own)
        assert "left out of the input: 1 file of no class, the first qcd/b.root" in caplog.messages
    assert "is up to date" in caplog.text
    assert [file["file"] for file in about(raw)["files"]] == [
        "qcd/a.root",
        "ttbar/c.root",
        "ttbar/d.root",
    ]


def test_the_summary_counts_files_and_events(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(config(raw))
    rows = {
        cells[1].strip(): cells[2].strip()
        for line in capsys.readouterr().err.splitlines()
        if len(cells := line.split("│")) == 4
    }
    assert (rows["files"], rows["entries"], rows["lost"]) == ("4", "400", "0")
    assert int(rows["kept"]) + int(rows["no lepton above 23 GeV"]) == 400
    assert "ttbar/d.root" in rows


def test_the_summary_marks_unknown_losses(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (raw / "qcd" / "text.root").write_text("not ROOT")
    run(config(raw, max_lost_files=1))
    rows = {
        cells[1].strip(): cells[2].strip()
        for line in capsys.readouterr().err.splitlines()
        if len(cells := line.split("│")) == 4
    }
    assert (rows["lost"], rows["unreadable files"]) == ("an unknown number", "1")


def test_watching_ingests_new_files(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is replaced: it adds a file, moves the folder, and interrupts in the end."""
    looks: list[list[int]] = []
    away = raw.with_name("away")

    def sleep(seconds: float) -> None:
        if seconds < 5:
            return real_sleep(seconds)
        if away.exists():
            away.rename(raw)
            return None
        looks.append(ids(raw) if (raw.parent / "events" / MARKER).exists() else [])
        if len(looks) == 2:
            write_delphes(raw / "ttbar" / "late.root", [50], seed=9)
        if len(looks) == 3:
            raw.rename(away)  # as if the file system failed for a moment
        if len(looks) == 4:
            raise KeyboardInterrupt
        return None

    real_sleep = time.sleep
    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        run(config(raw, watch=5.0))
    assert looks[0] == [], "nothing has looked the same twice yet"
    assert looks[1] == looks[2]
    assert set(looks[1]) < set(looks[3])
    assert looks[3] == passing_ids(raw)
