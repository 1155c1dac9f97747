"""`hepflow score`: raw events -> scores, one Parquet file per task. A rerun resumes.

A task scores many small files, or an entry range of a large one, on the Dask clusters of the
features stage. Not Spark: nothing is shuffled, and a net that scores events as they arrive should
not wait for the planning of a job. `hepflow.score.live` runs the same tasks on arriving files.
"""

import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from operator import attrgetter
from pathlib import Path

from distributed import Client

from hepflow.config.score import ScoreConfig
from hepflow.data.file_lists import read_list
from hepflow.data.task_records import RECORDS
from hepflow.engines import dask
from hepflow.physics import own
from hepflow.reading.ranges import EntryRange
from hepflow.reading.record import judge
from hepflow.score import live
from hepflow.score.claims import CLAIMS
from hepflow.score.folder import ScoreFolder
from hepflow.score.inputs import ranges_of, tasks_of
from hepflow.score.record import ScoreRecord
from hepflow.score.task import Task, given_up, prepare, score_task
from hepflow.system.locks import exclusive
from hepflow.system.terminal import counted

log = logging.getLogger(__name__)


def run(config: ScoreConfig) -> None:
    """Score the input, or (``stream``) files that arrive in it until interrupted."""
    paths = {"model": config.model, "input": config.input, "output": config.output}
    dask.prepare(config.cluster, paths)
    scorer, task, about = prepare(config)
    module = own.loose_file(config.physics)
    only = None if config.only is None else read_list(config.only, config.input).keys()
    with exclusive(config.output, RECORDS, CLAIMS):
        retry = config.retry_quarantined if only is None else only
        folder = ScoreFolder(task.output, about, config.overwrite, retry)
        task = replace(task, run=folder.run)
        if config.stream:
            with dask.dask_client(config.cluster, config.in_flight, module) as client:
                live.run(config, folder, task, scorer.net.spread, client)
        else:
            _score_all(config, folder, task, module, only)
        judge(folder.ledger.lost, folder.n_files, config.max_lost_files, config.output)


def _score_all(
    config: ScoreConfig,
    folder: ScoreFolder,
    task: Task,
    module: Path | None,
    only: Collection[str] | None,
) -> None:
    target = config.target_partition_mb << 20
    ranges = [] if only == set() else ranges_of(config.input, task.access, target, only)
    pending = folder.pending(ranges)
    n_done, rate = len(ranges) - len(pending), ""
    if not pending:
        files = counted(folder.n_files, "file")
        log.info("%s is up to date: %s scored before", config.output, files)
        dask.nothing_to_do(config.cluster)
    else:
        if n_done:
            log.info("%d of %d entry ranges are scored, resuming", n_done, len(ranges))
        tasks = tasks_of(pending, target)
        with dask.dask_client(config.cluster, len(tasks), module) as client:
            before, started = folder.counts.n_in, time.perf_counter()
            # A file that kills its worker takes the tasks with it that the worker has next.
            deadly = _score(tasks, folder, task, client)
            for one in _score([(one,) for one in deadly], folder, task, client):
                if _score([(one,)], folder, task, client):
                    folder.add(given_up(one, task))
            n_events = folder.counts.n_in - before
            rate = f", {n_events / (time.perf_counter() - started):,.0f} events/s"
    folder.finish(complete=True)
    streams = "".join(f", {count:,} kept by {name}" for name, count in folder.accepted.items())
    log.info("%s holds the scores: %s%s%s", config.output, folder.ledger.summary(), streams, rate)


def _score(
    tasks: Sequence[tuple[EntryRange, ...]], folder: ScoreFolder, task: Task, client: Client
) -> list[EntryRange]:
    """Run tasks, and return the ranges of those that killed their workers."""
    killed: list[EntryRange] = []

    def failed(ranges: Sequence[EntryRange]) -> ScoreRecord:
        killed.extend(ranges)
        return ScoreRecord.of_task("", (), None)

    if tasks:
        work, n_in = partial(score_task, task=task), attrgetter("ledger.n_in")
        for record in dask.watch(
            client, work, tasks, "score", "tasks", n_events=n_in, failed=failed
        ):
            if record.ranges:
                folder.add(record)
    return killed
