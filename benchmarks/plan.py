"""`hepflow plan` against what then happens: time, bytes, files and memory of each stage.

python benchmarks/plan.py [--quick] prints a table and, as the last line, one JSON object: of each
stage the planned number over the real one. The input are copies of random Delphes-like events with
fresh UUIDs. In each repeat the plan and then the stages run as commands, on all cores, one epoch of
the inclusive net; medians. Both leave out the time in which threads wait for a core, as others may
use this machine: the real seconds are the wall time by the fraction of time in which the threads of
the command had a core when they wanted one.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import uproot
from ingest import EVENTS, collection
from rehearsal import measure

from hepflow.config.shipped import shipped
from hepflow.schema import CLASSES, COLLECTIONS
from hepflow.system.processes import scheduled
from hepflow.system.storage import sizes_below
from hepflow.system.terminal import show, table
from hepflow_bench.copies import copy_as_new

STAGES = ("ingest", "features", "train", "score")
NET = "inclusive"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a small input, once")
    parser.add_argument("--copies", type=int, default=5, help="copies of the events, 330 MB each")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    n_files, n_baskets, copies, repeats = 1, 15, given.copies, given.repeats
    if given.quick:
        n_files, n_baskets, copies, repeats = 4, 2, 1, 1
    ratios: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        raw = write_raw(Path(folder) / "raw", n_files, n_baskets, copies)
        for _ in range(repeats):
            compare(raw, Path(folder) / "run", ratios)
    print(json.dumps({name: round(median(found), 3) for name, found in ratios.items()}))


def write_raw(raw: Path, n_files: int, n_baskets: int, copies: int) -> Path:
    """Write files of different events for each class, and copies of these files.

    A large file fills the row groups of a fragment alone, so that no event and its copy are
    compressed together, as they never are in real data.
    """
    for seed, name in enumerate(CLASSES):
        for number in range(n_files):
            path = write(raw / name / f"{number}.root", n_baskets, seed * n_files + number)
            for copy in range(1, copies):
                copy_as_new(path, path.with_name(f"{number}-{copy}.root"), copy)
    return raw


def write(path: Path, n_baskets: int, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with uproot.recreate(path) as file:
        tree = None
        for _ in range(n_baskets):
            own = {n: collection(n, fields, EVENTS, rng) for n, fields in COLLECTIONS.items()}
            if tree is None:
                tree = file.mktree(
                    "Delphes",
                    {name: str(column.type.content) for name, column in own.items()},
                    counter_name=lambda name: f"{name}_size",
                    field_name=lambda outer, inner: f"{outer}.{inner}",
                )
            tree.extend(own)
    return path


def compare(raw: Path, folder: Path, ratios: dict[str, list[float]]) -> None:
    """Plan and run the stages in a new folder, and add the ratios."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    events, store, runs, scores = (folder / name for name in ("events", "z.zarr", "runs", "scores"))
    places = ["--output", events, "--store", store, "--runs", runs, "--scores", scores]
    plan, plan_s = planned(["--input", raw, *places, "--net", NET, "--epochs", 1])
    run, own = runs / NET, ["--config", shipped(f"train/{NET}.yaml"), "--trainer.max_epochs", 1]
    commands = {
        "ingest": (["ingest", "--input", raw, "--output", events], events),
        "features": (["features", "--input", events, "--output", store], store),
        "train": (["train", "fit", *own, "--data.store", store, "--output", run], run),
        "score": (
            ["score", "--input", raw, "--model", run / "model.onnx", "--output", scores],
            scores,
        ),
    }
    roles = {"ingest": "executor", "features": "worker", "train": "driver", "score": "worker"}
    rows = []
    for stage, (words, output) in commands.items():
        load, expected = os.getloadavg()[0], plan["stages"][stage]
        with CoreShare() as share:
            step = measure.run(stage, 0, list(map(str, words)), output)
        real = {
            "wall_s": step.seconds * share.value,
            "bytes_out": sum(sizes_below(output).values()),
            "files_out": step.files,
            "worker_bytes": step.gb.get(roles[stage], 0.0) * measure.GB,
        }
        for name, value in real.items():
            ratios[f"{stage}_{name}"].append(expected[name] / value if value else 0.0)
        cells = [f"{expected[name]:,.0f} / {value:,.0f}" for name, value in real.items()]
        rows.append((stage, *cells, f"{step.seconds:,.0f}", f"{load:.1f}"))
    ratios["plan_s"].append(plan_s)
    head = (
        "planned / real",
        "seconds",
        "bytes",
        "files",
        "bytes of memory",
        "wall s",
        "load before",
    )
    title = f"{plan['files']:,} files, {plan['bytes'] / 1e9:.1f} GB; planned in {plan_s:.0f} s"
    show(table(head, rows, title))


class CoreShare(threading.Thread):
    """Watches the threads of all child processes, and how long they have waited for a core."""

    def __enter__(self) -> "CoreShare":
        self.spent: dict[str, tuple[float, float]] = {}
        self.ended = threading.Event()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.join()

    def run(self) -> None:
        while not self.ended.wait(0.3):
            for process in psutil.Process().children(recursive=True):
                for thread in Path(f"/proc/{process.pid}/task").glob("*"):
                    name = f"{process.pid}/task/{thread.name}"
                    now = scheduled(name)
                    self.spent[name] = max(now, self.spent.get(name, now))

    @property
    def value(self) -> float:
        ran, waited = map(sum, zip(*self.spent.values(), strict=True))
        return ran / (ran + waited)


def planned(options: list[object]) -> tuple[dict[str, Any], float]:
    command = [sys.executable, "-m", "hepflow", "plan", *map(str, options), "--json"]
    started = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout), time.perf_counter() - started


if __name__ == "__main__":
    main()
