"""Death at any change of the file system loses and doubles nothing, for every writer."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from hepflow.config.score import ScoreConfig
from hepflow.data.blocks import StoreSpec
from hepflow.data.events import open_events
from hepflow.data.ledger import Ledger
from hepflow.data.store import EventStore
from hepflow.data.store_writer import StoreWriter
from hepflow.errors import DataError
from hepflow.schema import HLF, PARTICLE
from hepflow.score.tables import read_scores
from hepflow.system.files import read_json, write_json
from hepflow.train.record import read_table
from tests.support.faults import deaths
from tests.support.root_files import write_delphes
from tests.support.small_stages import (
    Stage,
    contents,
    evaluate_stage,
    import_stage,
    simulate_stage,
)
from tests.support.toy_store import toy_block, toy_store
from tests.support.toy_trigger import all_ids, ingest, score_here, untrained, write_raw
from tests.support.trainings import assert_same, fit, weights

pytestmark = [pytest.mark.slow, pytest.mark.once]


def survive(
    work: Callable[[Path], object],
    place: Path,
    at_least: int,
    after_death: Callable[[Path], object] = lambda _: None,
) -> None:
    """Let the work die at each of its changes; done again, it leaves what it leaves undisturbed.

    Parameters
    ----------
    at_least : int
        Changes that are known: with fewer, the hook does not see what it should.
    after_death : callable
        What must hold in a folder before the work is done again.
    """
    calm = place / "calm"
    calm.mkdir(parents=True)
    work(calm)
    expected, n_deaths = contents(calm), 0
    for folder in deaths(work, place):
        after_death(folder)
        work(folder)
        assert contents(folder) == expected, f"after a death at change {n_deaths}"
        n_deaths += 1
    assert n_deaths >= at_least


def test_a_json_file(tmp_path: Path) -> None:
    def work(folder: Path) -> None:
        for draft in folder.glob(".*.part"):  # as every owner of a folder does at its start
            draft.unlink()
        for n in (1, 2):
            write_json(folder / "a.json", {"n": n})

    def check(folder: Path) -> None:
        assert not (folder / "a.json").exists() or read_json(folder / "a.json")["n"] in {1, 2}

    survive(work, tmp_path, 4, check)


def test_a_dataset_to_which_files_are_added_and_of_which_one_changes(tmp_path: Path) -> None:
    """Ingest's tasks and its commit: readers see the dataset before or after, at any moment."""
    first, then = tmp_path / "first", tmp_path / "then"
    for seed, name in enumerate(("qcd/a", "ttbar/b"), 1):
        write_delphes(first / f"{name}.root", [20], seed=seed)
    shutil.copytree(first, then)
    write_delphes(then / "ttbar/b.root", [25], seed=7)
    write_delphes(then / "qcd/c.root", [30], seed=8)
    classes = ("qcd", "ttbar")
    before, after = (tmp_path / name / "events" for name in ("before", "after"))
    for raw, output in ((first, before), (then, after)):
        ingest(raw, output, classes)
    allowed = [sorted(ids_of(folder)) for folder in (before, after)]

    def work(folder: Path) -> None:
        if not (folder / "events").exists():
            shutil.copytree(before, folder / "start")
            (folder / "start").rename(folder / "events")
        ingest(then, folder / "events", classes)

    def check(folder: Path) -> None:
        shutil.rmtree(folder / "start", ignore_errors=True)
        if (folder / "events").exists():
            assert sorted(ids_of(folder / "events")) in allowed

    survive(work, tmp_path / "work", 30, check)
    assert sorted(ids_of(tmp_path / "work" / "calm" / "events")) == allowed[1]


def ids_of(dataset: Path) -> list[int]:
    fragments = open_events(dataset).fragments
    names = {fragment.path for fragment in fragments}
    tables = [pq.read_table(name, columns=["event_id"]) for name in sorted(names)]
    return [i for table in tables for i in table["event_id"].to_pylist()]


