"""A flipped bit in a file between stages is noticed where it is read, or has no effect.

Every kind of file, single bits at random places, one at a time: nothing is read wrongly, nothing
ends in a traceback, and no wrong length takes memory.
"""

import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import optuna
import pytest
import torch
import yaml

from hepflow.config.score import ScoreConfig
from hepflow.config.stages import EvaluateConfig
from hepflow.data.blocks import StoreSpec
from hepflow.data.catalog import CATALOG
from hepflow.data.events import open_events, read_fragment
from hepflow.data.ledger import Ledger
from hepflow.data.output import MARKER, read_marker
from hepflow.data.predictions import read_predictions
from hepflow.data.records import merge_records as merge_parts
from hepflow.data.records import read_plan, read_records, write_plan
from hepflow.data.staging import RECORD, staged
from hepflow.data.store import EventStore
from hepflow.data.store_writer import StoreWriter
from hepflow.data.task_records import read_records as read_task_records
from hepflow.errors import DataError, HepflowError
from hepflow.evaluate.job import run as evaluate
from hepflow.evaluate.runs import read_run
from hepflow.ingest import dataset
from hepflow.ingest.task import Settings, run_task
from hepflow.models.export import read_checkpoint
from hepflow.models.onnx_net import OnnxNet
from hepflow.reading.listing import assign, list_files
from hepflow.reading.ranges import plan
from hepflow.reading.reader import Access
from hepflow.schema import CLASSES, HLF, PARTICLE
from hepflow.score.folder import ScoreFolder
from hepflow.score.inputs import ranges_of, reader_of
from hepflow.score.record import ScoreRecord
from hepflow.score.tables import read_scores
from hepflow.score.task import prepare, score_task
from hepflow.score.working_points import resolve
from hepflow.simulate.decays import Library
from hepflow.simulate.particles import Particles
from hepflow.simulate.pool import Pool, load, save
from hepflow.system.files import read_json, write_json
from hepflow.system.processes import peak_bytes
from hepflow.train.callbacks import WholeCheckpoints
from hepflow.train.folder import RunPlan
from hepflow.train.tune.journal import JOURNAL, CheckedJournal, local_journal
from tests.support.toy_store import toy_store
from tests.support.toy_trigger import write_raw
from tests.support.trainings import fit

pytestmark = pytest.mark.slow

FLIPS = 60
MOST_BYTES = 300 << 20
"""Memory that all readings together may take in addition."""


@dataclass(frozen=True)
class Kind:
    """A file, and a reader of it as in the stage that reads it."""

    path: Path
    read: Callable[[], Any]


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kind]:
    folder = tmp_path_factory.mktemp("flips")
    return {
        **_of_events(folder),
        **_of_stores(folder),
        **_of_runs(folder),
        **_of_scores(folder),
        **_of_searches(folder),
        **_of_simulation(folder),
    }


def _of_events(folder: Path) -> dict[str, Kind]:
    raw, events = folder / "raw", folder / "events"
    for number, name in enumerate(CLASSES):
        write_raw(raw / name / f"{number}.root", [20], seed=number)
    ranges = plan(assign(list_files(raw), {name: (name,) for name in CLASSES}, raw), 1 << 30)
    settings = Settings(events, CLASSES, Access())
    dataset.prepare(events)
    records = [run_task((one,), settings) for one in ranges]
    single = Path(shutil.copytree(events, folder / "running"))
    dataset.commit(records, ranges, settings)

    def read() -> Any:
        fragments = open_events(events).fragments
        return [buffers(read_fragment(fragment)) for fragment in fragments]

    def scored() -> Any:
        chunks = []
        for entries in ranges_of(events, Access(), 1 << 30):
            reader = reader_of(entries, Access())
            for chunk in reader.chunks():
                if chunk.events is None:  # they are counted as lost
                    raise DataError(f"{entries.file.name}: {chunk.reason}. See the ledger.")
                chunks.append(buffers(chunk.events))
            if reader.unreadable:
                raise DataError(f"{entries.file.name}: {reader.unreadable}. See the ledger.")
        return chunks

    def finished(output: Path) -> Callable[[], Any]:
        own = Settings(output, CLASSES, Access())
        return lambda: dataset.finished(ranges, own, retry_quarantined=False)

    fragment = next(events.glob("*/*.parquet"))
    return {
        "events: fragment": Kind(fragment, read),
        "events: fragment, scored": Kind(fragment, scored),
        f"events: {MARKER}": Kind(events / MARKER, lambda: read_marker(events)),
        f"events: {CATALOG}": Kind(events / CATALOG, read),
        "events: record": Kind(next(single.glob("_records/*.json")), finished(single)),
        "events: merged records": Kind(events / "_records" / "finished.jsonl", finished(events)),
    }


