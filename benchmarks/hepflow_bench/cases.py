"""The measurements: a stage as the command that a user would type, or its rival."""

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

from hepflow.config.shipped import shipped
from hepflow.config.tools import BenchConfig
from hepflow.data.output import MARKER
from hepflow.data.runs import ONNX, RECORD
from hepflow.errors import HepflowError
from hepflow.system import processes
from hepflow.system.files import read_json, write_json
from hepflow.system.terminal import bar
from hepflow_bench.copies import multiply

log = logging.getLogger(__name__)

OURS = "hepflow"
RIVALS = {"ingest": "uproot + pyarrow", "train": "stock PyTorch"}
"""Stage -> what `hepflow_bench.rivals` runs for comparison, in one process."""
WITH_RIVAL = ("hlf", "sequence", "inclusive")
"""Nets that the rival implements."""
GPU = "train-gpu"
TRAINING = ("train", "spark-train", GPU)
"""Stages that record the time of the training, without the start-up of the command."""
BY_NET = (*TRAINING, "score")
BATCH = 128
"""Events per batch and training process, as in the published measurements."""
THREADED = ("train", "spark-train")
"""Stages whose processes use threads."""


@dataclass(frozen=True)
class Case:
    """One measurement."""

    stage: str
    """``simulate``, ``ingest``, ``features``, or one of `BY_NET` and a net: ``train hlf``."""
    size: int
    """Selected events per class in the input."""
    workers: int
    """Processes, or GPUs."""
    cores: int = 1
    """Threads of each worker."""
    way: str = OURS
    """hepflow, or the name of a rival."""

    @property
    def kind(self) -> str:
        """The stage without the net."""
        return self.stage.partition(" ")[0]


@dataclass(frozen=True)
class Measured:
    """The result of one run of a case."""

    stage: str
    size: int
    workers: int
    cores: int
    repeat: int
    events: int
    """Processed events; in a training, once per epoch."""
    seconds: float
    """Wall time of the whole command."""
    busy_s: float
    """Training time, without start-up and shutdown; for other stages the same as ``seconds``."""
    bytes_out: int
    way: str = OURS
    began: str = ""
    """UTC."""
    load: float = 0.0
    """Load average of the machine before the run, from other programs."""

    @property
    def case(self) -> Case:
        """The case."""
        return Case(self.stage, self.size, self.workers, self.cores, self.way)

    @property
    def events_per_s(self) -> float:
        """Throughput within ``busy_s``."""
        return self.events / self.busy_s


def cases(config: BenchConfig, n_gpus: int) -> Iterator[Case]:
    """Yield the cases of a configuration; those to be compared follow each other.

    Trainings that need more GPUs than there are (``n_gpus``) are left out.
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
        net = case.stage.partition(" ")[2]
        return config.stages.index(first), net, case.size, case.workers, case.cores

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
    """Create the input of every stage at a size once, with all cores, and return its folder.

    Parameters
    ----------
    size : int
        Selected events per class.
    copies : int
        Number of copies of each file for the stages after simulate.
    scored : sequence of str
        Nets for the score stage; one epoch of training, since a bad net scores as fast.
    code : str
        Hash of the code; an existing input of the same code is kept.
    """
    inputs = folder / f"{size}"
    ready = inputs / "ready.json"
    there = read_json(ready) if ready.is_file() else {}
    nets: list[str] = []
    raw, events, store = (inputs / name for name in ("raw", "events", "features.zarr"))
    if there.get("code") == code:
        nets = there["nets"]
    else:
        log.info("creating the input: %s selected events per class, x %d", f"{size:,}", copies)
        # one file per class, at every size
        _make("simulate", "--output", raw, "--events", size, "--events_per_file", size)
        multiply(raw, copies)
        _make("ingest", "--input", raw, "--output", events)
        _make("features", "--input", events, "--output", store)
        write_json(ready, {"code": code, "nets": nets})
    for net in (net for net in scored if net not in nets):
        own = ("--config", shipped(f"train/{net}.yaml"), "--data.store", store)
        length = ("--trainer.max_epochs", 1, "--trainer.enable_progress_bar", "false")
        _make("train", "fit", *own, *length, "--output", inputs / "runs" / net)
        nets = [*nets, net]
        write_json(ready, {"code": code, "nets": nets})
    return inputs


def _make(stage: str, *arguments: object) -> None:
    log.info("  hepflow %s", stage)
    with bar(stage, None, transient=True):
        hepflow(stage, *arguments, "--overwrite")


def measure(case: Case, repeat: int, inputs: Path, scratch: Path, epochs: int) -> Measured:
    """Run a case on the inputs of `prepare`, and delete its output in ``scratch``.

    Raises
    ------
    HepflowError
        The command failed.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    output = scratch / "output"
    began = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    load = round(os.getloadavg()[0], 2)
    start = time.perf_counter()
    if case.way == OURS:
        most = _epoch_events(inputs / "features.zarr") if case.kind in TRAINING else sys.maxsize
        command = _command(case, inputs, output, epochs, most)
        hepflow(*command, threads=0 if case.kind == GPU else case.cores)
    else:
        program = (sys.executable, "-m", "hepflow_bench.rivals")
        _run([*program, *case.stage.split(), inputs, output, epochs], threads=case.cores)
    seconds = time.perf_counter() - start
    events, busy_s = _done(case, inputs, output)
    n_bytes = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    shutil.rmtree(scratch)
    own: dict[str, Any] = asdict(case)
    own |= {"repeat": repeat, "events": events, "seconds": seconds, "busy_s": busy_s or seconds}
    return Measured(**own, bytes_out=n_bytes, began=began, load=load)


