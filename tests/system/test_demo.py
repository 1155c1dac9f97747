"""The whole pipeline from a built wheel, a second run that changes nothing, and the notebooks."""

import io
import logging
import os
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from rich.console import Console

from hepflow.cli import COMMANDS
from hepflow.config.tools import DemoConfig
from hepflow.data.ledger import Ledger
from hepflow.errors import ConfigError, HepflowError
from hepflow.schema import DEFINITIONS
from hepflow.system.files import read_json
from hepflow.system.terminal import Messages
from hepflow.tools.demo import run
from tests.support.compared import assert_same_as_plain
from tests.support.delphes_events import from_root

pytestmark = [pytest.mark.slow, pytest.mark.pythia, pytest.mark.spark]
pytest.importorskip("pythia8mc", reason="the simulation needs hepflow[simulate]")
ROOT = Path(__file__).parents[2]
NETS = ("hlf", "sequence", "inclusive")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the package and return the folder in which pip would install it."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder))
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, str(ROOT)], check=True, cwd=folder
    )
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def demo(wheel: Path, output: Path) -> str:
    command = [sys.executable, "-m", "hepflow", "demo", "--output", str(output), "--events", "100"]
    environment = os.environ | {"PYTHONPATH": str(wheel)}
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
        cwd=wheel.parent,
        env=environment,
    )
    assert result.returncode == 0, result.stderr
    assert f"--config {wheel}" in result.stderr  # not the checkout's
    return result.stdout + result.stderr


@pytest.fixture(scope="module")
def made(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    output = tmp_path_factory.mktemp("demo")
    return output, demo(wheel, output)


@pytest.mark.timeout(1500)
def test_every_event_is_accounted_for_from_root_to_report(made: tuple[Path, str]) -> None:
    output, _ = made
    written = sum(read_json(path)["written"] for path in (output / "raw").glob("*/*.json"))
    ingested = Ledger.from_dict(read_json(output / "events" / "_hepflow.json")["ledger"]).check()
    store = read_json(output / "features.zarr" / "zarr.json")["attributes"]["hepflow"]
    selected = Ledger.from_dict(store["ledger"]).check()
    metrics = read_json(output / "report" / "metrics.json")
    assert ingested.n_in == written
    assert selected.n_in == ingested.n_out
    assert (
        selected.n_out
        == sum(count for split in store["counts"].values() for count in split.values())
        >= 300
    )
    assert metrics["n_events"] == sum(store["counts"]["test"].values())
    assert set(metrics["models"]) == set(NETS)


def test_it_ends_with_a_table_and_the_path_of_the_report(made: tuple[Path, str]) -> None:
    output, printed = made
    assert all(f"train {net}" in printed for net in NETS)
    assert "events/s" in printed
    assert "Whole commands, including their start-up" in " ".join(printed.split())
    last = printed.strip().splitlines()[-1]
    assert "report: " in last
    assert (output / "report" / "report.html").stat().st_size > 10_000


def test_a_printed_command_can_be_pasted(tmp_path: Path) -> None:
    output = tmp_path / "a folder with a name that is long"
    output.mkdir()
    (output / "raw").touch()  # so that nothing is simulated
    terminal = Messages(Console(file=io.StringIO(), force_terminal=True, width=80))
    log = logging.getLogger("hepflow.tools.demo")
    log.addHandler(terminal)
    log.setLevel(logging.INFO)
    try:
        with pytest.raises(HepflowError):
            run(DemoConfig(output=output, events=100))
    finally:
        log.removeHandler(terminal)
    assert isinstance(terminal.console.file, io.StringIO)
    (line,) = terminal.console.file.getvalue().splitlines()
    words = shlex.split(line.removeprefix("[1/7] "))
    assert words == [
        "hepflow",
        "simulate",
        "--output",
        str(output / "raw"),
        "--events",
        "100",
        "--seed",
        "1",
    ]


def test_every_command_of_the_wheel_prints_its_configuration(wheel: Path) -> None:
    """In one process, as imports take longest; the shipped configurations are read too."""
    code = """
from pathlib import Path
from hepflow import cli
from hepflow.config.shipped import shipped
assert not Path("configs").exists()
needed = {"import-cern": ["--train", "a.parquet", "--test", "b.parquet"]}
own = {path.stem: ["--config", str(path)] for path in shipped(".").glob("*.yaml")}
nets = [["--config", str(path)] for path in shipped("train").glob("*.yaml")]
assert len(own) > 5 and len(nets) > 4
names = [name for name in cli.COMMANDS if name not in {"completion", "train fit"}]
lines = [[*name.split(), *needed.get(name, []), *own.get(name, [])] for name in names]
lines += [["train", "fit", *net] for net in nets]
for line in lines:
    for last in ("--help", "--print_config"):
        print("hepflow", *line, last, flush=True)
        try:
            cli.main([*line, last])
        except SystemExit as end:
            assert not end.code, end
"""
    environment = os.environ | {"PYTHONPATH": str(wheel)}
    command = [sys.executable, "-W", "ignore", "-c", code]
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        cwd=wheel.parent,
        env=environment,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr
    assert all(f"hepflow {name}" in result.stdout for name in COMMANDS if name != "completion")


@pytest.mark.parametrize("definitions", DEFINITIONS)
def test_simulated_events_agree_with_the_plain_physics(
    definitions: str, made: tuple[Path, str]
) -> None:
    output, _ = made
    for path in sorted((output / "raw").glob("*/*.root")):
        assert len(assert_same_as_plain(from_root(path, stop=15), definitions).index) > 0


def test_a_second_run_changes_no_file(wheel: Path, made: tuple[Path, str]) -> None:
    output, _ = made
    before = stamps(output)
    printed = demo(wheel, output)
    assert printed.count("up to date") == 7
    assert stamps(output) == before


def test_a_demo_of_another_size_or_seed_is_not_replaced_unasked(made: tuple[Path, str]) -> None:
    output, _ = made
    before = stamps(output)
    with pytest.raises(
        ConfigError,
        match=r"holds a demo with events 100 \(now 60\), seed 1 \(now 7\)\. ",
    ):
        run(DemoConfig(output=output, events=60, seed=7))
    assert stamps(output) == before


def stamps(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.name)
def test_a_notebook_runs_from_top_to_bottom(
    path: Path, made: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output, _ = made
    monkeypatch.setenv("HEPFLOW_DEMO", str(output))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    before = sorted(path.parent.iterdir())
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    assert sorted(path.parent.iterdir()) == before  # what it makes goes to the demo
    assert "ipywidgets" not in nbformat.writes(notebook)  # no bar asks for what is not there


@pytest.mark.timeout(1500)
def test_a_demo_on_a_remote_store_is_that_of_a_disk(
    wheel: Path, made: tuple[Path, str], away: Path
) -> None:
    printed = demo(wheel, away / "demo")
    assert f"report: {away}/demo/report/report.html" in printed
    here, there = (read_json(top / "report" / "metrics.json") for top in (made[0], away / "demo"))
    for one in (here, there):  # what a run's time and place decide
        del one["inputs"]
        for model in one["models"].values():
            del model["about"], model["provenance"]["content"]
    assert here == there
