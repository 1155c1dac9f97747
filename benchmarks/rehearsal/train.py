"""Training and evaluation on stores of up to 50 million events, of three particles each."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hepflow.data.blocks import EventBlock, StoreSpec
from hepflow.data.layout import MOST_EVENTS
from hepflow.data.ledger import Ledger
from hepflow.data.predictions import Predictions, write_predictions
from hepflow.data.store import EventStore
from hepflow.data.store_writer import StoreWriter
from hepflow.schema import CLASSES, HLF, PARTICLE, SPLITS
from rehearsal.callbacks import PLACE, FirstBatch
from rehearsal.measure import Step, run

NETS = ("hlf", "inclusive")
SHARES = dict(zip(SPLITS, (0.7, 0.1, 0.2), strict=True))
_EVENTS_PER_FILE = 500
_ROUNDS = 4
"""Rounds of a part: each has ranges of its own."""
_PARTICLES = 3


def rehearse(scratch: Path, n_files: Sequence[int]) -> tuple[list[Step], dict[str, float]]:
    """Start trainings on the events of so many files, and evaluate predictions of these."""
    steps, found = [], {}
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    for n in (_EVENTS_PER_FILE * files for files in n_files):
        store = scratch / f"{n}.zarr"
        if not store.exists():
            write(store, n)
        first, report = {}, scratch / f"{n}-report"
        for old in (report, *(store.with_name(f"{n}-{net}") for net in NETS)):
            shutil.rmtree(old, ignore_errors=True)
        for net in NETS:
            os.environ[PLACE] = str(scratch / f"{net}.json")
            steps.append(run(f"{net}, two batches", n, _two_batches(store, net)))
            first[net] = json.loads(Path(os.environ[PLACE]).read_text())
            own, held = first[net], {"driver": first[net]["gb"]}
            steps.append(Step(f"{net}, first batch", n, own["seconds"], held, cpu_s=own["cpu_s"]))
        predict(store, scratch / f"{n}-runs")
        compared = ["evaluate", f"--input={scratch / f'{n}-runs'}", f"--output={report}"]
        steps.append(run("evaluate", n, [*compared, f"--store={store}"], report))
        found = {
            "train_start_s": max(one["seconds"] for one in first.values()),
            "train_start_cpu_s": max(one["cpu_s"] for one in first.values()),
            "train_gb_per_rank": max(one["gb"] for one in first.values()),
            "evaluate_gb": steps[-1].gb["driver"],
        }
    return steps, found


def _two_batches(store: Path, net: str) -> list[str]:
    """Return the arguments of a training that ends after two batches of each split."""
    own = {f"limit_{split}_batches": 2 for split in SPLITS} | {"max_epochs": 1}
    own["callbacks+"] = f"{FirstBatch.__module__}.{FirstBatch.__name__}"
    trainer = [f"--trainer.{name}={value}" for name, value in own.items()]
    places = [f"--data.store={store}", f"--output={store.with_suffix('')}-{net}"]
    return ["train", "fit", f"--config=configs/train/{net}.yaml", *places, "--overwrite", *trainer]


def write(path: Path, n: int) -> None:
    """Write a store of ``n`` random events, in parts as large as a part may be."""
    rng = np.random.default_rng(1)
    spec = StoreSpec(CLASSES, HLF, PARTICLE, "corrected", f"rehearsal of {n}", SHARES)
    store = StoreWriter.create(path, spec)
    for number, first in enumerate(range(0, n, MOST_EVENTS)):
        ids = np.arange(first, min(first + MOST_EVENTS, n))
        with store.part_writer(number) as part:
            for own in np.array_split(ids, _ROUNDS):
                part.add(_blocks(own, rng))
            part.finish(Ledger(len(ids), len(ids)), {f"part-{number}": f"{number:016x}"})
    store.refresh()
    store.finalise()


def predict(path: Path, runs: Path) -> None:
    """Write the predictions that two nets could make of the test split of a store."""
    store = EventStore.open(path)
    _, label, ids = store.high_level("test")
    origin = {"store": store.spec.provenance, "split": "test", "definitions": "corrected"}
    for seed in range(2):
        logits = np.random.default_rng(seed).normal(0, 2, (len(ids), len(CLASSES)))
        logits[np.arange(len(ids)), label] += 6
        (runs / f"net{seed}").mkdir(parents=True, exist_ok=True)
        write_predictions(
            runs / f"net{seed}" / "predictions.parquet",
            Predictions(ids, label, logits.astype(np.float32), CLASSES, f"net{seed}", origin),
        )


def _blocks(ids: np.ndarray, rng: np.random.Generator) -> dict[tuple[str, str], EventBlock]:
    """Divide events among splits and classes."""
    places = [(split, name) for split in SPLITS for name in CLASSES]
    ends = np.cumsum([SHARES[split] / len(CLASSES) for split, _ in places]) * len(ids)
    found = {}
    for (split, name), own in zip(places, np.split(ids, ends[:-1].astype(int)), strict=True):
        n = len(own)
        found[split, name] = EventBlock(
            hlf=rng.random((n, len(HLF)), dtype=np.float32),
            particles=rng.random((n * _PARTICLES, len(PARTICLE)), dtype=np.float32),
            offsets=np.arange(n + 1) * _PARTICLES,
            label=np.full(n, CLASSES.index(name), np.int8),
            event_id=own,
        )
    return found
