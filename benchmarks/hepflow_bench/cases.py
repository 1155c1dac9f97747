"""What is measured: a stage on an input of some size by so many workers, run as the command that a person would type; or its rival."""

import datetime as dt
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from hepflow.config.shipped import shipped
from hepflow.config.tools import BenchConfig
from hepflow.errors import HepflowError
from hepflow.system import processes
from hepflow.system.files import read_json, write_json
from hepflow.system.terminal import MESSAGES, counted
from hepflow_bench.copies import multiply

log = logging.getLogger(__name__)

OURS = "hepflow"
RIVALS = {"ingest": "uproot + pyarrow", "train": "stock PyTorch"}
"""Stage -> what `hepflow_bench.rivals` runs beside it, in one process."""
WITH_RIVAL = ("hlf", "sequence", "inclusive")
"""Nets that it knows."""
GPU = "train-gpu"
TRAINING = ("train", "spark-train", GPU)
"""Of these the time within the training is known, beside that of the whole command."""
BY_NET = (*TRAINING, "score")
BATCH = 128
"""Events in a batch of each process of a training, as in the published ones."""
THREADED = ("train", "spark-train")
"""Stages whose processes use threads."""


@dataclass(frozen=True)
class Case:
    """One thing to measure."""

    stage: str
    """``simulate``, ``ingest``, ``features``, or one of `BY_NET` and a net, such as ``train hlf``."""
    size: int
    """Selected events a class of the input."""
    workers: int
    """Processes, or GPUs."""
    cores: int = 1
    """Threads of each worker."""
    way: str = OURS
    """Or the name of a rival."""

    @property
    def kind(self) -> str:
        """The stage without the net."""
        return self.stage.partition(" ")[0]


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
    way: str = OURS
    began: str = ""
    """UTC."""
    load: float = 0.0
    """Load average of the machine before it began: what else was running."""

    @property
    def case(self) -> Case:
        """What was measured."""
        return Case(self.stage, self.size, self.workers, self.cores, self.way)

    @property
    def events_per_s(self) -> float:
        """Throughput while it was busy."""
        return self.events / self.busy_s


def cases(config: BenchConfig, n_gpus: int) -> Iterator[Case]:
    """Every case of a configuration; what is compared stands side by side.

    Parameters
    ----------
    config : BenchConfig
    n_gpus : int
        Of this machine: trainings that need more are left out.
    """
    found = [
        case
        for stage in config.stages
        for case in _of_stage(config, stage)
        if case.kind != GPU or case.workers <= n_gpus
    ]
    trainings = [stage for stage in config.stages if stage in TRAINING]

    def place(case: Case) -> tuple[object, ...]:
        first = trainings[0] if case.kind in TRAINING else case.kind
        return (
            config.stages.index(first),
            case.stage.partition(" ")[2],
            case.size,
            case.workers,
            case.cores,
        )

    yield from sorted(found, key=place)


def _of_stage(config: BenchConfig, stage: str) -> Iterator[Case]:
    for net in config.nets if stage in BY_NET else ("",):
        name = f"{stage} {net}".strip()
        for size in config.sizes:
            for cores in config.cores if stage in THREADED else (1,):
                yield from (Case(name, size, workers, cores) for workers in config.workers)
                if stage in RIVALS and (not net or net in WITH_RIVAL):
                    yield Case(name, size, 1, cores, RIVALS[stage])


def prepare(folder: Path, size: int, copies: int, scored: Sequence[str], code: str) -> Path:
    """The input of every stage at a size, made once by all cores; its folder.

    Parameters
    ----------
    folder : Path
    size : int
        Selected events a class.
    copies : int
        Times that every file goes into the stages after simulate.
    scored : sequence of str
        Nets to train for the score stage: a short training, since it costs the same to score with a bad net.
    code : str
        What is there counts if the same code made it.
    """
    inputs = folder / f"{size}"
    ready = inputs / "ready.json"
    there = read_json(ready) if ready.is_file() else {}
    nets: list[str] = []
    raw, events, store = (inputs / name for name in ("raw", "events", "features.zarr"))
    if there.get("code") == code:
        nets = there["nets"]
    else:
        log.info(
            "making the input: %s selected events a class, %s", f"{size:,}", counted(copies, "time")
        )
        _make(
            "simulate", "--output", raw, "--events", size, "--events_per_file", size
        )  # at every size as many files
        multiply(raw, copies)
        _make("ingest", "--input", raw, "--output", events)
        _make("features", "--input", events, "--output", store)
        write_json(ready, {"code": code, "nets": nets})
    for net in (net for net in scored if net not in nets):
        own = (
            "--config",
            shipped(f"train/{net}.yaml"),
            "--data.store",
            store,
            "--output",
            inputs / "runs" / net,
        )
        _make(
            "train",
            "fit",
            *own,
            "--trainer.max_epochs",
            1,
            "--trainer.enable_progress_bar",
            "false",
        )
        nets = [*nets, net]
        write_json(ready, {"code": code, "nets": nets})
    return inputs


