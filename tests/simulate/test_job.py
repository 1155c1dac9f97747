"""The stage: its files, resuming, any number of processes; and the physics of the events."""

import json
import logging
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import awkward as ak
import numpy as np
import psutil
import pytest
import uproot

pytest.importorskip("fastjet", reason="pip install 'hepflow[simulate]'")
pytest.importorskip("pythia8mc", reason="pip install 'hepflow[simulate]'")

from hepflow.config.stages import SimulateConfig
from hepflow.errors import ConfigError, DataError
from hepflow.physics.features import compute_features
from hepflow.physics.selection import passes
from hepflow.schema import CLASSES, HLF
from hepflow.simulate import card
from hepflow.simulate.calorimeter import tower_index
from hepflow.simulate.job import plan, run
from hepflow.simulate.particles import pt_eta_phi
from hepflow.simulate.pool import load, make_pool, place, save
from hepflow.simulate.pythia import _MINIMUM_BIAS, EventRecord, start
from hepflow.simulate.tracking import may_reach, propagate
from tests.support.commands import environment, started
from tests.support.delphes_events import from_root
from tests.support.seals import unseal

pytestmark = [pytest.mark.slow, pytest.mark.pythia]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pool") / "pool.npz"
    save(path, make_pool(1000, 1))
    return path


@pytest.fixture(scope="module")
def small(pool: Path, tmp_path_factory: pytest.TempPathFactory) -> SimulateConfig:
    """Two files per class, of 4 and 2 selected events."""
    config = SimulateConfig(
        input=pool, output=tmp_path_factory.mktemp("raw"), events=6, events_per_file=4, jobs=1
    )
    run(config)
    return config


def files(config: SimulateConfig) -> dict[str, bytes]:
    return {
        str(path.relative_to(config.output)): path.read_bytes()
        for path in sorted(config.output.rglob("*.root"))
    }


def events(config: SimulateConfig, name: str) -> ak.Array:
    return ak.concatenate(
        [from_root(path) for path in sorted((config.output / name).glob("*.root"))]
    )


def test_every_class_has_its_files_with_sidecars(small: SimulateConfig) -> None:
    assert sorted(files(small)) == [
        f"{name}/{name}_{index:04d}.root" for name in sorted(CLASSES) for index in (0, 1)
    ]
    assert not list(small.output.rglob("*.part"))
    for path in small.output.rglob("*.root"):
        sidecar = json.loads(path.with_suffix(".json").read_text())
        with uproot.open(path) as file:
            assert str(file.file.uuid) == sidecar["uuid"]
            assert file["Delphes"].num_entries == sidecar["written"]
        assert (
            sidecar["selected"]
            <= sidecar["written"]
            <= sidecar["generated"]["kept"]
            <= sidecar["generated"]["showered"]
        )
        assert (
            0 < sidecar["cross_section_pb"]["selected"] <= sidecar["cross_section_pb"]["generated"]
        )
        assert 0 < sidecar["filter_efficiency"] < 1


@pytest.mark.parametrize("name", CLASSES)
def test_files_contain_the_selected_events_requested_and_the_rejected_between(
    small: SimulateConfig, name: str
) -> None:
    for index, wanted in ((0, 4), (1, 2)):
        selected = passes(from_root(small.output / name / f"{name}_{index:04d}.root"))
        assert selected.sum() == wanted
        assert selected[-1]


def test_a_rerun_is_up_to_date(small: SimulateConfig, caplog: pytest.LogCaptureFixture) -> None:
    before = {path: path.stat().st_mtime_ns for path in small.output.rglob("*")}
    with caplog.at_level(logging.INFO, "hepflow"):
        run(small)
    assert "is up to date in 6 of 6 files" in caplog.text
    assert before == {path: path.stat().st_mtime_ns for path in small.output.rglob("*")}


def test_more_events_only_add_files(small: SimulateConfig) -> None:
    assert {sample.path for sample in plan(small)} < {
        sample.path for sample in plan(replace(small, events=12))
    }
    assert [sample.target for sample in plan(replace(small, events=11, classes=("qcd",)))] == [
        4,
        4,
        3,
    ]
    full = [sample for sample in plan(replace(small, events=12)) if sample.up_to_date]
    assert [sample.path.name for sample in full] == [
        f"{name}_0000.root" for name in ("qcd", "ttbar", "wjets")
    ]


def test_a_longer_file_begins_with_the_events_of_the_shorter(
    small: SimulateConfig, tmp_path: Path
) -> None:
    longer = replace(small, output=tmp_path, events=5, events_per_file=5, classes=("wjets",))
    run(longer)
    short, long = events(replace(small, classes=("wjets",)), "wjets"), events(longer, "wjets")
    n = int(json.loads((small.output / "wjets" / "wjets_0000.json").read_text())["written"])
    assert len(long) > n
    assert ak.array_equal(short[:n].EFlowTrack.PT, long[:n].EFlowTrack.PT)
    uuids = [
        uproot.open(config.output / "wjets" / "wjets_0000.root").file.uuid
        for config in (small, longer)
    ]
    assert uuids[0] == uuids[1]