def test_a_store(tmp_path: Path) -> None:
    """Features' parts: a store that opens is whole, and another attempt gives the same bytes."""
    spec = StoreSpec(("qcd",), HLF, PARTICLE, "corrected", "events")
    rng = np.random.default_rng(1)
    names = [feature.name for feature in PARTICLE]
    blocks = {
        number: {("train", "qcd"): toy_block(rng, 4, 0, len(HLF), names, 2, 10 * number)}
        for number in range(2)
    }

    def work(folder: Path) -> None:
        store = StoreWriter.create(folder / "s.zarr", spec, keep=True)
        for number in blocks.keys() - store.sources().keys():
            store.write_part(number, blocks[number], Ledger(n_in=4, n_out=4))
        store.finalise()

    def check(folder: Path) -> None:
        try:
            store = EventStore.open(folder / "s.zarr")
        except DataError:
            return
        assert [len(block) for block in store.blocks("train")] == [4, 4]

    survive(work, tmp_path, 90, check)


def test_scores(tmp_path: Path) -> None:
    """Score's ranges: a reader meets each event once at most, and in the end exactly once."""
    raw = tmp_path / "raw"
    template = write_raw(raw / "a.root", [30, 20], seed=1)
    write_raw(raw / "b.root", [25], seed=2)
    model = untrained(tmp_path / "model", template)

    def work(folder: Path) -> None:
        config = ScoreConfig(input=raw, model=model, output=folder / "scores")
        score_here(config)

    def check(folder: Path) -> None:
        if list(folder.glob("scores/*.parquet")):
            ids = read_scores(folder / "scores")["event_id"].to_pylist()
            assert len(ids) == len(set(ids))

    survive(work, tmp_path / "work", 20, check)
    scored = read_scores(tmp_path / "work" / "calm" / "scores")["event_id"].to_pylist()
    assert sorted(scored) == all_ids(raw)


STAGES = [
    pytest.param(import_stage, 60, id="import-cern"),
    pytest.param(
        partial(evaluate_stage, update=False), 60, marks=pytest.mark.system, id="evaluate"
    ),
    pytest.param(
        partial(simulate_stage, pool=None),
        8,
        marks=[pytest.mark.system, pytest.mark.pythia],
        id="simulate",
    ),
]


@pytest.mark.parametrize(("make", "at_least"), STAGES)
def test_a_stage_of_one_process(
    tmp_path: Path, make: Callable[[Path], Stage], at_least: int
) -> None:
    stage = make(tmp_path / "in")
    survive(stage.run, tmp_path / "work", at_least, stage.seen)


@pytest.mark.parametrize(
    "step", [pytest.param(9, id="some"), pytest.param(1, marks=pytest.mark.system, id="every")]
)
def test_a_run_folder(tmp_path: Path, step: int) -> None:
    """A training resumes to the weights, the history and the predictions of an undisturbed one."""
    store = toy_store(tmp_path / "toy.zarr", events=40, mean_particles=1)

    def work(folder: Path) -> None:
        # Without TensorBoard: its thread would die alone, and the training wait for it.
        own = ("--trainer.max_epochs", "2", "--checkpoint_every_steps", "4")
        fit(store, folder / "run", *own, "--trainer.logger", "false")

    calm = tmp_path / "work" / "calm"
    work(calm)
    n_deaths = 0
    for folder in deaths(work, tmp_path / "work", step):
        work(folder)
        assert_same(weights(folder / "run"), weights(calm / "run"))
        one, two = (read_json(each / "run" / "run.json") for each in (calm, folder))
        for key in ("events_trained", "epochs", "finished", "test"):
            assert one[key] == two[key], key
        rows = [read_table(each / "run" / "metrics.csv") for each in (calm, folder)]
        assert [row["val_loss"] for row in rows[0]] == [row["val_loss"] for row in rows[1]]
        for name in ("predictions.parquet", "model.onnx"):
            assert (folder / "run" / name).read_bytes() == (calm / "run" / name).read_bytes()
        n_deaths += 1
    assert n_deaths >= 50 // step
