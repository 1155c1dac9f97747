"""`hepflow simulate --delphes`: the card, the program and its failures, with a stand-in for it.

The stand-in tests the plumbing alone; the last test runs the real program, where there is one.
"""

import logging
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import uproot

pytest.importorskip("pyhepmc", reason="pip install 'hepflow[delphes]'")
pytest.importorskip("pythia8mc", reason="pip install 'hepflow[delphes]'")
pytest.importorskip("fastjet", reason="pip install 'hepflow[delphes]'")

from hepflow.cli import main
from hepflow.config.stages import SimulateConfig
from hepflow.errors import ConfigError, HepflowError, MissingDependency
from hepflow.physics.selection import passes
from hepflow.simulate.decays import BOTTOM, CHARM, join
from hepflow.simulate.delphes_card import read_card
from hepflow.simulate.job import plan, run
from hepflow.simulate.pool import Pool, save
from hepflow.simulate.pythia import decay_library, minimum_bias
from tests.support import stand_in_delphes
from tests.support.commands import environment, started
from tests.support.delphes_events import from_root

CARD = """\
set ExecutionPath {
  PileUpMerger
  BTagging
  TreeWriter
}
module PileUpMerger PileUpMerger {
  # set PileUpFile other.pileup
  set PileUpFile MinBias.pileup
  set MeanPileUp 20
}
module BTagging BTagging {
  source tables/btag.tcl
}
module TreeWriter TreeWriter {
  add Branch HCal/eflowTracks EFlowTrack Track
  add Branch ECal/eflowPhotons EFlowPhoton Tower
  add Branch HCal/eflowNeutralHadrons EFlowNeutralHadron Tower
  add Branch ElectronEfficiency/electrons Electron Electron
  add Branch MuonEfficiency/muons Muon Muon
  add Branch JetEnergyScale/jets Jet Jet
  add Branch MissingET/momentum MissingET MissingET
}
"""


@pytest.fixture
def card(tmp_path: Path) -> Path:
    return write_card(tmp_path / "cards" / "card.tcl")


def write_card(path: Path, text: str = CARD) -> Path:
    (path.parent / "tables").mkdir(parents=True, exist_ok=True)
    (path.parent / "tables" / "btag.tcl").write_text("add EfficiencyFormula {0} {0.01}\n")
    path.write_text(text)
    return path


def test_a_card_names_its_pileup_and_the_files_that_it_sources(card: Path) -> None:
    found = read_card(card)
    assert (found.merger, found.pileup_file) == ("PileUpMerger", "MinBias.pileup")
    assert list(found.sourced) == ["tables/btag.tcl"]
    other = read_card(write_card(card.with_name("b.tcl")))
    assert other.identity == found.identity
    (card.parent / "tables" / "btag.tcl").write_text("add EfficiencyFormula {0} {0.02}\n")
    assert read_card(card).identity != found.identity, "what it sources counts"


def test_a_copy_of_a_card_sets_what_it_is_told_to_and_sources_the_same(
    card: Path, tmp_path: Path
) -> None:
    (tmp_path / "copy").mkdir()
    copy = read_card(card).copy_to(tmp_path / "copy", {"RandomSeed": 7, "::A::File": "/x y/z"})
    text = copy.read_text()
    assert text.startswith("set ExecutionPath {")
    assert text.endswith("\nset RandomSeed {7}\nset ::A::File {/x y/z}\n")
    (name,) = re.findall(r"^ *source (\S+)", text, re.MULTILINE)
    assert (copy.parent / name).read_text() == (card.parent / "tables/btag.tcl").read_text()


def test_only_a_merger_that_runs_needs_pileup(card: Path) -> None:
    card.write_text(CARD.replace("  PileUpMerger\n", "", 1))
    assert (read_card(card).merger, read_card(card).conditions) == ("", "of card.tcl")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("  add Branch HCal/eflowTracks", "#  add Branch HCal/eflowTracks"),
            r"its TreeWriter writes no EFlowTrack, which hepflow reads\. Put into the module: "
            r"`add Branch HCal/eflowTracks EFlowTrack Track` \(remove its #\)\.$",
        ),
        (
            ("  add Branch ECal/eflowPhotons EFlowPhoton Tower\n", ""),
            r"writes no EFlowPhoton, .* `add Branch ECal/eflowPhotons EFlowPhoton Tower`\.$",
        ),
        (("Muon Muon", "MuonLoose Muon"), r"writes no MuonTight, .* MuonTight"),
        (
            ("tables/btag.tcl", "tables/none.tcl"),
            r"card\.tcl sources .*none\.tcl: no such file\. Copy it",
        ),
    ],
)
def test_a_card_that_lacks_something_is_refused(
    card: Path, change: tuple[str, str], message: str
) -> None:
    card.write_text(CARD.replace(*change))
    with pytest.raises(ConfigError, match=message):
        read_card(card)