def _of_stores(folder: Path) -> dict[str, Kind]:
    path = toy_store(folder / "toy.zarr", events=20).path
    begun = StoreWriter.create(folder / "begun.zarr", StoreSpec(CLASSES, HLF, PARTICLE, "d", "p"))
    begun.write_part(0, {}, Ledger(), {"a": "1"})
    write_plan(begun.path, {1: {"b": "2"}})
    merged = StoreWriter.create(folder / "merged.zarr", begun.spec)
    merge_parts(merged.path, read_records(begun.path))

    def read() -> Any:
        store = EventStore.open(path)
        blocks = [block for split in ("train", "val", "test") for block in store.blocks(split)]
        columns = ("hlf", "particles", "offsets", "label", "event_id")
        content = [[getattr(block, name).tobytes() for name in columns] for block in blocks]
        return content, store.attributes

    def copied() -> Any:
        return staged(EventStore.open(path), folder / "disk").summary()

    copied()
    arrays = ("hlf", "particles", "offsets", "label", "event_id", "ranges")
    shards = {f"store: {name}": Kind(next((path / name).glob("c.*")), read) for name in arrays}
    parts = begun.path / "_parts"
    return {
        **shards,
        "store: zarr.json": Kind(path / "zarr.json", read),
        "store: record of a part": Kind(parts / "000000.json", lambda: read_records(begun.path)),
        "store: plan": Kind(parts / "plan.json", lambda: read_plan(begun.path)),
        "store: records of all parts": Kind(
            merged.path / "_parts" / "finished.json", lambda: read_records(merged.path)
        ),
        "store: list of a copy": Kind(next((folder / "disk").glob(f"*/*/{RECORD}")), copied),
    }


def _of_runs(folder: Path) -> dict[str, Kind]:
    run, alone = folder / "runs" / "hlf", folder / "alone.onnx"
    fit(EventStore.open(folder / "toy.zarr"), run, "--data.workers", "0")
    shutil.copyfile(run / "model.onnx", alone)
    report = folder / "report"
    evaluate(EvaluateConfig(input=run.parent, output=report, targets=(0.5,), bootstrap=2))
    net, options = OnnxNet(run / "model.onnx"), yaml.safe_load((run / "config.yaml").read_text())
    features = {"hlf": np.ones((3, len(HLF)), np.float32)}
    best, last = (run / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))

    def predictions() -> Any:
        found = read_predictions(run / "predictions.parquet")
        arrays = [found.event_id, found.label, found.logits]
        return [x.tobytes() for x in arrays], found.classes, found.model, found.provenance

    def model() -> Any:
        found = OnnxNet(alone)
        return found.inputs, found.reads, found.weights, found.logits(features).tobytes()

    def compared() -> Any:
        found = read_run(run, "hlf", "")
        return found.about, found.history

    def replaced() -> Any:
        return RunPlan(run, options, "of other events", "", overwrite=False).check_replaceable()

    def resumed() -> Any:
        return tensors(WholeCheckpoints().load_checkpoint(last, weights_only=True))

    return {
        "run: run.json": Kind(run / "run.json", compared),
        "run: metrics.csv": Kind(run / "metrics.csv", compared),
        "run: config.yaml": Kind(run / "config.yaml", replaced),
        "run: predictions.parquet": Kind(run / "predictions.parquet", predictions),
        "run: best.ckpt": Kind(best, lambda: tensors(read_checkpoint(best))),
        "run: last.ckpt": Kind(last, resumed),
        "run: model.onnx, copied": Kind(alone, model),
        "report: metrics.json": Kind(
            report / "metrics.json", lambda: resolve("ttbar@0.5", report, net)
        ),
    }


def _of_scores(folder: Path) -> dict[str, Kind]:
    raw, output, model = folder / "raw", folder / "scores", folder / "runs" / "hlf" / "model.onnx"
    config = ScoreConfig(
        input=raw,
        model=model,
        output=output,
        report=folder / "report",
        working_point="ttbar@0.5",
        store=folder / "toy.zarr",
    )
    _, task, about = prepare(config)
    scores = ScoreFolder(output, about)
    task = type(task)(**{**vars(task), "run": scores.run})
    pending = scores.pending(ranges_of(raw, task.access, 1 << 30))
    records = [score_task([one], task) for one in pending]
    running = Path(shutil.copytree(output, folder / "scoring"))
    for record in records:
        scores.add(record)
    scores.finish(complete=True)

    def read(output: Path) -> Callable[[], Any]:
        return lambda: list(read_task_records(output, ScoreRecord.from_dict))

    return {
        "scores: table": Kind(
            next(output.glob("*.parquet")), lambda: read_scores(output).to_pydict()
        ),
        "scores: record": Kind(next(running.glob("_records/*.json")), read(running)),
        "scores: merged records": Kind(output / "_records" / "finished.jsonl", read(output)),
        f"scores: {MARKER}": Kind(output / MARKER, lambda: read_marker(output)),
    }