@pytest.mark.parametrize(
    "change",
    [{"seed": 2}, {"pileup": 5.0}, {"underlying_event": "mpi"}, {"beam_spot": "flat"}],
)
def test_other_settings_replace_every_file(
    small: SimulateConfig, change: dict[str, object]
) -> None:
    assert not any(sample.up_to_date for sample in plan(replace(small, **change)))


def test_files_of_other_settings_are_replaced_only_when_asked(small: SimulateConfig) -> None:
    before = files(small)
    with pytest.raises(
        ConfigError,
        match=r"holds qcd_0000\.root with seed 1 \(now 2\)\. Give another --output, or --overwrite",
    ):
        run(replace(small, seed=2))
    with pytest.raises(
        ConfigError,
        match=r"holds qcd_0001\.root with events 2 \(now 1\)\. .* --output, or --overwrite",
    ):
        run(replace(small, events=5))
    assert files(small) == before


def test_replaced_files_leave_nothing_next_to_the_new(
    small: SimulateConfig, tmp_path: Path
) -> None:
    for path in (small.output / "wjets").iterdir():
        (tmp_path / "wjets").mkdir(exist_ok=True)
        (tmp_path / "wjets" / path.name).write_bytes(path.read_bytes())
    mine = tmp_path / "wjets" / "wjets_0007.root"
    mine.write_bytes(b"no file of the simulation's, as it has no sidecar")
    other = replace(small, output=tmp_path, classes=("wjets",), events=2, seed=2, overwrite=True)
    run(other)
    assert sorted(path.name for path in mine.parent.iterdir()) == [
        "wjets_0000.json",
        "wjets_0000.root",
        mine.name,
    ]
    run(replace(other, overwrite=False))


