"""Scoring, from ROOT files to scores, against its parts: features alone, and ONNX Runtime alone.

All run with one worker process per core, on the same files, in turn, several times; medians of CPU
time. Each process has one thread. ONNX Runtime gets prepared tensors: padded batches of 16 events
in the order of arrival, as a user would have them, and of events of similar length, as `Scorer`
makes them. Latency, and the rate of the HLF net, are those of one process with one thread.
"""

import argparse
import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

import awkward as ak
import generated
import numpy as np
import uproot
from timing import medians, timed

from hepflow.data.blocks import EventBlock
from hepflow.models.export import write_onnx
from hepflow.models.hlf import HLFNet
from hepflow.models.inclusive import InclusiveNet
from hepflow.models.inputs import Inputs
from hepflow.models.onnx_net import OnnxNet
from hepflow.models.order import pad, reading_order
from hepflow.models.sequence import SequenceNet
from hepflow.physics import skim
from hepflow.physics.columns import columns
from hepflow.physics.features import FeatureSet, compute_features
from hepflow.reading.delphes import DelphesFile
from hepflow.reading.listing import list_files
from hepflow.reading.ranges import EntryRange, plan
from hepflow.reading.reader import Access
from hepflow.schema import CLASSES, HLF, PARTICLE
from hepflow.score.folder import ScoreFolder
from hepflow.score.scorer import BATCH, Scorer
from hepflow.score.task import Task, score_task
from hepflow.system.terminal import show, table

NETS = {"hlf": HLFNet, "sequence": SequenceNet, "inclusive": InclusiveNet}
NAMES = [feature.name for feature in PARTICLE]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="fewer events and three repeats, in under two minutes"
    )
    parser.add_argument(
        "--input", type=Path, help="a folder of ROOT files; default: generated events"
    )
    arguments = parser.parse_args()
    logging.getLogger("hepflow").setLevel(logging.ERROR)
    repeats = 3 if arguments.quick else 5
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.input or write_raw(
            Path(scratch) / "raw", 300, 4 if arguments.quick else 16
        )
        models = write_models(folder, Path(scratch))
        result = end_to_end(folder, models["inclusive"], Path(scratch), repeats)
        result |= one_core(folder, models, repeats)
    print(json.dumps(result))


def write_raw(folder: Path, n: int, files: int) -> Path:
    """Write ROOT files of generated events, a third of them without a hard lepton.

    Their lengths are like those of simulated events with 20 pile-up interactions: from about 100 to
    800 particles (440 +- 165).
    """
    folder.mkdir()
    for number in range(files):
        rng = np.random.default_rng(number)
        pool = generated.events(2 * n, seed=number)
        events = pool[:n]
        columns = {name: events[name] for name in events.fields}
        share = np.clip(rng.normal(0.5, 0.19, n), 0.1, 0.91)
        for name in ("EFlowTrack", "EFlowPhoton", "EFlowNeutralHadron"):
            both = ak.concatenate([pool[name][:n], pool[name][n:]], axis=1)
            counts = ak.to_numpy(ak.num(both))
            columns[name] = both[
                ak.unflatten(rng.random(counts.sum()) < np.repeat(share, counts), counts)
            ]
        hard = np.where(np.arange(n) % 3 == 0, 0.3, 1.0)
        momentum = ak.values_astype(events["Electron", "PT"] * hard, np.float32)
        columns["Electron"] = ak.zip(
            {
                "PT": momentum,
                **{name: events["Electron", name] for name in ("Eta", "Phi", "Charge")},
            }
        )
        with uproot.recreate(folder / f"{number}.root") as file:
            naming = {
                "counter_name": lambda name: f"{name}_size",
                "field_name": lambda outer, inner: f"{outer}.{inner}",
            }
            tree = file.mktree(
                "Delphes",
                {name: str(column.type.content) for name, column in columns.items()},
                **naming,
            )
            tree.extend(columns)
    return folder


def write_models(folder: Path, scratch: Path) -> dict[str, Path]:
    """Export the three nets with random weights, which do not affect the speed."""
    made = features_of_file(str(first(folder)))
    statistics_of = {
        name: {key: getattr(x, key)(axis=0).tolist() for key in ("mean", "std", "min", "max")}
        for name, x in (("hlf", made.hlf), ("particles", made.particles))
    }
    inputs = Inputs(
        CLASSES, tuple(f.name for f in HLF), tuple(NAMES), statistics_of, "corrected", "benchmark"
    )
    example = batches(made, sort=True)[0]
    paths = {name: scratch / f"{name}.onnx" for name in NETS}
    for name, net in NETS.items():
        write_onnx(net(inputs).eval(), paths[name], example)
    return paths


def first(folder: Path) -> Path:
    return min(folder.rglob("*.root"))


def read(path: str) -> ak.Array:
    with DelphesFile(path) as file:
        return ak.concatenate([events for _, _, events in file.iterate(0, file.n_entries)])


def features_of_file(path: str) -> FeatureSet:
    """Compute the features of a ROOT file, by ingest's skim and the physics."""
    events = read(path)
    return compute_features(
        skim.drop_soft(events[skim.is_finite(events) & skim.has_lepton(events)])
    )


def batches(made: FeatureSet, *, sort: bool) -> list[dict[str, np.ndarray]]:
    """Return prepared tensors for a net."""
    n = len(made.index)
    order = reading_order(
        EventBlock(made.hlf, made.particles, made.offsets, np.zeros(n, np.int8), made.index),
        NAMES,
        "delta_r",
    )
    by_length = np.argsort(np.diff(made.offsets), kind="stable") if sort else np.arange(n)
    found = []
    for start in range(0, n, BATCH):
        rows = by_length[start : start + BATCH]
        padded, lengths = pad(
            [made.particles[order][made.offsets[i] : made.offsets[i + 1]] for i in rows]
        )
        found.append({"hlf": made.hlf[rows], "particles": padded, "lengths": lengths})
    return found


