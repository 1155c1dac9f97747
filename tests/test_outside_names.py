"""Names from outside are text: on the terminal, in logs, in errors, in CSV and in every stage."""

import ast
import csv
import io
import logging
import re
import unicodedata
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from hepflow.cli import main
from hepflow.config.engines import ClusterConfig
from hepflow.config.stages import FeaturesConfig, IngestConfig
from hepflow.data.store import EventStore
from hepflow.errors import DataError
from hepflow.features.job import run as features
from hepflow.ingest.job import run as ingest
from hepflow.reading.listing import list_files
from hepflow.system.files import read_json, write_csv
from hepflow.system.terminal import Lines, Messages, PlainConsole, bars, table, visible
from tests.support.root_files import write_delphes

PACKAGE = Path(__file__).parents[1] / "hepflow"
NASTY = (
    "[red]w",
    "q[",
    "[/b]",
    ":smile:",
    "\x1b[31mred",
    "\x1b]0;title\x07",
    "\x9b31m",
    "=HYPERLINK(1)",
    "+1+cmd|' '!A0",
    "@SUM(A1)",
    "-2+3",
    "<script>alert(1)</script>",
    "a\nhepflow: error: forged",
    "\u202egnp.exe",
    "%s %d {0}",
)
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def shown(console: PlainConsole, *things: object) -> str:
    console.file = io.StringIO()
    console.width = 400
    for thing in things:
        console.print(thing)
    return console.file.getvalue()


@given(st.text())
def test_a_visible_text_has_no_control_character_and_the_rest_as_before(text: str) -> None:
    found = visible(text)
    assert not OBEYED.search(found)
    assert not {"Cc", "Cs"} & {unicodedata.category(one) for one in found}
    assert len(found) == len(text)
    assert all(
        a in (b, "\ufffd") or 0x2400 <= ord(a) <= 0x2421 for a, b in zip(found, text, strict=True)
    )
    assert visible(found) == found


@pytest.mark.parametrize("name", NASTY)
def test_a_name_is_text_on_a_console(name: str) -> None:
    assert shown(PlainConsole(), table((name, "n"), [(name, 1)], name)).count(visible(name)) == 3
    as_is = visible(name.replace("\a", ""), lines=True)  # rich itself drops the bell
    for thing in (Text(name), name):
        assert shown(PlainConsole(), thing) == f"{as_is}\n"


@pytest.mark.parametrize("name", NASTY)
def test_a_name_is_text_in_a_bar(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    console = PlainConsole()
    console.file, console.width = io.StringIO(), 400
    monkeypatch.setattr("hepflow.system.terminal.MESSAGES", console)
    with bars() as new:
        new(name, 1).update(1, note=name)
    assert not OBEYED.search(console.file.getvalue())
    assert console.file.getvalue().count(visible(name)) == 2


@pytest.mark.parametrize("name", NASTY)
def test_a_name_in_a_message_is_text_in_one_line(name: str) -> None:
    record = logging.LogRecord("hepflow.x", logging.WARNING, "", 0, "quarantined %s", (name,), None)
    console = PlainConsole()
    console.file, console.width = io.StringIO(), 400
    terminal = Messages(console)
    terminal.setFormatter(Lines())
    terminal.emit(record)
    for printed in (Lines().format(record), console.file.getvalue().rstrip(" \n")):
        assert printed == f"quarantined {visible(name)}"


@pytest.mark.parametrize("name", NASTY)
def test_a_name_in_an_error_is_text_in_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / name.replace("/", "|")
    with pytest.raises(SystemExit) as end:
        main(["store", "info", "--input", str(place)])
    assert end.value.code == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert not OBEYED.search(printed)
    assert visible(str(place)) in printed


@pytest.mark.parametrize("name", NASTY)
def test_a_name_is_no_formula_in_a_csv(name: str, tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [[name, -1.5, "-1.5", "1e-3", "–", ""]])
    with (tmp_path / "a.csv").open(newline="") as file:
        (row,) = csv.reader(file)
    assert row[0].removeprefix("'") == visible(name)
    assert row[0][0] not in "=+-@"
    assert row[1:] == ["-1.5", "-1.5", "1e-3", "–", ""]


def test_nothing_else_writes_to_a_terminal_or_into_a_csv() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func).rpartition(".")[2]
            here = path.relative_to(PACKAGE).as_posix(), node.lineno
            if name in {"Console", "StreamHandler"}:
                assert here[0] in {"system/terminal.py", "cli.py"}, here
            assert name not in {"from_markup", "DictWriter"}, here
            if ast.unparse(node.func) == "csv.writer":
                assert here[0] == "system/files.py", here
            if name == "TextColumn":
                assert "markup=False" in ast.unparse(node), here


def test_a_name_that_is_no_utf_8_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    try:
        Path(str(tmp_path / "a" / "b"), "\udcff.root").parent.mkdir(parents=True)
        Path(str(tmp_path / "a" / "b"), "\udcff.root").touch()
    except (OSError, UnicodeEncodeError):
        pytest.skip("the file system takes only UTF-8")
    with pytest.raises(DataError, match=r"is no UTF-8\. Rename"):
        list_files(tmp_path / "a")


@pytest.mark.slow
@pytest.mark.spark
def test_stages_take_any_name(
    tmp_path: Path, spark: object, capfd: pytest.CaptureFixture[str]
) -> None:
    names = [name.replace("/", "|") for name in NASTY]
    for seed, name in enumerate(names):
        write_delphes(tmp_path / "raw" / name / f"{name}.root", [20], seed)
    samples = {name: (re.sub(r"([\[*?])", r"[\1]", name),) for name in names}
    events, store = tmp_path / "events", tmp_path / "features.zarr"
    ingest(IngestConfig(input=tmp_path / "raw", output=events, samples=samples))
    about = read_json(events / "_hepflow.json")
    assert sorted(file["file"] for file in about["files"]) == sorted(f"{n}/{n}.root" for n in names)
    assert {
        name for f in about["fragments"] for name in pq.read_table(events / f)["sample"].to_pylist()
    } == set(names)
    features(FeaturesConfig(input=events, output=store, cluster=ClusterConfig(workers=1)))
    assert EventStore.open(store).spec.classes == tuple(names)
    assert not OBEYED.search(re.sub("\x1b\\[[0-9;?]*[A-Za-z]", "", capfd.readouterr().err))
