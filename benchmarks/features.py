"""Speed of the features: against a per-event Python version, vectorised awkward, and two workers.

All compute the reference definitions of the same events in the same run, in turn, several times;
medians. The rivals get decoded events, hepflow starts from the awkward array. All three run in one
thread, so CPU time is compared, which other programs affect least. End to end is the wall time from
Parquet files to a finished Zarr store, on a running cluster.
"""

import argparse
import json
import logging
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import awkward as ak
import dask
import generated
import numpy as np
import pyarrow.parquet as pq
from distributed import LocalCluster
from numcodecs import Blosc
from rival_features import isolations, per_event
from timing import medians, timed

from hepflow.config.engines import ClusterConfig
from hepflow.config.stages import FeaturesConfig
from hepflow.data.arrays import COMPRESSOR
from hepflow.data.events import Fragment, open_events, read_fragment
from hepflow.data.layout import layouts
from hepflow.data.moments import Moments
from hepflow.data.store import EventStore
from hepflow.data.store_writer import StoreWriter
from hepflow.engines.dask import SETTINGS
from hepflow.features.job import run
from hepflow.features.packing import PlannedPart
from hepflow.features.parts import make_part
from hepflow.physics.columns import columns
from hepflow.physics.features import compute_features
from hepflow.schema import MAX_PARTICLES, PARTICLE
from hepflow.system.terminal import show, table

PADDED = MAX_PARTICLES * len(PARTICLE) * 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="fewer events and three repeats, in under two minutes"
    )
    parser.add_argument(
        "--events", type=Path, help="a dataset of `hepflow ingest`; default: generated events"
    )
    arguments = parser.parse_args()
    repeats = 3 if arguments.quick else 5
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.events or Path(scratch) / "events"
        if arguments.events is None:
            generated.write(folder, generated.events(1500), 4 if arguments.quick else 48)
        result = against_rivals(folder, repeats) | end_to_end(folder, Path(scratch), repeats)
    print(json.dumps(result))


def against_rivals(folder: Path, repeats: int) -> dict[str, float]:
    """Return events per second of the physics alone, as ratios to the rivals."""
    events = read_fragment(open_events(folder, 2**26).fragments[0])
    kept = compute_features(events, "reference")
    ours, few, chunk = events[kept.index][:1000], events[kept.index[:12]], events[kept.index[:24]]
    decoded = few.to_list()
    contenders: dict[str, tuple[int, Callable[[], object]]] = {
        "hepflow": (len(ours), lambda: compute_features(ours, "reference")),
        "per event, Python and NumPy": (
            len(decoded),
            lambda: [per_event(event) for event in decoded],
        ),
        "awkward, cartesian (isolation alone)": (len(chunk), lambda: isolations(chunk)),
        "of hepflow: flattening the columns": (len(ours), lambda: columns(ours)),
    }
    check(few, decoded)
    contenders["hepflow"][1]()
    rates = medians(
        {
            name: (lambda n=n, f=f: n / timed(f, time.process_time))
            for name, (n, f) in contenders.items()
        },
        repeats,
    )
    rows = [(name, f"{x:,.0f}", f"{rates['hepflow'] / x:,.0f}x") for name, x in rates.items()]
    title = f"{len(kept.particles) / len(kept.index):.0f} particles per event"
    show(table(("physics of reference definitions", "events/s", "hepflow is"), rows, title))
    return {
        "features_vs_per_event": rates["hepflow"] / rates["per event, Python and NumPy"],
        "features_vs_awkward": rates["hepflow"] / rates["awkward, cartesian (isolation alone)"],
        "events_per_second": rates["hepflow"],
    }


def check(few: ak.Array, decoded: list[dict]) -> None:
    """Check that the rivals compute the same numbers."""
    ours = compute_features(few, "reference")
    for i, event in enumerate(decoded):
        hlf, particles = per_event(event) or ([], [])
        np.testing.assert_allclose(ours.hlf[i], hlf, rtol=1e-4, atol=1e-3)
        mine = ours.particles[ours.offsets[i] : ours.offsets[i + 1]]
        np.testing.assert_allclose(mine.sum(axis=0), np.sum(particles, axis=0), rtol=1e-3, atol=0.1)


