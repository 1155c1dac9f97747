"""Lists of files: what was lost, what to read again, and what the entries should be."""

import logging
import shutil
from itertools import chain
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pyarrow.parquet as pq
import pytest

from hepflow.config.stages import IngestConfig
from hepflow.data.ledger import Ledger
from hepflow.data.output import MARKER
from hepflow.errors import ConfigError, DataError
from hepflow.ingest.job import run
from hepflow.physics.skim import has_lepton
from hepflow.reading.delphes import read_delphes
from hepflow.system.files import read_json
from tests.support.root_files import corrupt_basket, random_events, write_delphes

pytestmark = [pytest.mark.slow, pytest.mark.spark, pytest.mark.usefixtures("spark")]
TWO = {"qcd": ("qcd",), "ttbar": ("ttbar",)}
FILES = ("qcd/a", "qcd/b", "qcd/nan", "ttbar/c", "ttbar/d", "ttbar/half")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("good")
    for seed, name in enumerate(FILES):
        write_delphes(root / f"{name}.root", [30, 40, 30], seed)
    return root


@pytest.fixture
def raw(good: Path, tmp_path: Path) -> Path:
    """The files, of which one is truncated, one has a corrupt basket, and one has NaN in it."""
    root = Path(shutil.copytree(good, tmp_path / "raw"))
    half = root / "ttbar" / "half.root"
    half.write_bytes(half.read_bytes()[:5000])
    corrupt_basket(root / "qcd" / "b.root", basket=1)
    events = random_events(30, np.random.default_rng(3))
    energy = ak.to_numpy(events["MissingET"].MET).copy()
    energy[[3, 4, 9]] = np.nan
    column = ak.zip({"MET": ak.from_regular(energy), "Phi": events["MissingET"].Phi})
    write_delphes(root / "qcd" / "nan.root", [30, 40, 30], 2, MissingET=column)
    return root


def config(raw: Path, **changed: Any) -> IngestConfig:
    own = {"input": raw, "output": raw.parent / "events", "samples": TWO, "retries": 0}
    return IngestConfig(**{**own, "max_lost_files": 9, **changed})


def lost(output: Path) -> dict[str, Any]:
    rows = read_json(output / "_lost.json")["lost"]
    return {row["file"]: (row["events"], row["entries"]) for row in rows}


def repair(good: Path, raw: Path, *names: str) -> None:
    for name in names:
        shutil.copy(good / f"{name}.root", raw / f"{name}.root")


def contents(output: Path) -> dict[str, bytes]:
    """Return all files but the records, which hold run times."""
    return {
        str(path.relative_to(output)): path.read_bytes()
        for path in output.rglob("*")
        if path.is_file() and path.parent.name != "_records"
    }


def rows(output: Path) -> list[tuple[str, int]]:
    found = []
    for name in read_json(output / MARKER)["fragments"]:
        table = pq.read_table(output / name, columns=["file", "entry"])
        found += zip(table["file"].to_pylist(), table["entry"].to_pylist(), strict=True)
    return sorted(found)


def passing(path: Path, name: str, start: int, stop: int) -> list[tuple[str, int]]:
    passed = np.flatnonzero(has_lepton(read_delphes(path, start, stop)))
    return [(name, start + int(entry)) for entry in passed]


def test_the_list_names_files_entries_and_reasons_and_empties_once_they_are_repaired(
    good: Path, raw: Path
) -> None:
    run(config(raw))
    output = raw.parent / "events"
    assert lost(output) == {
        "qcd/b.root": (40, [[30, 70]]),
        "qcd/nan.root": (3, [[3, 5], [9, 10]]),
        "ttbar/half.root": (None, None),
    }
    reasons = [row["reason"] for row in read_json(output / "_lost.json")["lost"]]
    for word, reason in zip(("corrupt", "NaN", "truncated"), reasons, strict=True):
        assert word in reason
    repair(good, raw, "qcd/b", "qcd/nan", "ttbar/half")
    run(config(raw))
    assert read_json(output / "_lost.json") == {"lost": []}


