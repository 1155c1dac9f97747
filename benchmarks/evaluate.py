"""Time and memory of `hepflow evaluate` on ten million predictions and their feature store.

The store has the high-level features of as many test events, and of a tenth as many training
events; `hepflow evaluate` searches every test event among those. In addition, AUCs with 200
bootstrap replicas are compared with scikit-learn's AUC in a loop over the replicas.

Usage: python benchmarks/evaluate.py [--quick] [--models 1] [--without-store]
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score
from timing import medians, timed

from hepflow.data.blocks import EventBlock, StoreSpec
from hepflow.data.identity import event_ids
from hepflow.data.ledger import Ledger
from hepflow.data.predictions import Predictions, write_predictions
from hepflow.data.store_writer import StoreWriter
from hepflow.schema import CLASSES, HLF, PARTICLE
from hepflow.statistics.metrics import auc, bootstrap, log_odds, spectrum

REPLICAS = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the events")
    parser.add_argument("--models", type=int, default=1)
    parser.add_argument("--without-store", action="store_true")
    arguments = parser.parse_args()
    n = 1_000_000 if arguments.quick else 10_000_000
    with tempfile.TemporaryDirectory() as folder:
        ids = event_ids(b"benchmark", np.arange(n))
        for model in range(arguments.models):
            write(Path(folder) / "runs" / f"model{model}", ids, model)
        command = [sys.executable, "-m", "hepflow", "evaluate", "--bootstrap", str(REPLICAS)]
        command += ["--input", f"{folder}/runs", "--output", f"{folder}/report"]
        if not arguments.without_store:
            write_store(Path(folder) / "features.zarr", ids)
            command += ["--store", f"{folder}/features.zarr"]
        seconds = timed(lambda: subprocess.run(command, check=True))
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    peak_gb, cpu_s = usage.ru_maxrss / 2**20, usage.ru_utime + usage.ru_stime
    print(
        f"{arguments.models} x {n:,} predictions: {seconds:.0f} s (limit 120), "
        f"{cpu_s:.0f} s of CPU, {peak_gb:.1f} GiB (limit 4)"
    )
    ours, theirs = rival(50_000 if arguments.quick else 200_000)
    print(
        f"AUC with {REPLICAS} bootstrap replicas: hepflow {ours:.2f} s, "
        f"scikit-learn {theirs:.1f} s: {theirs / ours:.0f} times"
    )
    measured = {"seconds": seconds, "cpu_seconds": cpu_s, "peak_gib": peak_gb, "events": n}
    print(json.dumps(measured | {"bootstrap_vs_sklearn": theirs / ours}))


def write(folder: Path, ids: np.ndarray, model: int) -> None:
    label, logits = make(len(ids), model)
    folder.mkdir(parents=True)
    origin = {"store": "benchmark", "split": "test", "definitions": "corrected"}
    write_predictions(
        folder / "predictions.parquet",
        Predictions(ids, label, logits, CLASSES, folder.name, origin),
    )


def write_store(path: Path, ids: np.ndarray) -> None:
    """Write parts of 50,000 events, without particles."""
    store = StoreWriter.create(path, StoreSpec(CLASSES, HLF, PARTICLE, "corrected", "benchmark"))
    label = make(len(ids), 0)[0]
    rng = np.random.default_rng(3)
    size = 50_000
    for number, start in enumerate(range(0, len(ids), size)):
        blocks = {}
        for own, name in enumerate(CLASSES):
            test = ids[start : start + size][label[start : start + size] == own]
            blocks["test", name] = block(test, own, rng)
            blocks["train", name] = block(
                event_ids(f"train {start}".encode(), np.arange(own, size // 10, len(CLASSES))),
                own,
                rng,
            )
        total = sum(len(one) for one in blocks.values())
        store.write_part(number, blocks, Ledger(n_in=total, n_out=total))
    store.finalise()


def block(ids: np.ndarray, label: int, rng: np.random.Generator) -> EventBlock:
    hlf = rng.exponential(60, (len(ids), len(HLF))).astype(np.float32)
    none = np.empty((0, len(PARTICLE)), dtype=np.float32)
    return EventBlock(
        hlf,
        none,
        np.zeros(len(ids) + 1, dtype=np.int64),
        np.full(len(ids), label, dtype=np.int8),
        ids,
    )


def make(n: int, model: int) -> tuple[np.ndarray, np.ndarray]:
    label = np.random.default_rng(0).integers(0, 3, size=n).astype(np.int8)
    logits = np.random.default_rng([1, model]).normal(size=(n, 3), scale=2).astype(np.float32)
    logits[np.arange(n), label] += 6 + 0.2 * model
    return label, logits


def rival(n: int) -> tuple[float, float]:
    """Return the seconds of both; scikit-learn's from fewer replicas, scaled."""
    label, logits = make(n, 0)
    rng = np.random.default_rng(2)
    given, few = log_odds(logits, [0], [1, 2]), 4

    def hepflow() -> None:
        score = log_odds(logits, [0], [1, 2])
        counts = spectrum(score, label, 3, exact_below=n)[0].coarse().counts
        bootstrap(counts, lambda c: np.array(auc(c, [0], [1, 2])), replicas=REPLICAS, rng=rng)

    def sklearn() -> None:
        for _ in range(few):
            roc_auc_score(label == 0, given, sample_weight=rng.poisson(1.0, size=n))

    contenders = {"ours": lambda: timed(hepflow), "theirs": lambda: timed(sklearn) * REPLICAS / few}
    ours, theirs = medians(contenders, repeats=3).values()
    return ours, theirs


if __name__ == "__main__":
    main()
