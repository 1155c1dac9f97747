"""A store far away against one on this disk: loading for a training, features and ingest.

The store lies on an XRootD server of this machine, behind a proxy that adds 30 ms to each request.
``remote_loader_vs_local`` is the time of an epoch of the loader on the local store over that on the
remote one, from the first batch on, with the time of a training step after each batch;
``first_batch_s`` is the wait for the first one, from opening the remote store.
``remote_features_vs_local`` compares `hepflow features` from Parquet on that server into a local
store with the same from a local dataset, and ``remote_ingest_vs_local`` `hepflow ingest` of ROOT
files there and here, into a local dataset. Runs in turn, medians.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import generated
import torch
from ingest import write_files
from latency import delayed
from timing import medians, timed
from train import generate

sys.path.insert(0, str(Path(__file__).parents[1]))

from hepflow.config.engines import ClusterConfig, SparkConfig
from hepflow.config.stages import FeaturesConfig, IngestConfig
from hepflow.engines.spark import spark_session
from hepflow.features import job
from hepflow.ingest import job as ingest
from hepflow.system.places import place
from hepflow.system.terminal import show, table
from hepflow.train.data import EventData
from tests.support.stores import xrootd_server

DELAY_S = 0.03
STEP_S_PER_EVENT = 1 / 8000
"""A training step on a fast CPU, or a quarter of one on a GPU."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few events, in under two minutes")
    quick: bool = parser.parse_args().quick
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, xrootd_server() as (url, served):
        here = Path(folder)
        store = generate(here / "toy.zarr", 8000 if quick else 20_000, mean_particles=150)
        raw, events = here / "raw", here / "events"
        write_files(raw / "qcd", 8 if quick else 24, n_baskets=4)
        generated.write(events, generated.events(1000), fragments=12 if quick else 36)
        for made in (store, events, raw):
            shutil.copytree(made, served / made.name)
        port = urlsplit(url).port or 0
        with delayed(port, DELAY_S) as far:
            away = place(url.replace(f":{port}", f":{far}"))
            result = loading(store, away / store.name, 3 if quick else 5)
            result |= features(events, away / events.name, here, 1 if quick else 3)
            result |= ingested(raw, away / raw.name, here, 1 if quick else 3)
    show(table(("", ""), [(key, f"{value:.2f}") for key, value in result.items()]))
    print(json.dumps(result))


def loading(local: Path, remote: Path, repeats: int) -> dict[str, float]:
    firsts: list[float] = []

    def epoch(store: Path) -> float:
        """Return the seconds from the first batch to the last."""
        started = time.perf_counter()
        data = EventData(store, batch_size=512, memory_mb=0, buffer_mb=40, block_events=512)
        batches = iter(data.loader("train", shuffle=True))
        next(batches)
        first = time.perf_counter()
        if store is remote:
            firsts.append(first - started)
        for batch in batches:
            time.sleep(len(batch.label) * STEP_S_PER_EVENT)
        return time.perf_counter() - first

    contenders = {"local": partial(epoch, local), "remote": partial(epoch, remote)}
    seconds = medians(contenders, repeats, warm_up=1)
    return {
        "remote_loader_vs_local": seconds["local"] / seconds["remote"],
        "first_batch_s": statistics.median(firsts),
    }


def features(local: Path, remote: Path, scratch: Path, repeats: int) -> dict[str, float]:
    def run(events: Path) -> None:
        output = scratch / "made.zarr"
        shutil.rmtree(output, ignore_errors=True)
        cluster = ClusterConfig(workers=2)
        job.run(FeaturesConfig(input=events, output=output, cluster=cluster))

    contenders = {
        name: partial(timed, partial(run, place))
        for name, place in (("local", local), ("remote", remote))
    }
    seconds = medians(contenders, repeats, warm_up=1)
    return {"remote_features_vs_local": seconds["local"] / seconds["remote"]}


def ingested(local: Path, remote: Path, scratch: Path, repeats: int) -> dict[str, float]:
    spark = SparkConfig(master="local[2]")

    def run(raw: Path) -> None:
        output = scratch / "ingested"
        shutil.rmtree(output, ignore_errors=True)
        samples = {"qcd": ("qcd",)}
        ingest.run(IngestConfig(input=str(raw), output=output, samples=samples, spark=spark))

    contenders = {
        name: partial(timed, partial(run, place))
        for name, place in (("local", local), ("remote", remote))
    }
    with spark_session(spark, "hepflow storage benchmark"):
        seconds = medians(contenders, repeats, warm_up=1)
    return {"remote_ingest_vs_local": seconds["local"] / seconds["remote"]}


if __name__ == "__main__":
    main()
