"""Training: the cost of the loader, and rates against stock PyTorch, padding, and one process.

All contenders run in turn on the same events, at least three times; medians. ``loader_vs_memory``
is the time of an epoch on prepared batches in memory over that of the same steps with the loader,
which reads the store from disk in each epoch. The stock rival of ``hlf_vs_stock`` is the
reference's PyTorch notebook: a DataLoader over a TensorDataset, batches of 128. hepflow runs its
whole trainer, on batches of 8192 and (``hlf_vs_stock_same_batch``) of 128.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import gru
import numpy as np
import torch
from timing import medians, timed
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from hepflow.data.blocks import EventBlock, StoreSpec
from hepflow.data.layout import MOST_EVENTS
from hepflow.data.ledger import Ledger
from hepflow.data.store import EventStore
from hepflow.data.store_writer import StoreWriter
from hepflow.models.inclusive import InclusiveNet
from hepflow.models.net import Net
from hepflow.models.sequence import SequenceNet
from hepflow.schema import CLASSES, HLF, MAX_PARTICLES, PARTICLE, SPLITS
from hepflow.system.files import read_json
from hepflow.system.terminal import MESSAGES, show, table
from hepflow.train.data import EventData
from hepflow.train.loading.batches import Batch
from hepflow.train.loading.loader import EventLoader
from hepflow.train.loading.reader import BlockReader

NETS: dict[str, type[Net]] = {"sequence": SequenceNet, "inclusive": InclusiveNet}
CONFIGS = Path(__file__).parents[1] / "configs" / "train"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="few events and three repeats, in under two minutes"
    )
    parser.add_argument(
        "--store",
        type=Path,
        help="a store of `hepflow features`; default: generated events of its size",
    )
    arguments = parser.parse_args()
    quick: bool = arguments.quick
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        events = 400 if quick else 1000
        store = arguments.store or generate(scratch / "jagged.zarr", events, mean_particles=400)
        result = loader_vs_memory(store, repeats=3 if quick else 5)
        flat = generate(scratch / "flat.zarr", 60_000 if quick else 400_000, mean_particles=0)
        result |= hlf_vs_stock(flat, scratch, repeats=1 if quick else 3)
        events = 800 if quick else 4000
        longer = arguments.store or generate(scratch / "longer.zarr", events, mean_particles=400)
        result |= two_vs_one(longer, scratch, repeats=1 if quick else 3)
    result["gru_vs_torch_padded"] = gru.measure(128, quick=True)["gru_vs_torch_padded"]
    print(json.dumps(result))


def generate(path: Path, n_events: int, *, mean_particles: int) -> Path:
    """Write a store of random events of realistic length, ``n_events`` per class in training."""
    store = StoreWriter.create(path, StoreSpec(CLASSES, HLF, PARTICLE, "corrected", "benchmark"))
    rng, number, first = np.random.default_rng(1), 0, 0
    for split in SPLITS:
        for label, name in enumerate(CLASSES):
            n = n_events if split == "train" else 50
            lengths = (
                rng.normal(mean_particles, 110, n).clip(1, MAX_PARTICLES).astype(np.int64)
                if mean_particles
                else np.zeros(n, np.int64)
            )
            offsets = np.concatenate([[0], np.cumsum(lengths)])
            particles = rng.normal(size=(offsets[-1], len(PARTICLE))).astype(np.float32)
            hlf = rng.normal(label, 1, (n, len(HLF))).astype(np.float32)
            ids = np.arange(first, first + n)
            labels = np.full(n, label, np.int8)
            whole = EventBlock(hlf, particles, offsets, labels, ids)
            for start in range(0, n, MOST_EVENTS):
                block = whole[start : start + MOST_EVENTS]
                store.write_part(number, {(split, name): block}, Ledger(len(block), len(block)))
                number += 1
            first += n
    store.finalise()
    return path


def loader_vs_memory(path: Path, repeats: int) -> dict[str, float]:
    """Compare epochs of several windows from disk with the same batches in memory."""
    rows, ratios = [], {}
    size_mb = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6
    for name in ("sequence", "inclusive"):
        data = EventData(path, batch_size=64, block_events=256, buffer_mb=max(1, int(size_mb / 6)))
        reader = BlockReader(
            data.store,
            particles=True,
            order="delta_r",
            keep=False,
            block_events=data.options.block_events,
        )
        loader = EventLoader(data.plan("train", shuffle=True, particles=True), reader, workers=1)
        net = NETS[name](data.inputs)
        ready = list(loader)
        train(net, ready)  # compiles
        loader.waited_s = 0.0
        both = {"memory": ready, "loader": loader}
        epochs = {name: partial(timed, partial(train, net, own)) for name, own in both.items()}
        seconds = medians(epochs, repeats)
        ratios[name] = seconds["memory"] / seconds["loader"]
        waited = loader.waited_s / repeats / seconds["loader"]
        rate = loader.plan.n_events / seconds["loader"]
        numbers = (f"{x:.2f}" for x in (seconds["memory"], seconds["loader"], ratios[name]))
        rows.append((name, *numbers, f"{rate:,.0f}", f"{waited:.0%}"))
    columns = ("net", "in memory, s", "loader, s", "ratio", "events/s", "waited for data")
    title = "an epoch: batches in memory, and read from disk by the loader"
    show(table(columns, rows, title), console=MESSAGES)
    return {
        "loader_vs_memory": round(ratios["inclusive"], 3),
        "loader_vs_memory_sequence": round(ratios["sequence"], 3),
    }


def train(net: Net, batches: Iterable[Batch]) -> None:
    """Train one epoch."""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)
    for batch in batches:
        optimizer.zero_grad()
        functional.cross_entropy(
            net(**{name: getattr(batch, name) for name in net.reads}), batch.label
        ).backward()
        optimizer.step()


def hlf_vs_stock(path: Path, scratch: Path, repeats: int) -> dict[str, float]:
    """Compare events per second of the whole trainer with a plain loop over a DataLoader."""
    store = EventStore.open(path)
    blocks = [
        store.read(rows, particles=False)
        for name in store.spec.classes
        for rows in store.ranges("train", name)
    ]
    hlf = torch.from_numpy(np.concatenate([block.hlf for block in blocks]))
    label = torch.from_numpy(np.concatenate([block.label for block in blocks]).astype(np.int64))

    def stock() -> None:
        net = nn.Sequential(
            nn.Linear(14, 50),
            nn.ReLU(),
            nn.Linear(50, 20),
            nn.ReLU(),
            nn.Linear(20, 10),
            nn.ReLU(),
            nn.Linear(10, 3),
        )
        optimizer = torch.optim.Adam(net.parameters())
        for x, y in DataLoader(TensorDataset(hlf, label), batch_size=128, shuffle=True):
            optimizer.zero_grad()
            functional.cross_entropy(net(x), y).backward()
            optimizer.step()

    rates: dict[str, list[float]] = {"stock, 128": [], "hepflow, 128": [], "hepflow, 8192": []}
    for number in range(repeats):
        start = time.perf_counter()
        stock()
        rates["stock, 128"].append(len(label) / (time.perf_counter() - start))
        for size in (128, 8192):
            run = scratch / f"hlf-{size}-{number}"
            rates[f"hepflow, {size}"].append(
                fit(path, run, "hlf", epochs=3, more=("--data.batch_size", str(size)))
            )
    median = {name: statistics.median(values) for name, values in rates.items()}
    print_rates("HLF, events/s", median)
    keys = {"hlf_vs_stock": "hepflow, 8192", "hlf_vs_stock_same_batch": "hepflow, 128"}
    return {key: round(median[name] / median["stock, 128"], 2) for key, name in keys.items()}


def two_vs_one(path: Path, scratch: Path, repeats: int) -> dict[str, float]:
    """Compare the inclusive net on two processes, 128 events per batch each, with one process.

    ``two_processes_vs_one`` is against one process with batches of 128,
    ``two_processes_vs_one_same_batch`` against one with 256, which is faster: half as many steps,
    each with its fixed cost.
    """
    rates: dict[str, list[float]] = {
        "one process, 128": [],
        "one process, 256": [],
        "two processes, 128 each": [],
    }
    several = ("--trainer.strategy=ddp", "--trainer.devices=2", "--trainer.accelerator=cpu")
    for number in range(repeats):
        for name, size, more in zip(rates, ("128", "256", "256"), ((), (), several), strict=True):
            # no reading thread, which would be a second thread of the one process
            options = ("--data.batch_size", size, "--data.workers", "0", *more)
            output = scratch / f"{name}-{number}"
            rates[name].append(fit(path, output, "inclusive", epochs=3, more=options))
    median = {name: statistics.median(values) for name, values in rates.items()}
    print_rates("inclusive, events/s", median)
    alone, same, two = median.values()
    return {
        "two_processes_vs_one": round(two / alone, 2),
        "two_processes_vs_one_same_batch": round(two / same, 2),
    }


def fit(store: Path, run: Path, net: str, *, epochs: int, more: Sequence[str]) -> float:
    """Return events per second of the fastest epoch of `hepflow train fit`, one thread each."""
    command = [sys.executable, "-m", "hepflow", "train", "fit", "--config", f"{CONFIGS}/{net}.yaml"]
    command += ["--data.store", str(store), "--output", str(run), "--threads", "1", *more]
    command += ["--trainer.max_epochs", str(epochs), "--trainer.enable_progress_bar", "false"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return max(row["events_per_s"] for row in read_json(run / "run.json")["history"])


def print_rates(title: str, rates: dict[str, float]) -> None:
    rows = [(name, f"{rate:,.0f}") for name, rate in rates.items()]
    show(table(("trainer", "events/s"), rows, title), console=MESSAGES)


if __name__ == "__main__":
    main()