def test_repaired_files_are_read_again_without_a_look_at_the_others(good: Path, raw: Path) -> None:
    run(config(raw))
    output = raw.parent / "events"
    repair(good, raw, "ttbar/half")
    (raw / "later").mkdir()
    write_delphes(raw / "qcd" / "new.root", [10], seed=77)
    (raw / "qcd" / "a.root").rename(raw / "later" / "a.root")  # on a tape, say
    (output / "list").write_text("ttbar/half.root\n")
    run(config(raw, only=output / "list"))
    (output / "list").unlink()
    assert set(lost(output)) == {"qcd/b.root", "qcd/nan.root"}
    (raw / "qcd" / "new.root").unlink()
    (raw / "later" / "a.root").rename(raw / "qcd" / "a.root")
    run(config(raw, output=raw.parent / "at once"))
    assert contents(output) == contents(raw.parent / "at once")
    before = contents(output)
    run(config(raw))
    assert contents(output) == before


def test_the_list_of_an_output_reads_what_it_lost(good: Path, raw: Path) -> None:
    run(config(raw))
    output = raw.parent / "events"
    repair(good, raw, "qcd/b", "qcd/nan", "ttbar/half")
    run(config(raw, only=output / "_lost.json", max_lost_files=0))
    assert lost(output) == {}
    run(config(raw, output=raw.parent / "at once"))
    assert contents(output) == contents(raw.parent / "at once")
    found = [passing(raw / f"{name}.root", f"{name}.root", 0, 100) for name in FILES]
    assert rows(output) == sorted(chain(*found))


def test_a_list_makes_a_dataset_of_its_entries_alone(good: Path, raw: Path) -> None:
    run(config(raw))
    repair(good, raw, "qcd/b", "qcd/nan", "ttbar/half")
    small = raw.parent / "small"
    run(config(raw, output=small, only=raw.parent / "events" / "_lost.json"))
    wanted = {"qcd/b": [(30, 70)], "qcd/nan": [(3, 5), (9, 10)], "ttbar/half": [(0, 100)]}
    expected = [
        passing(raw / f"{name}.root", f"{name}.root", *interval)
        for name, intervals in wanted.items()
        for interval in intervals
    ]
    assert rows(small) == sorted(chain(*expected))
    about = read_json(small / MARKER)
    assert Ledger.from_dict(about["ledger"]).check().n_in == 40 + 3 + 100
    assert {file["file"]: file.get("only") for file in about["files"]} == {
        "qcd/b.root": [[30, 70]],
        "qcd/nan.root": [[3, 5], [9, 10]],
        "ttbar/half.root": None,
    }
    before = contents(small)
    run(config(raw, output=small, only=raw.parent / "events" / "_lost.json"))
    assert contents(small) == before
    (small / "list").write_text('[{"file": "qcd/b.root", "entries": [[10, 20]]}]')
    run(config(raw, output=small, only=small / "list"))
    expected[0] = passing(raw / "qcd/b.root", "qcd/b.root", 10, 20)
    assert rows(small) == sorted(chain(*expected))


def test_entries_that_a_file_does_not_have_are_lost(raw: Path) -> None:
    (raw / "list").write_text('[{"file": "qcd/a.root", "entries": [[90, 200]]}, "ttbar/c.root"]')
    run(config(raw, only=raw / "list"))
    assert lost(raw.parent / "events") == {"qcd/a.root": (None, None)}
    (reason,) = (file["reason"] for file in read_json(raw.parent / "events" / MARKER)["files"][:1])
    assert reason == "no entries 90 to 200 in a file of 100"