def test_a_card_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.tcl: no such file\. Give --delphes a card"):
        plan(SimulateConfig(output=tmp_path, delphes=tmp_path / "no.tcl"))


def test_pileup_of_both_detectors_is_refused(card: Path) -> None:
    with pytest.raises(ConfigError, match="pileup is for the parametric detector"):
        SimulateConfig(delphes=card, pileup=50.0)


def test_a_missing_program_is_reported_before_anything_is_made(
    card: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("DELPHES", str(tmp_path))
    with pytest.raises(MissingDependency, match=r"DelphesHepMC3 is neither on the PATH nor in"):
        run(SimulateConfig(output=tmp_path / "raw", delphes=card))
    assert not (tmp_path / "raw").exists()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the stand-in, a card and a pool, in which hepflow runs."""
    folder = tmp_path_factory.mktemp("delphes")
    parts = [decay_library(BOTTOM + CHARM, 20, 1, leptonic=False)]
    library = join([*parts, decay_library(BOTTOM, 20, 2, leptonic=True)])
    save(folder / "pool.npz", Pool("small", minimum_bias(15, 3), library))
    write_card(folder / "cards" / "card.tcl")
    stand_in_delphes.install(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DELPHES", str(folder))
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def finished(place: Path) -> SimulateConfig:
    """Two files, of 4 and 2 selected events, made in two processes."""
    config = SimulateConfig(
        input=place / "pool.npz",
        output=place / "raw",
        delphes=place / "cards" / "card.tcl",
        classes=("wjets",),
        events=6,
        events_per_file=4,
        jobs=2,
    )
    run(config)
    return config


@pytest.fixture
def half(finished: SimulateConfig, tmp_path: Path) -> SimulateConfig:
    """The same without the second file."""
    shutil.copytree(finished.output, tmp_path / "raw")
    for path in (tmp_path / "raw").rglob("*_0001.*"):
        path.unlink()
    return replace(finished, output=tmp_path / "raw", jobs=1)


def tracks(path: Path) -> list[list[float]]:
    return from_root(path).EFlowTrack.PT.tolist()


@pytest.mark.slow
@pytest.mark.pythia
def test_files_and_sidecars_are_those_of_a_simulation(finished: SimulateConfig) -> None:
    folder = finished.output / "wjets"
    assert sorted(path.name for path in folder.iterdir()) == [
        f"wjets_000{i}.{kind}" for i in (0, 1) for kind in ("json", "root")
    ]
    for sample in plan(finished):
        about = sample.about
        with uproot.open(sample.path) as file:
            assert str(file.file.uuid) == about["uuid"]
            assert file["Delphes"].num_entries == about["written"]
        selected = passes(from_root(sample.path))
        assert sample.target == about["requested"] <= about["selected"] == selected.sum()
        assert about["settings"]["pileup"] == "of card.tcl, events of the pool"
        assert about["delphes"]["program"].endswith("/DelphesHepMC3")
        assert about["generated"]["kept"] >= about["written"]
        share = about["selected"] / about["written"]
        expected = about["cross_section_pb"]["generated"] * share
        assert about["cross_section_pb"]["selected"] == pytest.approx(expected)
    first, second = (tracks(folder / f"wjets_000{i}.root") for i in (0, 1))
    assert first[0] != second[0]
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    run(finished)
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.pythia
def test_one_process_makes_the_events_of_two_and_resumes(
    half: SimulateConfig, finished: SimulateConfig, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "hepflow"):
        run(half)
    assert "is up to date in 1 of 2 files" in caplog.text
    assert "MinBias.pileup, which does not exist: pile-up comes from the pool" in caplog.text
    name = "wjets/wjets_0001.root"
    assert tracks(half.output / name) == tracks(finished.output / name)


@pytest.mark.slow
@pytest.mark.pythia
def test_files_of_another_card_pileup_or_detector_are_not_replaced(
    half: SimulateConfig, place: Path
) -> None:
    with pytest.raises(ConfigError, match=r"holds wjets_0000\.root with pileup of card\.tcl"):
        run(replace(half, delphes=None))
    (place / "MinBias.pileup").write_bytes(b"of the user")
    with pytest.raises(ConfigError, match=r"with pileup of card\.tcl, events of the pool \(now of"):
        run(half)
    (place / "MinBias.pileup").unlink()
    other = write_card(place / "b" / "card.tcl", CARD.replace("MeanPileUp 20", "MeanPileUp 21"))
    with pytest.raises(ConfigError, match=r"holds wjets_0000\.root with card \w+ \(now \w+\)"):
        run(replace(half, delphes=other))


@pytest.mark.slow
@pytest.mark.pythia
@pytest.mark.system
def test_more_events_are_made_where_too_few_pass(
    half: SimulateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every fourth event has a lepton, where two of three are expected to pass."""
    monkeypatch.setenv(stand_in_delphes.DIM, "wjets")
    more = replace(half, events=12, events_per_file=12, output=tmp_path / "more")
    run(more)
    (sample,) = plan(more)
    assert sample.about["selected"] >= 12
    assert sample.about["written"] > 4 * sample.about["selected"] - 4
    assert not list(tmp_path.rglob("*.hepmc"))


@pytest.mark.slow
@pytest.mark.pythia
@pytest.mark.parametrize(
    ("what", "message"),
    [
        (
            stand_in_delphes.BREAK,
            r"ended with status 1 for wjets_0001\.root: .*\*\* 50% processed / \*\* ERROR: "
            r"something is wrong in event 7\. Finished files are kept",
        ),
        (stand_in_delphes.SHORT, r"wrote \d+ of \d+ events for wjets_0001\.root"),
        (
            stand_in_delphes.BLIND,
            r"card\.tcl: 0 of \d+ wjets events pass the trigger, an isolated lepton",
        ),
        pytest.param(
            stand_in_delphes.CRASH,
            r"was killed by SIGABRT for wjets_0001\.root",
            marks=pytest.mark.system,
        ),
    ],
)
def test_a_delphes_that_fails_leaves_the_finished_files_alone(
    half: SimulateConfig, monkeypatch: pytest.MonkeyPatch, what: str, message: str
) -> None:
    before = (half.output / "wjets" / "wjets_0000.root").stat().st_mtime_ns
    monkeypatch.setenv(what, "wjets_0001")
    with pytest.raises(HepflowError, match=message):
        run(half)
    names = sorted(path.name for path in (half.output / "wjets").iterdir())
    assert names == ["wjets_0000.json", "wjets_0000.root"]
    assert (half.output / "wjets" / "wjets_0000.root").stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.pythia
@pytest.mark.system
def test_ctrl_c_ends_delphes_too(half: SimulateConfig, place: Path, tmp_path: Path) -> None:
    (tmp_path / "raw" / "wjets" / "wjets_0000.json").unlink()
    (tmp_path / "raw" / "wjets" / "wjets_0000.root").unlink()
    pid, folder = tmp_path / "pid", tmp_path / "raw" / "wjets"
    where = {"STAND_IN_PID": str(pid), stand_in_delphes.HANG: "wjets_0001"}
    options = f"--events 6 --events-per-file 4 --jobs 2 --classes wjets --input {half.input}"
    words = ("--delphes", str(half.delphes), "--output", str(half.output), *options.split())
    deadline = time.monotonic() + 200
    process = subprocess.Popen(
        started("simulate", *words),
        env=environment(**where),
        cwd=place,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )

    def wait_for(what: Callable[[], bool]) -> None:
        while not what() and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    wait_for(lambda: pid.is_file() and pid.read_text() != "")
    wait_for((folder / "wjets_0000.json").is_file)
    os.killpg(process.pid, signal.SIGINT)
    _, printed = process.communicate(timeout=100)
    assert process.returncode == 130, printed
    assert "finished work is kept" in printed
    while psutil.pid_exists(int(pid.read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert sorted(path.name for path in folder.iterdir()) == ["wjets_0000.json", "wjets_0000.root"]
    run(half)
    assert [sample.up_to_date for sample in plan(half)] == [True, True]


@pytest.mark.parametrize("missing", ["card", "program", "branches"])
def test_a_mistake_is_one_line_and_status_2(
    card: Path,
    tmp_path: Path,
    missing: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DELPHES", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    if missing == "card":
        card.unlink()
    if missing == "branches":
        card.write_text(CARD.replace("  add Branch HCal/eflow", "#  add Branch HCal/eflow"))
    with pytest.raises(SystemExit) as ended:
        main(["simulate", "--delphes", str(card), "--output", str(tmp_path / "raw")])
    assert ended.value.code == 2
    (line,) = capfd.readouterr().err.splitlines()
    words = {"card": "no such file", "program": "neither on the PATH", "branches": "remove its #"}
    assert words[missing] in line


@pytest.mark.slow
@pytest.mark.pythia
@pytest.mark.delphes
def test_the_real_program_finds_leptons_tracks_and_flavours(tmp_path: Path) -> None:
    """With Delphes' own card of CMS: b-tagged jets, isolated leptons and energy flow are there."""
    home = Path(os.environ.get("DELPHES", ""))
    card = home / "cards" / "delphes_card_CMS.tcl"
    if "DELPHES" not in os.environ or not card.is_file():
        pytest.skip("no Delphes (set DELPHES to its folder, with its cards)")
    config = SimulateConfig(
        output=tmp_path, delphes=card, classes=("ttbar",), events=20, pool=50, jobs=1
    )
    run(config)
    (sample,) = plan(config)
    events = from_root(sample.path)
    assert passes(events).sum() == sample.about["selected"] >= 20
    tagged = events.Jet[events.Jet.BTag > 0]
    assert len(tagged.PT[tagged.PT > 0].tolist()) == len(events)
    assert sum(map(len, tagged.PT.tolist())) > len(events) / 2