def _epoch_events(store: Path) -> int:
    """Return the events of a balanced epoch, the limit of the batch size."""
    counts = read_json(store / "zarr.json")["attributes"]["hepflow"]["counts"]["train"]
    return min(counts.values()) * len(counts)


def _command(
    case: Case, inputs: Path, output: Path, epochs: int, most_events: int = sys.maxsize
) -> list[object]:
    raw, events, store = (inputs / name for name in ("raw", "events", "features.zarr"))
    kind, _, net = case.stage.partition(" ")
    n = case.workers
    if kind == "simulate":
        files = ["--events", case.size, "--events_per_file", max(1, case.size // 8)]
        return ["simulate", "--output", output, *files, "--jobs", n]
    if kind == "ingest":
        spark = ["--spark.master", f"local[{n}]", "--target_partition_mb", 8]
        return ["ingest", "--input", raw, "--output", output, *spark]
    if kind == "features":
        return ["features", "--input", events, "--output", output, "--cluster.workers", n]
    if kind == "score":
        model = ["--model", inputs / "runs" / net / ONNX]
        return ["score", *model, "--input", raw, "--output", output, "--cluster.workers", n]
    own = ["--config", shipped(f"train/{net}.yaml"), "--data.store", store, "--output", output]
    own += ["--data.batch_size", min(BATCH * n, most_events)]
    length = ["--trainer.max_epochs", epochs, "--early_stopping.patience", epochs]
    if kind == "spark-train":
        spark = ["--spark.num_processes", n, "--spark.cpus_per_process", case.cores]
        return ["spark-train", *own, *length, "--threads", case.cores, *spark]
    several = ["--trainer.strategy", "ddp"] if n > 1 else []
    where = ["--trainer.devices", n, "--trainer.enable_progress_bar", "false", *several]
    device = ["gpu"] if kind == GPU else ["cpu", "--threads", case.cores]
    return ["train", "fit", *own, *length, *where, "--trainer.accelerator", *device]


def _done(case: Case, inputs: Path, output: Path) -> tuple[int, float | None]:
    """Return the processed events, and the time for them if it was recorded."""
    if case.way != OURS or case.kind in TRAINING:
        record = read_json(output / RECORD)
        return int(record["events_trained"]), record["wall_s"]
    if case.kind == "simulate":
        return sum(int(read_json(path)["written"]) for path in output.glob("*/*.json")), None
    if case.kind == "features":
        return int(read_json(inputs / "events" / MARKER)["ledger"]["n_out"]), None
    return int(read_json(output / MARKER)["ledger"]["n_in"]), None


def hepflow(*arguments: object, threads: int = 0) -> None:
    """Run a hepflow command quietly; the error of a failed one quotes its last lines."""
    _run([sys.executable, "-m", "hepflow", *arguments], threads)


def _run(arguments: Sequence[object], threads: int) -> None:
    environment = dict(os.environ)
    if threads:
        environment |= {"OMP_NUM_THREADS": str(threads), "MASTER_ADDR": "127.0.0.1"}
    words = [str(word) for word in arguments]
    result = processes.run(words, quiet=True, environment=environment)
    if result.returncode:
        last = " / ".join(result.stderr.strip().splitlines()[-3:])
        raise HepflowError(
            f"`{' '.join(words[2:])}` failed (exit status {result.returncode}): {last}"
        )
