"""Features at scale: a graph of 10,000 fragments, memory per task, and a run on 100,000 events.

The graph is that of the stage with tasks that do no work, so that only the cost of Dask remains.
Its scheduler runs in this process. Memory is the resident set of a process.
"""

import argparse
import json
import logging
import os
import re
import resource
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import awkward as ak
import dask
import generated
import numpy as np
from distributed import Client, LocalCluster

from hepflow.config.engines import ClusterConfig
from hepflow.config.stages import FeaturesConfig
from hepflow.data.blocks import StoreSpec
from hepflow.data.events import Fragment, empty_events, open_events, read_fragment
from hepflow.data.store import EventStore
from hepflow.data.store_writer import StoreWriter
from hepflow.engines.dask import SETTINGS, watch
from hepflow.features.job import memory_of_task, run
from hepflow.features.packing import PlannedPart
from hepflow.features.parts import Outcome, make_part
from hepflow.physics.features import compute_features
from hepflow.schema import CLASSES, HLF, PARTICLE
from hepflow.system.terminal import show, table

MB = 1e6
SPEC = StoreSpec(
    CLASSES, HLF, PARTICLE, "corrected", "benchmark", {"train": 0.7, "val": 0.1, "test": 0.2}
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10,000 events, in under two minutes")
    parser.add_argument(
        "--events",
        type=Path,
        help="a dataset of `hepflow ingest` whose events are repeated; default: generated events",
    )
    parser.add_argument("--parts", default="graph,memory,run", help="what to measure")
    arguments = parser.parse_args()
    logging.getLogger("hepflow").setLevel(logging.ERROR)
    result: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        if "graph" in arguments.parts:
            result |= graph(10_000)
        if "memory" in arguments.parts:
            result |= memory(scratch, (300, 1000) if arguments.quick else (300, 1000, 3000, 6000))
        if "run" in arguments.parts:
            result |= long_run(scratch, arguments.events, 10_000 if arguments.quick else 100_000)
    print(json.dumps(result))


def no_work(store: StoreWriter, planned: PlannedPart, physics: str | None) -> Outcome:
    return Outcome(planned.fragments[0].name, 0, {})


def graph(n: int) -> dict[str, float]:
    """Measure seconds and memory that the graph costs the client and the scheduler."""
    store = StoreWriter(Path("data/features.zarr"), SPEC)
    parts = []
    for i in range(n):
        path = Path(f"data/events/qcd/part-{i:05d}.parquet")
        own = Fragment(f"qcd--{path.stem}", path, (0, 1, 2), 3000, 10**8, f"{i:016x}")
        parts.append(PlannedPart(i, (own,)))
    with two_workers() as cluster, Client(cluster) as client:
        client.wait_for_workers(2)
        before, started = held(), time.perf_counter()
        outcomes = watch(client, partial(no_work, store, physics=None), parts, "scale", "parts")
        next(outcomes)
        first = time.perf_counter() - started
        done = 1 + sum(1 for _ in outcomes)
        last = time.perf_counter() - started
        grown = peak() - before
    size = f"{grown / MB:,.0f} MB, {grown / n / 1e3:.1f} kB per part"
    rows = [
        ("time to the first result", f"{first:.2f} s"),
        ("time to the last result", f"{last:.1f} s"),
        ("memory of client and scheduler", size),
    ]
    title = f"{done:,} parts, load {os.getloadavg()[0]:.1f}"
    show(table(("graph of tasks without work", ""), rows, title))
    return {
        "graph_submit_s": round(first, 2),
        "graph_done_s": round(last, 1),
        "graph_mb": round(grown / MB),
    }


def two_workers() -> LocalCluster:
    with dask.config.set(SETTINGS):
        return LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0")


def memory(scratch: Path, sizes: tuple[int, ...]) -> dict[str, float]:
    """Measure the peak memory of a task, in its own process, against the announced memory."""
    rows, ratios = [], []
    for n in sizes:
        folder = scratch / f"events-{n}"
        generated.write(folder, generated.events(n), 1)
        (fragment,) = open_events(folder, 2**40).fragments
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            before, after = pool.submit(memory_of, fragment, scratch / f"{n}.zarr").result()
        announced = memory_of_task([fragment])
        ratios.append(announced / after)
        numbers = (fragment.n_bytes / MB, announced / MB, after / MB, before / MB)
        ratio = f"{(after - before) / fragment.n_bytes:.1f}"
        rows.append((f"{n:,}", *(f"{x:,.0f}" for x in numbers), ratio))
    megabytes = ("Parquet, MB", "announced, MB", "peak, MB", "before the task, MB")
    show(table(("events", *megabytes, "memory per Parquet byte"), rows, "memory of a task"))
    return {
        "announced_vs_held_least": round(min(ratios), 2),
        "announced_vs_held_most": round(max(ratios), 2),
    }


def memory_of(fragment: Fragment, output: Path) -> tuple[int, int]:
    compute_features(empty_events())
    before = held()
    store, planned = StoreWriter.create(output, SPEC), PlannedPart(0, (fragment,))
    assert make_part(store, planned, None, 2**40).error is None
    return before, peak()


def long_run(scratch: Path, events: Path | None, n_events: int) -> dict[str, float]:
    """Measure the memory of two workers over a store of ``n_events``, per tenth of the run."""
    chunk = generated.events(1500) if events is None else some_of(events, 1500)
    generated.write(scratch / "many", chunk, -(-n_events // len(chunk)))
    with two_workers() as cluster:
        samples: list[float] = []
        done = threading.Event()
        sampler = threading.Thread(target=sample, args=(cluster, samples, done))
        config = FeaturesConfig(
            input=scratch / "many",
            output=scratch / "many.zarr",
            cluster=ClusterConfig(kind="address", address=cluster.scheduler_address),
        )
        sampler.start()
        started = time.perf_counter()
        run(config)
        seconds = time.perf_counter() - started
        done.set()
        sampler.join()
    ledger = EventStore.open(config.output).ledger()
    tenths = [max(part) for part in np.array_split(np.array(samples), 10)]
    rows = [(i, f"{value / MB:,.0f}") for i, value in enumerate(tenths, 1)]
    title = f"{ledger.n_in:,} events, {ledger.n_in / seconds:,.0f} events/s"
    show(table(("tenth of the run", "most memory of a worker, MB"), rows, title))
    return {
        "run_events": ledger.n_in,
        "run_events_per_s": round(ledger.n_in / seconds),
        "run_last_vs_third_tenth": tenths[-1] / tenths[2],
    }


def sample(cluster: LocalCluster, samples: list[float], done: threading.Event) -> None:
    """Append the larger of the workers' memories, as they report it, twice per second."""
    while not done.wait(0.5):
        samples.append(
            max(
                worker.metrics.get("memory", 0)
                for worker in list(cluster.scheduler.workers.values())
            )
        )


def some_of(folder: Path, n: int) -> ak.Array:
    """Return events of all fragments of a dataset."""
    fragments = open_events(folder, 2**26).fragments
    return ak.concatenate(
        [read_fragment(fragment)[: n // len(fragments) + 1] for fragment in fragments]
    )


def held() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak() -> int:
    return 1024 * int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0])


if __name__ == "__main__":
    main()
