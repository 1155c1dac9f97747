"""After a power cut or `kill -9` at any moment of a stage, the same command ends as undisturbed.

Each change that a stage makes in its output, and each sync, is recorded by a FUSE file system. Each
folder that a death after any of them may leave (`tests.support.power_cut`) is made; a reader finds
the version before, the version after or none in it; and the command is run on it.
"""

import logging
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from distributed import LocalCluster

from hepflow.config.engines import ClusterConfig
from hepflow.evaluate.figures import AnyFigure, plots
from hepflow.system import durable
from tests.support.power_cut import Tree, crash_states, last_state, tree_of, write_tree
from tests.support.recorded_folder import Recording, recorded, why_not
from tests.support.small_stages import (
    Stage,
    evaluate_stage,
    features_stage,
    import_stage,
    ingest_stage,
    score_stage,
    simulate_stage,
    train_stage,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.once,
    pytest.mark.fuse,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(bool(why_not()), reason=str(why_not())),
]
MOST_FAILURES = 5
MEMORY = Path("/dev/shm")  # where flushing takes no time
EVERY = 20  # states, after which a long test says how far it is


@pytest.fixture(scope="module", autouse=True)
def _flushing() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:  # other tests leave it to the system
        patch.setenv(durable.SWITCH, "1")
        yield


@pytest.fixture(scope="module")
def cluster(_flushing: None) -> Iterator[ClusterConfig]:
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as running:
        yield ClusterConfig(kind="address", address=running.scheduler_address)


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)


@pytest.fixture
def many() -> Iterator[Path]:
    """Yield a folder for many small runs."""
    with tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as folder:
        yield Path(folder)


def record(stage: Stage, place: Path) -> Recording:
    """Run a stage in a folder that is recorded; what the recording says is what is there."""
    kept = stage.begin(place / "kept")
    with recorded(kept, place / "seen") as recording:
        stage.run(place / "seen")
    return recording


def failures(stage: Stage, states: Sequence[tuple[str, Tree]], place: Path) -> list[str]:
    """Return what goes wrong after each of some deaths; the first few are enough."""
    calm = stage.begin(place / "calm")
    before = stage.seen(calm)
    stage.run(calm)
    allowed, expected, found = {None, before, stage.seen(calm)}, stage.content(calm), []
    for number, (death, tree) in enumerate(states, 1):
        folder = write_tree(tree, place / "left" / f"{number:05d}")
        try:
            assert stage.seen(folder) in allowed, "a reader sees another version"
            stage.run(folder)
            content = stage.content(folder)
            differ = [n for n in content | expected if content.get(n) != expected.get(n)]
            differ = [n for n in differ if n in content or not n.startswith(CACHE)]
            assert not differ, f"other content than undisturbed: {differ}"
        except Exception as error:  # noqa: BLE001 - whatever goes wrong is a failure of that state
            found.append(f"{death}: {type(error).__name__}: {error}")
        shutil.rmtree(folder)
        if number % EVERY == 0:
            print(f"{number} of {len(states)}, {len(found)} failed", flush=True)
        if len(found) == MOST_FAILURES:
            break
    return found