def test_a_listed_file_is_added(raw: Path) -> None:
    run(config(raw))
    output = raw.parent / "events"
    before = rows(output)
    for name in ("qcd/new", "ttbar/other"):
        write_delphes(raw / f"{name}.root", [20], seed=len(name))
    (raw / "list").write_text(f"{raw}/qcd/new.root")
    run(config(raw, only=raw / "list"))
    assert rows(output) == sorted(before + passing(raw / "qcd/new.root", "qcd/new.root", 0, 20))
    run(config(raw))
    assert len(rows(output)) > len(before)
    assert "ttbar/other.root" in {file for file, _ in rows(output)}


def test_an_empty_list_reads_nothing(raw: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    (raw / "list").write_text("")
    run(config(raw, only=raw / "list"))
    assert "names no file, so nothing is read" in caplog.text
    assert not (raw.parent / "events").exists()


def test_mistakes_in_a_list_are_one_line(raw: Path) -> None:
    (raw / "list").write_text("qcd/none.root")
    with pytest.raises(DataError, match=r"qcd/none\.root: no such file\. Correct the list"):
        run(config(raw, only=raw / "list"))
    run(config(raw))
    before = contents(raw.parent / "events")
    with pytest.raises(DataError, match=r"qcd/none\.root: no such file\. Correct the list"):
        run(config(raw, only=raw / "list"))
    (raw / "list").write_text("qcd/a.root")
    with pytest.raises(ConfigError, match=r"holds a dataset with classes"):
        run(config(raw, only=raw / "list", samples={"qcd": ("qcd",)}))
    assert contents(raw.parent / "events") == before
    with pytest.raises(ConfigError, match="only is for a single run"):
        config(raw, only=raw / "list", watch=1.0)


def test_a_dataset_of_before_gets_its_list(raw: Path) -> None:
    run(config(raw))
    path = raw.parent / "events" / "_lost.json"
    before = path.read_bytes()
    path.unlink()
    run(config(raw))
    assert path.read_bytes() == before


def test_expected_entries_name_what_differs(raw: Path, caplog: pytest.LogCaptureFixture) -> None:
    listed = raw / "entries.csv"
    names = [f"{name}.root" for name in FILES]
    listed.write_text("file,entries\n" + "".join(f"{name},100\n" for name in names))
    own = config(raw, expected=listed)
    run(own)  # the truncated one is allowed, and named all the same
    output = raw.parent / "events"
    only_half = {"file": "ttbar/half.root", "expected": 100, "found": None}
    assert read_json(output / "_differences.json")["differences"] == [only_half]
    text = "ttbar/half.root: an unknown number of entries found, 100 expected"
    assert text in caplog.text
    more = [f"qcd/gone{number}.root" for number in range(12)]
    content = listed.read_text().replace("qcd/a.root,100", "qcd/a.root,101")
    content = content.replace("ttbar/c.root,100\n", "")
    listed.write_text(content + "".join(f"{name},7\n" for name in more))
    caplog.clear()
    with pytest.raises(DataError, match=r"15 files differ .*, 9 allowed.*--max-lost-files 15"):
        run(own)
    found = read_json(output / "_differences.json")["differences"]
    assert {(row["file"], row["expected"], row["found"]) for row in found} == {
        ("qcd/a.root", 101, 100),
        ("ttbar/c.root", None, 100),
        ("ttbar/half.root", 100, None),
        *((name, 7, None) for name in more),
    }
    assert "qcd/a.root: 100 entries found, 101 expected" in caplog.text
    assert "qcd/gone0.root: not in the input, 7 entries expected" in caplog.text
    assert "... and 5 more, see" in caplog.text
    listed.write_text("file\nqcd/a.root\n")
    with pytest.raises(DataError, match="not a list of expected entries"):
        run(own)


def test_the_marker_of_a_dataset_is_a_list_of_expected_entries(good: Path, raw: Path) -> None:
    run(config(good, output=raw.parent / "first"))
    expected = raw.parent / "first" / MARKER
    run(config(good, output=raw.parent / "second", expected=expected, max_lost_files=0))
    run(config(raw, expected=expected))
    (row,) = read_json(raw.parent / "events" / "_differences.json")["differences"]
    assert row["file"] == "ttbar/half.root"
