"""A short training on the sample's store, as its real command, and the scoring of sampled ranges.

The trained net is bad, and as fast as a good one.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from hepflow.config.plan import PlanConfig
from hepflow.config.score import ScoreConfig
from hepflow.config.train import MAX_EPOCHS
from hepflow.data.runs import CONFIG, PREDICTIONS, read_record
from hepflow.engines import dask
from hepflow.errors import HepflowError
from hepflow.reading.ranges import EntryRange
from hepflow.score.folder import ScoreFolder
from hepflow.score.task import prepare, score_task, scorer_of
from hepflow.system.processes import scheduled, timed
from hepflow.system.storage import sizes_below
from hepflow.tools.plan.sample import workers

BATCHES = 30  # per epoch, of which the second is timed
SCORED = 4000  # events
_POLL_S = 0.2


@dataclass(frozen=True)
class Trained:
    """The training of a net on the sample."""

    net: Path
    run: Path
    options: Mapping[str, Any]
    """Its whole configuration."""
    epochs: int
    """Maximum number of epochs, as configured."""
    train_s: float
    """Seconds per event of an epoch."""
    start_s: float
    """Seconds of the command without its epochs."""
    threads: int
    files_out: int
    bytes_out: int
    """Bytes of the run folder, except its predictions."""
    prediction_bytes: float
    """Bytes per test event."""
    peak_bytes: int


@dataclass(frozen=True)
class Scored:
    """The scoring of some ranges."""

    n_events: int
    seconds: float
    bytes_out: int
    files_out: int
    """Files next to those of the tasks."""
    peak_bytes: int


def train(net: Path, store: Path, run: Path) -> Trained:
    """Train on a few batches; an error of the command is a HepflowError with its last line."""
    content = yaml.safe_load(net.read_text()) or {}
    words = ["train", "fit", "--config", str(net), "--data.store", str(store), "--output", str(run)]
    words += ["--trainer.max_epochs", "2", "--trainer.limit_train_batches", str(BATCHES)]
    words += ["--trainer.limit_val_batches", "1", "--trainer.limit_test_batches", "1"]
    words += ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
    started = time.perf_counter()
    peak_bytes, share = _run(words)
    seconds = time.perf_counter() - started
    record, sizes = read_record(run), sizes_below(run)
    *_, last = record["history"]
    written, n_test = sizes.pop(PREDICTIONS), pq.read_metadata(run / PREDICTIONS).num_rows
    options = yaml.safe_load((run / CONFIG).read_text())
    return Trained(
        net=net,
        run=run,
        options=options,
        epochs=int((content.get("trainer") or {}).get("max_epochs", MAX_EPOCHS)),
        train_s=share / last["events_per_s"],
        start_s=share * (seconds - record["wall_s"]),
        threads=int(record["threads"]),
        files_out=len(sizes) + 1,
        bytes_out=sum(sizes.values()),
        prediction_bytes=written / max(1, n_test),
        peak_bytes=peak_bytes,
    )


def _run(words: Sequence[str]) -> tuple[int, float]:
    """Run a hepflow command quietly; return the most memory that it used, and its share of cores.

    The share is the fraction of time in which its threads had a core when they wanted one.
    """
    with tempfile.TemporaryFile("w+") as said:
        command = [sys.executable, "-m", "hepflow", *words]
        process = subprocess.Popen(command, stdout=said, stderr=said)
        spent: dict[str, tuple[float, float]] = {}
        try:
            while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
                for thread in Path(f"/proc/{process.pid}/task").glob("*"):
                    now = scheduled(f"{process.pid}/task/{thread.name}")
                    spent[thread.name] = max(now, spent.get(thread.name, now))
                time.sleep(_POLL_S)
        except BaseException:
            process.kill()
            process.wait()
            raise
        _, status, usage = ended
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            *_, last = ["no message", *said.read().strip().splitlines()]
            raise HepflowError(last.removeprefix("hepflow: error: "))
    ran, waited = map(sum, zip((0.0, 0.0), *spent.values(), strict=True))
    return usage.ru_maxrss * 1024, ran / (ran + waited) if ran else 1.0


def score(
    config: PlanConfig, ranges: Sequence[tuple[EntryRange, int]], model: Path, output: Path
) -> Scored:
    """Score ranges, each with its number of events, until there are enough."""
    reading: Any = {name: getattr(config, name) for name in ("tree", "retries", "timeout_s")}
    own: Any = {"model": model, "output": output, "physics": config.physics}
    _, task, about = prepare(ScoreConfig(**own, **reading))
    folder = ScoreFolder(task.output, about)
    task = replace(task, run=folder.run)
    chosen, n_events = [], 0
    for one, n in ranges:
        if n_events < SCORED:
            chosen.append(one)
            n_events += n
    with workers(dask.worker_environment(), scorer_of, task) as pool:
        futures = [pool.submit(timed, score_task, (one,), task) for one in chosen]
        done = [future.result() for future in futures]
    for record, *_ in done:
        folder.add(record)
    folder.finish(complete=True)
    sizes = sizes_below(output)
    return Scored(
        n_events=sum(record.ledger.n_in for record, *_ in done),
        seconds=sum(seconds for _, seconds, _ in done),
        bytes_out=sum(sizes.values()),
        files_out=sum(not name.endswith(".parquet") for name in sizes),
        peak_bytes=max(peak for *_, peak in done),
    )
