"""`hepflow score`: raw events -> scores, one Parquet file per entry range. A rerun resumes.

Entry ranges are Dask tasks on the clusters of the features stage. Not Spark: nothing is shuffled,
and a net that scores events as they arrive should not wait for the planning of a job.
`hepflow.score.live` runs the same tasks on arriving files.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

from distributed import Client

from hepflow.config.score import ScoreConfig
from hepflow.data.provenance import digest
from hepflow.engines import dask
from hepflow.errors import DataError
from hepflow.physics import own
from hepflow.reading.reader import Access
from hepflow.schema import SCORES_SCHEMA_VERSION
from hepflow.score import live
from hepflow.score.folder import ScoreFolder, describe
from hepflow.score.inputs import ranges_of
from hepflow.score.scorer import Scorer
from hepflow.score.task import Task, given_up, score_range
from hepflow.score.working_points import resolve
from hepflow.system.locks import exclusive
from hepflow.system.terminal import counted

log = logging.getLogger(__name__)

_NAMED = 20
"""Bad files named on the screen; their records name all."""


def run(config: ScoreConfig) -> None:
    """Score the input, or (``stream``) files that arrive in it until interrupted."""
    scorer, task, about = prepare(config)
    with exclusive(config.output):
        retry = config.retry_quarantined
        folder = ScoreFolder(task.output, about, overwrite=config.overwrite, retry_lost=retry)
        if config.stream:
            with _workers(config, config.in_flight) as client:
                live.run(config, folder, task, scorer.net.spread, client)
        else:
            _score_all(config, folder, task)
        judge(folder, config)


def prepare(config: ScoreConfig, topic: str = "") -> tuple[Scorer, Task, dict[str, Any]]:
    """Load the model, so that its errors come before any work, and describe the work."""
    scorer = Scorer(config.model, config.physics, config.store)
    net, inputs = scorer.net, scorer.inputs
    points = resolve(config.working_point, config.report, net)
    physics, tree = scorer.physics_identity, config.tree
    key = digest(SCORES_SCHEMA_VERSION, net.identity, physics, points, tree, topic)
    task = Task(
        config.output.absolute(),
        config.model.absolute(),
        net.identity,
        config.physics,
        points,
        Access(tree, config.retries, config.timeout_s),
        key,
    )
    model = {"file": str(config.model), "hash": net.identity, "net": net.net}
    about = {
        "key": key,
        "model": {**model, "store": inputs.provenance},
        "topic": topic,
        "tree": tree,
        "classes": list(inputs.classes),
        "hlf": list(inputs.hlf),
        "definitions": inputs.definitions,
        "physics": physics,
        "working_points": [asdict(point) for point in points],
    }
    return scorer, task, about


@contextmanager
def _workers(config: ScoreConfig, n_tasks: int) -> Iterator[Client]:
    with dask.dask_client(config.cluster, n_tasks) as client:
        loose = own.loose_file(config.physics)
        if loose is not None:
            client.upload_file(str(loose))
        yield client


def _score_all(config: ScoreConfig, folder: ScoreFolder, task: Task) -> None:
    ranges = ranges_of(config.input, task.access, config.target_partition_mb << 20)
    pending = sorted(folder.pending(ranges), key=lambda entries: -entries.size)
    n_done, rate = len(ranges) - len(pending), ""
    if not pending:
        files = counted(folder.n_files, "file")
        log.info("%s is up to date: %s scored before", config.output, files)
    elif n_done:
        log.info("%d of %d entry ranges are scored, resuming", n_done, len(ranges))
    if pending:
        with _workers(config, len(pending)) as client:
            before, started = folder.ledger.n_in, time.perf_counter()
            for record in dask.watch(
                client,
                partial(score_range, task=task),
                pending,
                "score",
                "entry ranges",
                n_events=lambda record: record.ledger.n_in,
                failed=partial(given_up, task=task),
            ):
                folder.add(record)
            n_events = folder.ledger.n_in - before
            rate = f", {n_events / (time.perf_counter() - started):,.0f} events/s"
    folder.write(complete=True)
    streams = "".join(f", {count:,} kept by {name}" for name, count in folder.accepted.items())
    log.info("%s holds the scores: %s%s%s", config.output, folder.ledger.summary(), streams, rate)


def judge(folder: ScoreFolder, config: ScoreConfig) -> None:
    """Name the files (or messages) that lost events, and raise if they are more than allowed."""
    lost = list(folder.lost.values())
    for items in lost[:_NAMED]:
        log.warning("quarantined %s", describe(items))
    if len(lost) > _NAMED:
        log.warning("... and %d more, see the records in %s", len(lost) - _NAMED, config.output)
    if len(lost) > config.max_lost_files:
        n_lost, advice = counted(len(lost), "message"), "Allow"
        if not config.reads_topic:
            n_lost = f"{len(lost)} of {counted(folder.n_files, 'file')}"
            advice = "Repair them and run again, or allow"
        raise DataError(
            f"{config.output}: {n_lost} lost events (the first: {describe(lost[0])}), "
            f"{config.max_lost_files} allowed; the rest is done. {advice} it with "
            f"--max-lost-files {len(lost)}."
        )
