"""`hepflow simulate --delphes`: the card, the program and its failures, with a stand-in for it.

The stand-in tests the plumbing alone; the last test runs the real program, where there is one.
"""

import logging
import os
import re
import signal
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import uproot

pytest.importorskip("pyhepmc", reason="pip install 'hepflow[delphes]'")
pytest.importorskip("pythia8mc", reason="pip install 'hepflow[delphes]'")
pytest.importorskip("fastjet", reason="pip install 'hepflow[delphes]'")

from hepflow.config.stages import SimulateConfig
from hepflow.errors import ConfigError, DataError, HepflowError, MissingDependency
from hepflow.physics.selection import passes
from hepflow.simulate.decays import BOTTOM, CHARM, join
from hepflow.simulate.delphes_card import read_card
from hepflow.simulate.job import plan, run
from hepflow.simulate.pool import Pool, save
from hepflow.simulate.pythia import decay_library, minimum_bias
from tests.support import stand_in_delphes
from tests.support.commands import Command, hepflow
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
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pool") / "pool.npz"
    parts = [decay_library(BOTTOM + CHARM, 50, 1, leptonic=False)]
    library = join([*parts, decay_library(BOTTOM, 50, 2, leptonic=True)])
    save(path, Pool("small", minimum_bias(15, 3), library))
    return path


@pytest.fixture
def config(
    card: Path, pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> SimulateConfig:
    (tmp_path / "bin").mkdir()
    stand_in_delphes.install(tmp_path / "bin")
    monkeypatch.setenv("DELPHES", str(tmp_path / "bin"))
    monkeypatch.chdir(tmp_path)
    return SimulateConfig(
        input=pool,
        output=tmp_path / "raw",
        delphes=card,
        classes=("wjets",),
        events=6,
        events_per_file=4,
        jobs=1,
    )


def tracks(path: Path) -> list[list[float]]:
    return from_root(path).EFlowTrack.PT.tolist()


@pytest.mark.slow
@pytest.mark.pythia
def test_files_and_sidecars_are_those_of_a_simulation(
    config: SimulateConfig, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Also the same events from two processes, and none again in a second run."""
    with caplog.at_level(logging.INFO, "hepflow"):
        run(config)
    assert "MinBias.pileup, which does not exist: pile-up comes from the pool" in caplog.text
    folder = config.output / "wjets"
    assert sorted(path.name for path in folder.iterdir()) == [
        f"wjets_000{i}.{kind}" for i in (0, 1) for kind in ("json", "root")
    ]
    for sample in plan(config):
        about = sample.about
        with uproot.open(sample.path) as file:
            assert str(file.file.uuid) == about["uuid"]
            assert file["Delphes"].num_entries == about["written"]
        selected = passes(from_root(sample.path))
        assert sample.target == about["requested"] <= about["selected"] == selected.sum()
        assert about["settings"]["pileup"] == "of card.tcl, events of the pool"
        assert about["delphes"]["program"] == str(tmp_path / "bin" / "DelphesHepMC3")
        assert about["generated"]["kept"] >= about["written"]
        share = about["selected"] / about["written"]
        expected = about["cross_section_pb"]["generated"] * share
        assert about["cross_section_pb"]["selected"] == pytest.approx(expected)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    run(config)
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    twice = replace(config, output=tmp_path / "twice", jobs=2)
    run(twice)
    for name in ("wjets_0000.root", "wjets_0001.root"):
        assert tracks(folder / name) == tracks(twice.output / "wjets" / name)
    assert tracks(folder / "wjets_0000.root")[0] != tracks(folder / "wjets_0001.root")[0]
    (tmp_path / "MinBias.pileup").write_bytes(b"of the user")
    with pytest.raises(ConfigError, match=r"with pileup of card\.tcl, events of the pool \(now of"):
        run(config)
    with pytest.raises(ConfigError, match=r"holds wjets_0000\.root with pileup of card\.tcl"):
        run(replace(config, delphes=None))


@pytest.mark.slow
@pytest.mark.pythia
def test_more_events_are_made_where_too_few_pass(
    config: SimulateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every fourth event has a lepton, where two of three are expected to pass."""
    monkeypatch.setenv(stand_in_delphes.DIM, "wjets")
    more = replace(config, events=12, events_per_file=12)
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
        (stand_in_delphes.CRASH, r"was killed by SIGABRT for wjets_0001\.root"),
        (stand_in_delphes.SHORT, r"wrote \d+ of \d+ events for wjets_0001\.root"),
    ],
)
def test_a_delphes_that_fails_leaves_the_finished_files_alone(
    config: SimulateConfig, monkeypatch: pytest.MonkeyPatch, what: str, message: str
) -> None:
    monkeypatch.setenv(what, "wjets_0001")
    with pytest.raises(HepflowError, match=message):
        run(config)
    names = sorted(path.name for path in (config.output / "wjets").iterdir())
    assert names == ["wjets_0000.json", "wjets_0000.root"]
    monkeypatch.delenv(what)
    before = (config.output / "wjets" / "wjets_0000.root").stat().st_mtime_ns
    run(config)
    assert all(sample.up_to_date for sample in plan(config))
    assert (config.output / "wjets" / "wjets_0000.root").stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.pythia