@cache
def ready(path: str, sort: bool) -> list[dict[str, np.ndarray]]:
    return batches(features_of_file(path), sort=sort)


@cache
def net_of(model: Path) -> OnnxNet:
    return OnnxNet(model, threads=1)


# Work of a worker on one file, in seconds of CPU time, which other programs affect least.


def only_features(path: str) -> float:
    return timed(lambda: features_of_file(path), time.process_time)


def only_onnx(path: str, model: Path, sort: bool) -> float:
    tensors, net = ready(path, sort), net_of(model)
    return timed(lambda: [net.logits(batch) for batch in tensors], time.process_time)


def everything(split: EntryRange, task: Task) -> float:
    return timed(lambda: score_task((split,), task), time.process_time)


def end_to_end(folder: Path, model: Path, scratch: Path, repeats: int) -> dict[str, float]:
    """Measure events per second of one process per core, on all files."""
    splits = plan(list_files(folder), 1 << 40)
    output = scratch / "scores"
    run = ScoreFolder(output, {"key": "benchmark"}).run
    task = Task(output, model, OnnxNet(model).identity, None, (), Access(), "benchmark", run)
    workers = len(os.sched_getaffinity(0))
    paths = [split.file.path for split in splits]
    n_events = sum(len(read(path)["Jet"]) for path in paths)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:

        def rate(function: Callable[..., float], items: list) -> float:
            """Return events per second, without the time for the prepared tensors."""
            return n_events / (sum(pool.map(function, items)) / workers)

        contenders: dict[str, Callable[[], float]] = {
            "hepflow score, ROOT to Parquet": lambda: rate(partial(everything, task=task), splits),
            "features alone, from ROOT": lambda: rate(only_features, paths),
            "ONNX Runtime alone, sorted by length": lambda: rate(
                partial(only_onnx, model=model, sort=True), paths
            ),
            "ONNX Runtime alone, as they arrive": lambda: rate(
                partial(only_onnx, model=model, sort=False), paths
            ),
        }
        rates = medians(contenders, repeats, warm_up=1)
    ours, *others = rates
    rows = [(name, f"{x:,.0f}", f"{rates[ours] / x:.2f}x") for name, x in rates.items()]
    title = f"{n_events:,} events in {len(paths)} files, {workers} processes"
    show(table(("inclusive net", "events/s", "hepflow is"), rows, title))
    return {
        "score_vs_slower_part": rates[ours] / min(rates[others[0]], rates[others[2]]),
        "score_vs_slower_part_sorted": rates[ours] / min(rates[others[0]], rates[others[1]]),
        "events_per_second": rates[ours],
    }


def one_core(folder: Path, models: dict[str, Path], repeats: int) -> dict[str, float]:
    """Measure the rate of the HLF net, and the latency of one call with the features' fraction."""
    events = read(str(first(folder)))
    scorer = Scorer(models["hlf"])
    hlf_rate = statistics.median(
        len(events) / timed(lambda: scorer.score(events), time.process_time)
        for _ in range(2 * repeats)
    )
    selected = events[scorer.score(events).selected]
    header = (
        "net",
        "events",
        "from",
        "p50 ms",
        "p99 ms",
        "p50 ms per event",
        "features",
        "net alone p50, p99 ms",
    )
    rows = []
    result = {"hlf_events_per_second": hlf_rate}
    for name, model in models.items():
        for size, calls in ((1, 200), (32, 20), (1024, 3)):
            for row, found in latency(
                name, Scorer(model), selected[np.arange(size) % len(selected)], calls
            ):
                rows.append(row)
                result |= found
    show(table(header, rows, "latency, one core, warm"))
    print(f"HLF net from awkward events: {hlf_rate:,.0f} events/s per core")
    return result


def latency(
    name: str, scorer: Scorer, chunk: ak.Array, calls: int
) -> Iterator[tuple[tuple[str, ...], dict[str, float]]]:
    """Yield a row and its results, for flat and for awkward arrays."""
    size, flat, made = len(chunk), columns(chunk), compute_features(chunk)
    alone = quantiles(lambda: scorer._logits(made), calls)  # noqa: SLF001 - the net alone
    for source, call in (
        ("arrays", lambda: scorer.score_columns(flat)),
        ("awkward", lambda: scorer.score(chunk)),
    ):
        p50, p99 = quantiles(call, calls)
        share = max(0.0, 1 - alone[0] / p50)
        row = (
            name,
            str(size),
            source,
            f"{p50:.3f}",
            f"{p99:.3f}",
            f"{p50 / size:.3f}",
            f"{share:.0%}",
            f"{alone[0]:.3f}, {alone[1]:.3f}",
        )
        yield (
            row,
            {
                f"{name}_{size}_{source}_p99_ms": p99,
                f"{name}_{size}_net_p99_ms": alone[1],
                f"{name}_{size}_{source}_features": share,
            },
        )


def quantiles(call: Callable[[], object], calls: int) -> tuple[float, float]:
    """Return the median and the 99 % quantile of a call in milliseconds."""
    for _ in range(3):
        call()
    values = [1000 * timed(call) for _ in range(calls)]
    return float(np.median(values)), float(np.quantile(values, 0.99))


if __name__ == "__main__":
    main()