def test_files_of_other_settings_next_to_the_new_are_an_error(
    small: SimulateConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    short = replace(small, output=tmp_path, classes=("wjets",), events=2)
    run(short)
    for path in (small.output / "wjets").glob("wjets_0001.*"):
        (tmp_path / "wjets" / path.name).write_bytes(path.read_bytes())
    with caplog.at_level(logging.INFO, "hepflow"):
        run(short)  # those of the same settings may stay
    assert "contains 1 file more than requested, of the same settings" in caplog.text
    sidecar = tmp_path / "wjets" / "wjets_0001.json"
    unseal(sidecar).write_text(sidecar.read_text().replace('"seed": 1,', '"seed": 3,'))
    with pytest.raises(ConfigError, match=r"holds wjets_0001\.root with seed 3 \(now 1\)"):
        run(short)


def test_quarks_matter_to_qcd_alone(small: SimulateConfig) -> None:
    stale = {
        sample.name for sample in plan(replace(small, qcd_quarks="b")) if not sample.up_to_date
    }
    assert stale == {"qcd"}


def test_files_without_their_sidecar_are_written_again_the_same(
    small: SimulateConfig, pool: Path, tmp_path: Path
) -> None:
    config = replace(small, output=tmp_path, classes=("ttbar",), events=4)
    run(config)
    made = files(config)
    assert made["ttbar/ttbar_0000.root"] == files(small)["ttbar/ttbar_0000.root"]
    next(tmp_path.rglob("*.json")).unlink()
    run(config)
    assert files(config) == made


def test_two_processes_make_the_same_bytes_as_one(small: SimulateConfig, tmp_path: Path) -> None:
    run(replace(small, output=tmp_path, jobs=2))
    assert files(replace(small, output=tmp_path)) == files(small)


@pytest.mark.parametrize("classes", [("qcd", "zjets"), ("qcd", "qcd"), ()])
def test_unknown_repeated_or_no_classes_are_refused(
    classes: tuple[str, ...], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"classes: .*each must be one of qcd, ttbar, wjets"):
        run(SimulateConfig(output=tmp_path, classes=classes))


def test_a_file_that_is_not_a_pool_is_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "pool.npz"
    for content in (b"no zip file", None):
        if content is not None:
            wrong.write_bytes(content)
        else:
            np.savez(wrong, other=np.zeros(3))
        with pytest.raises(DataError, match="not a minimum-bias pool"):
            run(SimulateConfig(input=wrong, output=tmp_path))
    with pytest.raises(DataError, match="not a minimum-bias pool"):
        run(SimulateConfig(input=tmp_path / "missing.npz", output=tmp_path))


def test_a_pool_is_made_once_and_kept_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = SimulateConfig(output=tmp_path, classes=("wjets",), events=2, pool=30, jobs=1)
    run(config)
    (kept,) = (tmp_path / "cache/hepflow/pools").iterdir()
    before = kept.stat().st_mtime_ns
    run(replace(config, events=3))
    run(replace(config, output=tmp_path / "other", seed=2))
    assert kept.stat().st_mtime_ns == before
    assert len(load(kept).events) == 30
    assert kept.parent.stat().st_mode & 0o077 == 0

    whole = kept.read_bytes()
    damaged = (bytes([whole[0] ^ 1]) + whole[1:], "wrong"), (whole[:-1000], "no checksum")
    for n_events, (content, what) in enumerate(damaged, start=4):
        kept.write_bytes(content)
        with caplog.at_level(logging.WARNING, "hepflow"):
            run(replace(config, events=n_events))
        assert f"{what}. It is generated again." in caplog.text
        assert len(load(kept).events) == 30


def test_without_a_cache_the_pool_is_next_to_the_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert place(tmp_path, "0123") == tmp_path / ".pool-0123.npz"


def test_a_pool_does_not_depend_on_the_number_of_processes() -> None:
    one, two = (make_pool(1300, 5, jobs) for jobs in (1, 2))
    for name, column in vars(one.events).items():
        assert np.array_equal(column, getattr(two.events, name)), name
    counts = np.diff(one.events.offsets)
    assert len(set(counts[:300]) ^ set(counts[1000:])) > 10  # the second Pythia has its own events


def test_particles_left_out_of_a_pool_would_have_reached_nothing() -> None:
    """Of those that may reach the detector only from one end of the beam spot, none is lost."""
    pythia = start(_MINIMUM_BIAS, 6)
    everything = EventRecord(pythia.nextBatch(150)).particles(pythia)
    lost = everything.where(~may_reach(everything.momentum, everything.vertex))
    assert 0.2 < len(lost.pdg) / len(everything.pdg) < 0.6
    for z in (-card.BEAM_SPOT_LIMIT, 0.0, card.BEAM_SPOT_LIMIT):
        reached = propagate(lost.charge, lost.momentum, lost.vertex + np.array([0.0, 0.0, z]))
        eta, phi = pt_eta_phi(reached)[1:]
        assert (tower_index(card.ECAL.towers, eta, phi) == -1).all()
        assert (tower_index(card.HCAL.towers, eta, phi) == -1).all()


def test_a_pool_holds_visible_soft_particles_only(pool: Path) -> None:
    particles = load(pool).events
    assert len(particles) == 1000
    assert not np.isin(np.abs(particles.pdg), (12, 14, 16)).any()
    assert set(particles.charge.tolist()) == {-1, 0, 1}
    central = (
        np.abs(np.arcsinh(particles.momentum[:, 2] / np.hypot(*particles.momentum[:, :2].T))) < 2.5
    )
    # ALICE and CMS measure 5-6 charged particles per unit of eta in inelastic events at 13 TeV
    assert (central & (particles.charge != 0)).sum() / 1000 / 5 == pytest.approx(5.5, abs=1.0)


# medians of 1,600 to 2,000 triggered events per class, and their mean number of jets above 15 GeV,
# in files of Delphes with its CMS Phase-II card at 20 pile-up
REFERENCE = {
    "qcd": {
        "tracks": 248,
        "photons": 61,
        "neutrals": 116,
        "HT": 40.8,
        "MET": 21.8,
        "MT": 24.5,
        "nJets": 1,
        "nBJets": 1,
        "LepPt": 27.7,
        "jets15": 2.32,
    },
    "ttbar": {
        "tracks": 285,
        "photons": 79,
        "neutrals": 128,
        "HT": 242,
        "MET": 61.4,
        "MT": 68.4,
        "nJets": 4,
        "nBJets": 2,
        "LepPt": 53.1,
        "jets15": 5.33,
    },
    "wjets": {
        "tracks": 250,
        "photons": 59,
        "neutrals": 117,
        "HT": 35.2,
        "MET": 39.1,
        "MT": 68.5,
        "nJets": 1,
        "nBJets": 0,
        "LepPt": 35.2,
        "jets15": 1.49,
    },
}
# allowed deviation: relative, including the statistics of 200 events; counts to the unit
BANDS = {
    "tracks": 0.15,
    "photons": 0.15,
    "neutrals": 0.15,
    "jets15": 0.12,
    "HT": 0.2,
    "MET": 0.2,
    "MT": 0.2,
    "LepPt": 0.15,
    "nJets": 0,
    "nBJets": 0,
}
# absolute deviation: HT and MT begin at 0, and wjets' jets have a mean of 0.8 at a median of 0
SLACK = {"HT": 5.0, "MT": 5.0, "nJets": 1.0}


@pytest.fixture(scope="module")
def sample(pool: Path, tmp_path_factory: pytest.TempPathFactory) -> SimulateConfig:
    output = tmp_path_factory.mktemp("physics")
    config = SimulateConfig(input=pool, output=output, events=200, events_per_file=200)
    run(config)
    return config


@pytest.mark.parametrize("name", CLASSES)
def test_medians_are_those_of_the_reference(sample: SimulateConfig, name: str) -> None:
    everything = events(sample, name)
    selected = everything[passes(everything)]
    hlf = compute_features(everything).hlf
    medians = {feature.name: float(np.median(hlf[:, i])) for i, feature in enumerate(HLF)}
    for key, collection in (
        ("tracks", "EFlowTrack"),
        ("photons", "EFlowPhoton"),
        ("neutrals", "EFlowNeutralHadron"),
    ):
        medians[key] = float(np.median(ak.num(selected[collection])))
    medians["jets15"] = float(ak.mean(ak.num(selected.Jet)))
    for key, expected in REFERENCE[name].items():
        assert medians[key] == pytest.approx(expected, rel=BANDS[key], abs=SLACK.get(key, 0.0)), key


@pytest.mark.parametrize("name", CLASSES)
def test_features_have_the_distributions_of_delphes(
    sample: SimulateConfig, shared: Path, name: str
) -> None:
    """By a Kolmogorov-Smirnov test at a level of 1e-4 for each of the 14."""
    paths = sorted((shared / "delphes/phase2_20pu" / name).glob("*.root"))
    if not paths:
        pytest.skip(f"no files of Delphes in {shared}")
    theirs = compute_features(ak.concatenate([from_root(path) for path in paths])).hlf
    ours = compute_features(events(sample, name)).hlf
    assert len(ours) == 200
    assert len(theirs) > 100
    limit = np.sqrt(-np.log(0.5e-4) / 2 * (1 / len(ours) + 1 / len(theirs)))
    for feature, a, b in zip(HLF, ours.T, theirs.T, strict=True):
        places = np.concatenate([a, b])
        shares = [
            np.searchsorted(np.sort(values), places, "right") / len(values) for values in (a, b)
        ]
        assert np.abs(shares[0] - shares[1]).max() < limit, feature.name


def test_b_jets_are_in_the_classes_with_b_quarks(sample: SimulateConfig) -> None:
    column = [feature.name for feature in HLF].index("nBJets")
    means = {
        name: float(compute_features(events(sample, name)).hlf[:, column].mean())
        for name in CLASSES
    }
    assert means["ttbar"] == pytest.approx(1.75, abs=0.35)
    assert means["qcd"] == pytest.approx(0.95, abs=0.3)
    assert means["wjets"] == pytest.approx(0.1, abs=0.1)


def test_classes_separate_by_isolation_and_missing_energy(sample: SimulateConfig) -> None:
    names = [feature.name for feature in HLF]
    hlf = {name: compute_features(events(sample, name)).hlf for name in CLASSES}
    iso = {name: np.median(values[:, names.index("LepIsoCh")]) for name, values in hlf.items()}
    assert iso["qcd"] > 1.5 * max(iso["ttbar"], iso["wjets"])
    electrons = [values[:, names.index("LepIsEle")].mean() for values in hlf.values()]
    assert electrons == pytest.approx([0.5] * 3, abs=0.15)
    charges = [values[:, names.index("LepCharge")].mean() for values in hlf.values()]
    assert charges == pytest.approx([0.0, 0.0, 0.15], abs=0.3)  # W+ outnumber W- in pp


def test_cross_sections_are_leading_order_ones(sample: SimulateConfig) -> None:
    """In pb, within a factor: W -> l nu 6e4 before cuts, t tbar 500; QCD 1.3e4 selected."""
    sections = {
        name: json.loads((sample.output / name / f"{name}_0000.json").read_text())[
            "cross_section_pb"
        ]
        for name in CLASSES
    }
    assert 80 < sections["ttbar"]["selected"] < 250
    assert 8e3 < sections["wjets"]["selected"] < 3e4
    assert 3e3 < sections["qcd"]["selected"] < 1.5e4


def test_no_process_survives_the_kill_of_a_run(tmp_path: Path) -> None:
    options = ("--output", str(tmp_path / "raw"), "--events=5000", "--pool=2000", "--jobs=2")
    with subprocess.Popen(
        started("simulate", *options), stderr=subprocess.DEVNULL, env=environment()
    ) as running:
        of_run = psutil.Process(running.pid)
        while len(workers := of_run.children()) < 2:
            assert running.poll() is None
            time.sleep(0.1)
        running.kill()
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive
