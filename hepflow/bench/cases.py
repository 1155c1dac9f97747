"""What is measured: a stage on an input of some size by so many workers, run as the command that a person would type."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hepflow.config import shipped
from hepflow.config_tools import BenchConfig
from hepflow.errors import HepflowError
from hepflow.ledger import read_json

TRAINING = ("train", "spark-train")


@dataclass(frozen=True)
class Case:
    """One thing to measure."""

    stage: str
    """``simulate``, ``ingest``, ``features``, ``train NET`` or ``spark-train NET``."""
    size: int
    """Selected events a class of the input."""
    workers: int
    cores: int = 1
    """Threads of each worker."""


@dataclass(frozen=True)
class Measured:
    """What one run of it gave."""

    stage: str
    size: int
    workers: int
    cores: int
    repeat: int
    events: int
    """That went through it; in a training once an epoch."""
    seconds: float
    """Of the whole command."""
    busy_s: float
    """Of a training without its start and end, else the same."""
    bytes_out: int

    @property
    def case(self) -> Case:
        """What was measured."""
        return Case(self.stage, self.size, self.workers, self.cores)

    @property
    def events_per_s(self) -> float:
        """Throughput while it was busy."""
        return self.events / self.busy_s


def cases(config: BenchConfig) -> Iterator[Case]:
    """Every case of a configuration, the sizes and workers of a stage side by side."""
    for stage in config.stages:
        names = [f"{stage} {net}" for net in config.nets] if stage in TRAINING else [stage]
        for name in names:
            for size in config.sizes:
                for workers in config.workers:
                    for cores in config.cores if stage in TRAINING else (1,):
                        yield Case(name, size, workers, cores)


def prepare(folder: Path, size: int) -> Path:
    """The input of every stage at a size, made once by all cores; its folder."""
    inputs = folder / f"{size}"
    raw, events, store = (inputs / name for name in ("raw", "events", "features.zarr"))
    hepflow("simulate", "--output", raw, "--events", size, "--events_per_file", max(1, size // 8))
    hepflow("ingest", "--input", raw, "--output", events)
    hepflow("features", "--input", events, "--output", store)
    return inputs


def measure(case: Case, repeat: int, inputs: Path, scratch: Path, epochs: int) -> Measured:
    """Run a case, in a folder that is empty before and afterwards.

    Parameters
    ----------
    case : Case
    repeat : int
        Counts the runs of a case.
    inputs : Path
        What `prepare` made.
    scratch : Path
        For the output.
    epochs : int
        Of a training.

    Raises
    ------
    HepflowError
        The command failed.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    output = scratch / "output"
    command = _command(case, inputs, output, epochs)
    start = time.perf_counter()
    hepflow(*command, threads=case.cores)
    seconds = time.perf_counter() - start
    events, busy_s = _done(case, inputs, output)
    n_bytes = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    shutil.rmtree(scratch)
    own: Mapping[str, Any] = vars(case)
    return Measured(**own, repeat=repeat, events=events, seconds=seconds, busy_s=busy_s or seconds, bytes_out=n_bytes)


def _command(case: Case, inputs: Path, output: Path, epochs: int) -> list[object]:
    raw, events, store = (inputs / name for name in ("raw", "events", "features.zarr"))
    stage, _, net = case.stage.partition(" ")
    n = case.workers
    if stage == "simulate":
        per_file = max(1, case.size // 8)
        return ["simulate", "--output", output, "--events", case.size, "--events_per_file", per_file, "--jobs", n]
    if stage == "ingest":
        return ["ingest", "--input", raw, "--output", output, "--spark.master", f"local[{n}]", "--target_partition_mb", 1]
    if stage == "features":
        return ["features", "--input", events, "--output", output, "--cluster.workers", n]
    own = ["--config", shipped(f"train/{net}.yaml"), "--data.store", store, "--output", output, "--threads", case.cores]
    length = ["--trainer.max_epochs", epochs, "--early_stopping.patience", epochs]
    if stage == "spark-train":
        return ["spark-train", *own, *length, "--spark.num_processes", n, "--spark.cpus_per_process", case.cores]
    several = ["--trainer.strategy", "ddp"] if n > 1 else []
    where = ["--trainer.accelerator", "cpu", "--trainer.devices", n, "--trainer.enable_progress_bar", "false"]
    return ["train", "fit", *own, *length, *where, *several]


def _done(case: Case, inputs: Path, output: Path) -> tuple[int, float | None]:
    """Events that went through it, and for how long if that is known."""
    if case.stage == "simulate":
        return sum(int(read_json(path)["written"]) for path in output.glob("*/*.json")), None
    if case.stage == "ingest":
        return int(read_json(output / "_hepflow.json")["ledger"]["n_in"]), None
    if case.stage == "features":
        return int(read_json(inputs / "events" / "_hepflow.json")["ledger"]["n_out"]), None
    record = read_json(output / "run.json")
    return int(record["events_trained"]), float(record["wall_s"])


def hepflow(*arguments: object, threads: int = 0) -> None:
    """Run a command of hepflow, quietly.

    Raises
    ------
    HepflowError
        It failed; with the last lines that it printed.
    """
    environment = dict(os.environ)
    if threads:
        environment |= {"OMP_NUM_THREADS": str(threads), "MASTER_ADDR": "127.0.0.1"}
    command = [sys.executable, "-m", "hepflow", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if result.returncode:
        last = " / ".join(result.stderr.strip().splitlines()[-3:])
        msg = f"`hepflow {' '.join(map(str, arguments))}` ended with {result.returncode}: {last}"
        raise HepflowError(msg)