def _make(stage: str, *arguments: object) -> None:
    """Run a command on the way to the input, and show for how long it has been at it."""
    log.info("  hepflow %s", stage)
    columns = (SpinnerColumn(), TextColumn(stage), TimeElapsedColumn())
    with Progress(*columns, console=MESSAGES, transient=True) as progress:
        progress.add_task(stage, total=None)
        hepflow(stage, *arguments, "--overwrite")


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
    began, load = (
        dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        round(os.getloadavg()[0], 2),
    )
    start = time.perf_counter()
    if case.way == OURS:
        most = _epoch_events(inputs / "features.zarr") if case.kind in TRAINING else sys.maxsize
        hepflow(
            *_command(case, inputs, output, epochs, most),
            threads=0 if case.kind == GPU else case.cores,
        )
    else:
        _run(
            [
                sys.executable,
                "-m",
                "hepflow_bench.rivals",
                *case.stage.split(),
                inputs,
                output,
                epochs,
            ],
            threads=case.cores,
        )
    seconds = time.perf_counter() - start
    events, busy_s = _done(case, inputs, output)
    n_bytes = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    shutil.rmtree(scratch)
    own: dict[str, Any] = asdict(case)
    busy_s = busy_s or seconds
    return Measured(
        **own,
        repeat=repeat,
        events=events,
        seconds=seconds,
        busy_s=busy_s,
        bytes_out=n_bytes,
        began=began,
        load=load,
    )


def _epoch_events(store: Path) -> int:
    """Events of a balanced epoch: no batch may be larger."""
    counts = read_json(store / "zarr.json")["attributes"]["hepflow"]["counts"]["train"]
    return min(counts.values()) * len(counts)


def _command(
    case: Case, inputs: Path, output: Path, epochs: int, most_events: int = sys.maxsize
) -> list[object]:
    raw, events, store = (inputs / name for name in ("raw", "events", "features.zarr"))
    kind, _, net = case.stage.partition(" ")
    n = case.workers
    if kind == "simulate":
        return [
            "simulate",
            "--output",
            output,
            "--events",
            case.size,
            "--events_per_file",
            max(1, case.size // 8),
            "--jobs",
            n,
        ]
    if kind == "ingest":
        return [
            "ingest",
            "--input",
            raw,
            "--output",
            output,
            "--spark.master",
            f"local[{n}]",
            "--target_partition_mb",
            8,
        ]
    if kind == "features":
        return ["features", "--input", events, "--output", output, "--cluster.workers", n]
    if kind == "score":
        return [
            "score",
            "--model",
            inputs / "runs" / net / "model.onnx",
            "--input",
            raw,
            "--output",
            output,
            "--cluster.workers",
            n,
        ]
    own = [
        "--config",
        shipped(f"train/{net}.yaml"),
        "--data.store",
        store,
        "--output",
        output,
        "--data.batch_size",
        min(BATCH * n, most_events),
    ]
    length = ["--trainer.max_epochs", epochs, "--early_stopping.patience", epochs]
    if kind == "spark-train":
        return [
            "spark-train",
            *own,
            *length,
            "--threads",
            case.cores,
            "--spark.num_processes",
            n,
            "--spark.cpus_per_process",
            case.cores,
        ]
    several = ["--trainer.strategy", "ddp"] if n > 1 else []
    where = ["--trainer.devices", n, "--trainer.enable_progress_bar", "false", *several]
    where += (
        ["--trainer.accelerator", "gpu"]
        if kind == GPU
        else ["--trainer.accelerator", "cpu", "--threads", case.cores]
    )
    return ["train", "fit", *own, *length, *where]


def _done(case: Case, inputs: Path, output: Path) -> tuple[int, float | None]:
    """Events that went through it, and for how long if that is known."""
    if case.way != OURS or case.kind in TRAINING:
        record = read_json(output / "run.json")
        return int(record["events_trained"]), record["wall_s"]
    if case.kind == "simulate":
        return sum(int(read_json(path)["written"]) for path in output.glob("*/*.json")), None
    if case.kind == "features":
        return int(read_json(inputs / "events" / "_hepflow.json")["ledger"]["n_out"]), None
    return int(read_json(output / "_hepflow.json")["ledger"]["n_in"]), None


def hepflow(*arguments: object, threads: int = 0) -> None:
    """Run a command of hepflow, quietly.

    Raises
    ------
    HepflowError
        It failed; with the last lines that it printed.
    """
    _run([sys.executable, "-m", "hepflow", *arguments], threads)


def _run(arguments: Sequence[object], threads: int) -> None:
    environment = dict(os.environ)
    if threads:
        environment |= {"OMP_NUM_THREADS": str(threads), "MASTER_ADDR": "127.0.0.1"}
    words = [str(word) for word in arguments]
    result = processes.run(words, quiet=True, environment=environment)
    if result.returncode:
        last = " / ".join(result.stderr.strip().splitlines()[-3:])
        raise HepflowError(f"`{' '.join(words[2:])}` ended with {result.returncode}: {last}")