def survives(
    stage: Stage,
    place: Path,
    many: Path,
    most: int | None,
    report: Callable[[str, object], None],
    *,
    drafts: bool = False,
) -> None:
    """Try what any death of a stage may leave, or ``most`` of it, evenly chosen."""
    recording = record(stage, place)
    n_deaths, left = crash_states(recording, drafts=drafts)
    n_changes = len(recording.changes) - recording.n_before
    assert tree_of(place / "kept") == last_state(recording), "the recording is not complete"
    chosen = left if most is None else left[:: -(-len(left) // most)]
    name = place.name.removeprefix("test_").rstrip("0123456789").strip("_").replace("_", " ")
    of = f"{len(left)} crash states ({n_deaths} deaths at {n_changes} changes)"
    print(f"{name}: {of}", flush=True)
    found = failures(stage, chosen, many)
    report("crash states", f"{name}: {len(chosen)} of {of} tried")
    assert not found, f"{len(chosen)} of {of}\n" + "\n".join(found)


def some(n: int) -> pytest.MarkDecorator:
    """Let `make test` try ``n`` states, and `make system` all of them."""
    every = pytest.param(None, marks=pytest.mark.system, id="every")
    few = [pytest.param(n, id="some")] if n else []
    return pytest.mark.parametrize("most", [*few, every])


CACHE = "cache/"  # what is lost there is made again when it is needed
NEW = pytest.param(False, marks=pytest.mark.system, id="new")
UPDATE = pytest.mark.parametrize("update", [NEW, pytest.param(True, id="update")])


@some(8)
@UPDATE
@pytest.mark.spark
def test_ingest(
    tmp_path: Path,
    many: Path,
    spark: Any,
    monkeypatch: pytest.MonkeyPatch,
    most: int | None,
    record_property: Any,
    update: bool,
) -> None:
    monkeypatch.setitem(spark.sparkContext.environment, durable.SWITCH, "1")  # of its workers
    survives(ingest_stage(tmp_path / "in", update=update), tmp_path, many, most, record_property)


@some(8)
@UPDATE
def test_features(
    tmp_path: Path,
    many: Path,
    cluster: ClusterConfig,
    most: int | None,
    record_property,
    update: bool,
) -> None:
    stage = features_stage(tmp_path / "in", cluster, update=update)
    survives(stage, tmp_path, many, most, record_property)


@some(3)
def test_train(tmp_path: Path, many: Path, most: int | None, record_property) -> None:
    survives(train_stage(tmp_path / "in"), tmp_path, many, most, record_property)


@pytest.fixture
def _drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the images of a figure: the same one gives the same bytes, after seconds."""
    known, images = dict[bytes, dict[str, bytes]](), plots.images

    def kept(figure: AnyFigure) -> dict[str, bytes]:
        key = pickle.dumps(figure)
        if key not in known:
            known[key] = images(figure)
        return known[key]

    monkeypatch.setattr(plots, "images", kept)


@some(0)
@UPDATE
@pytest.mark.usefixtures("_drawn_once")
def test_evaluate(
    tmp_path: Path, many: Path, most: int | None, record_property, update: bool
) -> None:
    survives(evaluate_stage(tmp_path / "in", update=update), tmp_path, many, most, record_property)


@some(8)
@UPDATE
def test_score(
    tmp_path: Path,
    many: Path,
    cluster: ClusterConfig,
    most: int | None,
    record_property,
    update: bool,
) -> None:
    stage = score_stage(tmp_path / "in", cluster, update=update)
    survives(stage, tmp_path, many, most, record_property)


@some(20)
def test_import_cern(tmp_path: Path, many: Path, most: int | None, record_property) -> None:
    survives(import_stage(tmp_path / "in"), tmp_path, many, most, record_property, drafts=True)


@some(0)
@pytest.mark.pythia
def test_simulate(
    tmp_path: Path, many: Path, most: int | None, record_property, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hepflow.simulate.pool._COMMON", 50)  # decays of a pool, which take seconds
    monkeypatch.setattr("hepflow.simulate.pool._RARE", 5)
    pytest.importorskip("pythia8mc", reason="the simulation needs hepflow[simulate]")
    survives(simulate_stage(tmp_path / "in", None), tmp_path, many, most, record_property)


ONE_KIND = [
    pytest.param(f"the syncs of {kind}", marks=pytest.mark.system) for kind in ("files", "folders")
]


@pytest.mark.parametrize("without", ["any sync", *ONE_KIND])
def test_without_syncs_a_power_cut_loses_something(
    tmp_path: Path, many: Path, without: str
) -> None:
    """The states are not harmless: without a part of the syncs, some of them cannot be repaired."""
    stage = import_stage(tmp_path / "in")
    recording = record(stage, tmp_path)
    folders = {change[1] for change in recording.changes if change[0] == "folder"} | {0}
    gone = {"any sync": lambda _: True, "the syncs of files": lambda n: n not in folders}
    leave_out = gone.get(without, lambda n: n in folders)
    before, after = recording.changes[: recording.n_before], recording.changes[recording.n_before :]
    kept = [change for change in after if change[0] != "sync" or not leave_out(change[1])]
    assert len(kept) < len(after), "the stage syncs"
    _, left = crash_states(Recording(before + kept, recording.n_before), drafts=False)
    assert failures(stage, left[::-1], many)  # the last ones first: they have the most to lose
