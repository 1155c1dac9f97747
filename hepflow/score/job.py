"""`hepflow score`: raw events -> scores, one Parquet file per entry range. A rerun resumes.

Entry ranges are Dask tasks on the clusters of the features stage. Not Spark: nothing is shuffled,
and a net that scores events as they arrive should not wait for the planning of a job.
`hepflow.score.live` runs the same tasks on arriving files.
"""

import logging
import time
from functools import partial
from operator import attrgetter
from pathlib import Path

from hepflow.config.score import ScoreConfig
from hepflow.engines import dask
from hepflow.physics import own
from hepflow.reading.record import judge
from hepflow.score import live
from hepflow.score.folder import ScoreFolder
from hepflow.score.inputs import ranges_of
from hepflow.score.task import CLAIMS, RECORDS, Task, given_up, prepare, score_range
from hepflow.system.locks import exclusive
from hepflow.system.terminal import counted

log = logging.getLogger(__name__)


def run(config: ScoreConfig) -> None:
    """Score the input, or (``stream``) files that arrive in it until interrupted."""
    paths = {"model": config.model, "input": config.input, "output": config.output}
    dask.prepare(config.cluster, paths)
    scorer, task, about = prepare(config)
    module = own.loose_file(config.physics)
    with exclusive(config.output, RECORDS, CLAIMS):
        folder = ScoreFolder(task.output, about, config.overwrite, config.retry_quarantined)
        if config.stream:
            with dask.dask_client(config.cluster, config.in_flight, module) as client:
                live.run(config, folder, task, scorer.net.spread, client)
        else:
            _score_all(config, folder, task, module)
        judge(folder.ledger.lost, folder.n_files, config.max_lost_files, config.output)


def _score_all(config: ScoreConfig, folder: ScoreFolder, task: Task, module: Path | None) -> None:
    ranges = ranges_of(config.input, task.access, config.target_partition_mb << 20)
    pending = sorted(folder.pending(ranges), key=lambda entries: -entries.size)
    n_done, rate = len(ranges) - len(pending), ""
    if not pending:
        files = counted(folder.n_files, "file")
        log.info("%s is up to date: %s scored before", config.output, files)
        dask.nothing_to_do(config.cluster)
    else:
        if n_done:
            log.info("%d of %d entry ranges are scored, resuming", n_done, len(ranges))
        with dask.dask_client(config.cluster, len(pending), module) as client:
            before, started = folder.ledger.n_in, time.perf_counter()
            work, failed = partial(score_range, task=task), partial(given_up, task=task)
            n_in = attrgetter("ledger.n_in")  # events of a range
            for record in dask.watch(
                client, work, pending, "score", "entry ranges", n_events=n_in, failed=failed
            ):
                folder.add(record)
            n_events = folder.ledger.n_in - before
            rate = f", {n_events / (time.perf_counter() - started):,.0f} events/s"
    folder.write(complete=True)
    streams = "".join(f", {count:,} kept by {name}" for name, count in folder.accepted.items())
    log.info("%s holds the scores: %s%s%s", config.output, folder.ledger.summary(), streams, rate)
