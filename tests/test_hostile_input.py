"""Mutated files are read, refused in one line or counted as lost; nothing else happens.

`make test` tries 300 inputs, and `make fuzz` 20,000 (``HEPFLOW_FUZZ``), always the same ones. An
input that was a fault is made again by its reader and number. Kinds of faults that were found and
fixed have tests of their own below, and in `test_outside_files.py`.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from hepflow.config.score import ScoreConfig
from hepflow.data.events import open_events
from hepflow.score.folder import ScoreFolder
from hepflow.score.inputs import ranges_of
from hepflow.score.kafka.messages import SCHEMA, encode, example
from hepflow.score.task import prepare, score_task
from tests.support.delphes_events import write_dataset
from tests.support.hostile import FAULTS, READERS, Answer, fates, summary
from tests.support.root_files import corrupt_basket, write_delphes
from tests.support.toy_store import toy_store
from tests.support.toy_trigger import ingest, untrained, write_raw
from tests.support.trainings import fit

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]
INPUTS = int(os.environ.get("HEPFLOW_FUZZ", "300"))
SHARES = {"root": 9, "events": 4, "message": 5, "model": 3, "configuration": 3, "checkpoint": 3}
SHARES |= {"json": 3}
ROOT = Path(__file__).parents[1]
LARGEST = 300_000  # bytes of a real ROOT file that is mutated: the smaller, the more inputs


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per reader, with the files that are mutated."""
    top = tmp_path_factory.mktemp("good")
    _make_root_files(top / "root")
    raw = top / "raw"
    template = write_raw(raw / "qcd" / "a.root", [20, 15], seed=1)
    corrupt_basket(write_raw(raw / "qcd" / "b.root", [12, 8], seed=2))
    write_raw(raw / "ttbar" / "c.root", [10], seed=3)
    write_dataset(top / "events" / "plain", 1, 30, row_group_size=10)  # without checksums of pages
    ingest(raw, top / "events" / "own", ("qcd", "ttbar"))
    (top / "events" / "own" / "_fragments.json").unlink()  # or each change is seen at once
    (top / "message").mkdir()
    for number, fragment in enumerate(open_events(top / "events" / "own").fragments):
        table = pq.read_table(fragment.path, columns=SCHEMA.names).cast(SCHEMA)
        (top / "message" / str(number)).write_bytes(encode(table.slice(0, 4)))
    (top / "message" / "example").write_bytes(example())
    model = untrained(top / "model", template)
    store = toy_store(top / "toy.zarr", events=6, mean_particles=2)
    fit(store, top / "run", "--trainer.max_epochs", "1", "--trainer.logger", "false")
    shutil.rmtree(top / "model" / "toy.zarr")
    shutil.copy(top / "run" / "model.onnx", top / "model" / "trained.onnx")
    (top / "configuration").mkdir()
    for name in ("ingest", "features", "score", "evaluate", "simulate"):
        shutil.copy(ROOT / "configs" / f"{name}.yaml", top / "configuration")
    (top / "checkpoint").mkdir()
    shutil.copy(top / "run" / "checkpoints" / "best.ckpt", top / "checkpoint" / "lightning.ckpt")
    content = torch.load(top / "checkpoint" / "lightning.ckpt", weights_only=True)
    kept = {name: content[name] for name in ("hepflow", "state_dict")}
    torch.save(kept, top / "checkpoint" / "small.ckpt")
    ingest(raw, top / "json" / "events", ("qcd", "ttbar"))
    shutil.copytree(store.path, top / "json" / "store")
    (top / "json" / "run").mkdir()
    for name in ("run.json", "predictions.parquet"):
        shutil.copy(top / "run" / name, top / "json" / "run")
    config = ScoreConfig(input=raw, model=model, output=top / "json" / "scores")
    _, task, about = prepare(config)
    scores = ScoreFolder(task.output, about)
    task = replace(task, run=scores.run)
    for entries in scores.pending(ranges_of(raw, task.access, 1 << 30)):
        scores.add(score_task((entries,), task))
    scores.finish(complete=True)
    return top


def _make_root_files(folder: Path) -> None:
    folder.mkdir()
    write_delphes(folder / "written.root", [10, 8], 1)
    corrupt_basket(write_delphes(folder / "corrupt.root", [10, 8], 2))
    real = [*(ROOT / "tests" / "support" / "files").glob("*.root")]
    shared = Path(os.environ.get("HEPFLOW_SHARED", ROOT.parent / "shared"))
    real += [
        path for name in ("real", "sample", "delphes") for path in shared.glob(f"{name}/**/*.root")
    ]
    for path in real:
        if path.stat().st_size <= LARGEST:
            shutil.copy(path, folder / path.name)


@pytest.mark.parametrize("reader", READERS)
def test_mutated_files_are_read_or_refused(
    reader: str, good: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    n = INPUTS * SHARES[reader] // sum(SHARES.values())
    answers = list(fates(reader, good / reader, range(n), tmp_path))
    assert [answer.number for answer in answers] == list(range(n))
    record_property("fates", summary(answers))
    print(f"{reader}: {summary(answers)}")
    kinds = {answer.kind for answer in answers}
    assert "read" in kinds, "the mutations are too harsh"
    assert kinds & {"refused", "lost"}, "they are too mild"
    faults = [answer for answer in answers if answer.kind in FAULTS]
    assert not faults, _in_words(reader, faults)


def _in_words(reader: str, faults: list[Answer]) -> str:
    shown = "\n".join(f"{reader} {one.number}: {one.kind}: {one.text}" for one in faults[:10])
    return f"{len(faults)} faults, the first of them:\n{shown}"