def test_a_card_under_which_nothing_passes_is_an_error(
    config: SimulateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(stand_in_delphes.BLIND, "wjets")
    with pytest.raises(DataError, match=r"card\.tcl: 0 of \d+ wjets events pass the trigger"):
        run(config)
    assert not list(config.output.rglob("*.root"))


@pytest.mark.slow
@pytest.mark.pythia
def test_ctrl_c_ends_delphes_too(config: SimulateConfig, tmp_path: Path) -> None:
    where = {"STAND_IN_PID": str(tmp_path / "pid"), stand_in_delphes.HANG: "wjets_0001"}
    options = f"--events 6 --events-per-file 4 --jobs 2 --classes wjets --input {config.input}"
    words = ("simulate", "--delphes", str(config.delphes), "--output", "raw", *options.split())
    command = Command(*words, env=where, cwd=tmp_path)
    while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text():
        assert command.poll() is None, command.printed()
        time.sleep(0.05)
    while not (tmp_path / "raw/wjets/wjets_0000.json").is_file():
        time.sleep(0.05)
    os.killpg(command.pid, signal.SIGINT)
    done = command.finish(60)
    assert done.returncode == 130, done.stderr
    assert "finished work is kept" in done.stderr
    deadline = time.monotonic() + 20
    while psutil.pid_exists(int((tmp_path / "pid").read_text())):
        assert time.monotonic() < deadline, "Delphes still runs"
        time.sleep(0.05)
    names = sorted(path.name for path in (tmp_path / "raw/wjets").iterdir())
    assert names == ["wjets_0000.json", "wjets_0000.root"]
    done = hepflow(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "up to date in 1 of 2 files" in done.stderr


@pytest.mark.slow
@pytest.mark.pythia
@pytest.mark.parametrize("missing", ["card", "program", "branches"])
def test_a_mistake_is_one_line_and_status_2(
    config: SimulateConfig, tmp_path: Path, missing: str
) -> None:
    card = tmp_path / "none.tcl" if missing == "card" else config.delphes
    assert card is not None
    if missing == "branches":
        card.write_text(CARD.replace("  add Branch HCal/eflow", "#  add Branch HCal/eflow"))
    places = {"DELPHES": str(tmp_path), "PATH": str(tmp_path)} if missing == "program" else {}
    done = hepflow("simulate", "--delphes", str(card), env=places, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    words = {"card": "no such file", "program": "neither on the PATH", "branches": "remove its #"}
    assert words[missing] in line


@pytest.mark.slow
@pytest.mark.pythia
@pytest.mark.delphes
def test_the_real_program_finds_leptons_tracks_and_flavours(pool: Path, tmp_path: Path) -> None:
    """With Delphes' own card of CMS: b-tagged jets, isolated leptons and energy flow are there."""
    home = Path(os.environ.get("DELPHES", ""))
    card = home / "cards" / "delphes_card_CMS.tcl"
    if "DELPHES" not in os.environ or not card.is_file():
        pytest.skip("no Delphes (set DELPHES to its folder, with its cards)")
    config = SimulateConfig(
        input=pool, output=tmp_path, delphes=card, classes=("ttbar",), events=20, jobs=1
    )
    run(config)
    (sample,) = plan(config)
    events = from_root(sample.path)
    assert passes(events).sum() == sample.about["selected"] >= 20
    tagged = events.Jet[events.Jet.BTag > 0]
    assert len(tagged.PT[tagged.PT > 0].tolist()) == len(events)
    assert sum(map(len, tagged.PT.tolist())) > len(events) / 2