def end_to_end(folder: Path, scratch: Path, repeats: int) -> dict[str, float]:
    """Measure Parquet to store on one and on two workers, and the time per step."""
    logging.getLogger("hepflow").setLevel(logging.ERROR)
    dataset = open_events(folder, 2**26)
    n_events = sum(fragment.n_events for fragment in dataset.fragments)
    warm, output = scratch / "warm", scratch / "made.zarr"
    generated.write(warm, generated.events(1500), 4)

    def stage(n: int) -> float:
        """Return the rate on a cluster for this run alone: idle workers would use cores too."""
        with (
            dask.config.set(SETTINGS),
            LocalCluster(n_workers=n, threads_per_worker=1, dashboard_address=":0") as cluster,
        ):
            there = ClusterConfig(kind="address", address=cluster.scheduler_address)
            for source in (warm, folder):
                # without the earlier output, whose pages the system may still be writing
                shutil.rmtree(output, ignore_errors=True)
                config = FeaturesConfig(input=source, output=output, cluster=there)
                seconds = timed(partial(run, config))
        return n_events / seconds

    rates = medians({f"{n} worker{'s' * (n > 1)}": partial(stage, n) for n in (1, 2)}, repeats)
    store = EventStore.open(output)
    size = sum(file.stat().st_size for file in store.path.rglob("*") if file.is_file())
    stored = size / store.ledger().n_out
    of_time = shares(store, dataset.fragments[0], scratch)
    load = os.getloadavg()[0]
    rows = [(name, f"{rate:,.0f}") for name, rate in rates.items()]
    rows.append(("bytes per event, stored", f"{stored:,.0f} of {PADDED:,} padded"))
    title = f"{n_events:,} events; load {load:.1f} on {os.cpu_count()} cores"
    show(table(("Parquet to store", "events/s"), rows, title))
    ratios = {
        "two_workers_vs_one": rates["2 workers"] / rates["1 worker"],
        "bytes_vs_padded": stored / PADDED,
    }
    return ratios | of_time | {"load": round(load, 1)}


def shares(store: EventStore, fragment: Fragment, scratch: Path) -> dict[str, float]:
    """Measure the steps of a worker, each against its limit: the least work on the same bytes."""
    # one store per repeat, because a part that exists is not written again
    stores = [StoreWriter.create(scratch / f"copy-{i}.zarr", store.spec) for i in range(6)]
    planned = PlannedPart(0, (fragment,))
    outcomes = [make_part(aside, planned, None, 2**26) for aside in stores][1:]
    stores[0].finalise()
    spent = {
        what: statistics.median(outcome.seconds[what] for outcome in outcomes)
        for what in outcomes[0].seconds
    }
    held = [block.particles for block in blocks(stores[0])]
    size = layouts(store.spec)["particles"].rows_per_chunk
    chunks = [np.ascontiguousarray(x[i : i + size].T) for x in held for i in range(0, len(x), size)]
    codec = Blosc(
        COMPRESSOR["cname"],
        COMPRESSOR["clevel"],
        Blosc.SHUFFLE,
        COMPRESSOR["blocksize"],
        typesize=4,
    )
    compressed = [codec.encode(chunk) for chunk in chunks]
    spent["compression"] = min(
        timed(lambda: [codec.encode(chunk) for chunk in chunks]) for _ in range(3)
    )
    spent["writing"] -= spent["compression"]
    least = {
        "reading": (
            "pyarrow alone, Parquet to Arrow",
            lambda: pq.read_table(fragment.path, use_threads=False),
        ),
        "physics": ("one copy of its output", lambda: [x.copy() for x in held]),
        "compression": ("one copy of its output", lambda: [bytearray(part) for part in compressed]),
        "writing": (
            "sorting by class, statistics and a plain file",
            lambda: write_plainly(held, compressed, scratch / "plain"),
        ),
    }
    rows = []
    for what in ("reading", "physics", "compression", "writing"):
        name, alone = least[what]
        limit = min(timed(alone) for _ in range(3))
        share = f"{spent[what] / sum(spent.values()):.0%}"
        rate, most = (f"{fragment.n_events / seconds:,.0f}" for seconds in (spent[what], limit))
        rows.append((what, share, rate, name, most))
    title = f"one worker, one fragment of {fragment.n_events:,} events"
    show(table(("step", "fraction", "events/s", "its limit", "limit, events/s"), rows, title))
    return {
        f"share_{what}": round(seconds / sum(spent.values()), 3) for what, seconds in spent.items()
    }


def write_plainly(held: list[np.ndarray], compressed: list[bytes], path: Path) -> None:
    """Do what any writer must: copy the events in order, add up moments, write the bytes."""
    for x in held:
        Moments.of(x.copy())
    path.write_bytes(b"".join(compressed))


def blocks(store: EventStore) -> list:
    store = EventStore.open(store.path)
    return [store.read(rows) for rows in store.all_ranges("train", "val", "test")]


if __name__ == "__main__":
    main()