def _of_searches(folder: Path) -> dict[str, Kind]:
    journal = folder / "search" / JOURNAL
    journal.parent.mkdir()

    def storage() -> optuna.storages.JournalStorage:
        return optuna.storages.JournalStorage(CheckedJournal(str(journal)))

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(storage=storage(), study_name="s")
    study.set_user_attr("settings", {"seed": "1"})
    for _ in range(4):
        trial = study.ask()
        trial.suggest_float("lr", 1e-4, 1e-2, log=True)
        trial.report(0.7, 0)
        study.tell(trial, 0.5)

    def read() -> Any:
        local_journal(Search(output=journal.parent), None)  # type: ignore[arg-type]
        found = optuna.load_study(study_name="s", storage=storage())
        return [(one.params, one.values, one.state) for one in found.trials], found.user_attrs

    return {"search: study.journal": Kind(journal, read)}


@dataclass
class Search:
    output: Path


def _of_simulation(folder: Path) -> dict[str, Kind]:
    rng, n = np.random.default_rng(1), 40
    events = Particles(
        np.array([0, n]),
        rng.integers(-321, 321, n, np.int32),
        rng.integers(-1, 2, n, np.int8),
        rng.normal(size=(n, 4)),
        rng.normal(size=(n, 3)),
    )
    columns = {name: rng.integers(0, 9, n) for name in Library._fields}
    pool, about = folder / "pool.npz", folder / "qcd_0000.json"
    save(pool, Pool("identity", events, Library(**columns)))
    write_json(about, {"settings": {"class": "qcd", "index": 0}, "selected": 3, "written": 9})

    def read() -> Any:
        found = load(pool)
        arrays = [*vars(found.events).values(), *found.decays]
        return found.identity, [array.tobytes() for array in arrays]

    return {
        "simulation: pool": Kind(pool, read),
        "simulation: sidecar": Kind(about, lambda: read_json(about)),
    }


def buffers(events: ak.Array) -> Any:
    form, length, content = ak.to_buffers(ak.to_packed(events))
    return form.to_json(), length, {name: part.tobytes() for name, part in content.items()}


def tensors(checkpoint: dict[str, Any]) -> Any:
    weights = {name: w.numpy().tobytes() for name, w in checkpoint["state_dict"].items()}
    torch.set_printoptions(threshold=1 << 20, precision=9)
    return weights, repr(checkpoint["hepflow"]), repr(checkpoint["optimizer_states"])


def flips(path: Path, seed: int) -> Iterator[bytes]:
    """Yield the content with one bit flipped, at random places."""
    content, rng = path.read_bytes(), np.random.default_rng(seed)
    for place, bit in zip(
        rng.integers(0, len(content), FLIPS).tolist(),
        rng.integers(0, 8, FLIPS).tolist(),
        strict=True,
    ):
        flipped = bytearray(content)
        flipped[place] ^= 1 << bit
        yield bytes(flipped)


def fate(kind: Kind, sound: Any, caplog: pytest.LogCaptureFixture) -> str:
    try:
        same = kind.read() == sound
    except HepflowError as error:
        one_line = "\n" not in str(error) and ". " in str(error)
        return "noticed" if one_line else "without advice"
    if any(record.levelno == logging.WARNING for record in caplog.records):
        return "noticed"
    return "no effect" if same else "missed"


def test_a_flipped_bit_is_noticed_or_has_no_effect(
    kinds: dict[str, Kind], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    before = peak_bytes()
    found: dict[str, Counter[str]] = {}
    for seed, (name, kind) in enumerate(kinds.items()):
        content, times = kind.path.read_bytes(), kind.path.stat()
        sound = kind.read()
        fates = found[name] = Counter[str]()
        for flipped in flips(kind.path, seed):
            caplog.clear()
            kind.path.write_bytes(flipped)
            fates[fate(kind, sound, caplog)] += 1
        kind.path.write_bytes(content)
        assert kind.read() == sound, name
        assert times.st_size == kind.path.stat().st_size
    table = "\n".join(f"{name}: {dict(fates)}" for name, fates in found.items())
    print(f"\n{table}")
    good = [fates["noticed"] + fates["no effect"] for fates in found.values()]
    assert good == [FLIPS] * len(kinds), table
    assert peak_bytes() - before < MOST_BYTES
