"""`hepflow score`: raw events -> scores, one Parquet file a share of the input. A rerun does what is missing.

The shares are Dask tasks, as the fragments of the features stage are, on the same clusters. Not Spark: nothing here shuffles, and a net
that is scored as events arrive should not wait for a job to be planned. `hepflow.score.live` runs the same tasks on what arrives.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from distributed import Client, as_completed
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)

from hepflow.config.score import ScoreConfig
from hepflow.data.provenance import digest
from hepflow.engines import dask
from hepflow.errors import DataError
from hepflow.reading.ranges import EntryRange
from hepflow.reading.reader import Access
from hepflow.schema import SCORES_SCHEMA_VERSION
from hepflow.score import live
from hepflow.score.folder import ScoreFolder
from hepflow.score.inputs import splits_of
from hepflow.score.pool import outcome, submit, told, upload
from hepflow.score.scorer import Scorer
from hepflow.score.task import Task
from hepflow.score.working_points import resolve
from hepflow.system.locks import exclusive
from hepflow.system.terminal import MESSAGES, counted

log = logging.getLogger(__name__)

_NAMED = 20
"""Bad files named on the screen; their records have them all."""


def run(config: ScoreConfig) -> None:
    """Score what is in the input, or (``stream``) what arrives in it until interrupted.

    Raises
    ------
    DataError
        The model or the input cannot be used, or more files are lost than allowed.
    """
    scorer, task, about = prepare(config)
    with exclusive(config.output):
        folder = ScoreFolder(
            task.output, about, overwrite=config.overwrite, retry_lost=config.retry_quarantined
        )
        if config.stream:
            with dask.connect(config.cluster, config.in_flight) as client:
                upload(client, task)
                live.run(config, folder, task, scorer.net.spread, client)
        else:
            _score_all(config, folder, task)
        judge(folder, config)


def prepare(config: ScoreConfig, topic: str = "") -> tuple[Scorer, Task, dict[str, Any]]:
    """Load the model once, so that whatever is wrong with it is said before any work, and describe the work."""
    scorer = Scorer(config.model, config.physics, config.store)
    points = resolve(config.working_point, config.report, scorer.net)
    key = digest(
        SCORES_SCHEMA_VERSION,
        scorer.net.identity,
        scorer.physics_identity,
        points,
        config.tree,
        topic,
    )
    access = Access(config.tree, config.retries, config.timeout_s)
    task = Task(
        config.output.absolute(),
        config.model.absolute(),
        scorer.net.identity,
        config.physics,
        points,
        access,
        key,
    )
    about: dict[str, Any] = {
        "key": key,
        "model": {
            "file": str(config.model),
            "hash": scorer.net.identity,
            "net": scorer.net.net,
            "store": scorer.inputs.provenance,
        },
        "topic": topic,
        "tree": config.tree,
        "classes": list(scorer.inputs.classes),
        "hlf": list(scorer.inputs.hlf),
        "definitions": scorer.inputs.definitions,
        "physics": scorer.physics_identity,
        "working_points": [asdict(point) for point in points],
    }
    return scorer, task, about


def _score_all(config: ScoreConfig, folder: ScoreFolder, task: Task) -> None:
    splits = splits_of(config.input, task.access, config.target_partition_mb << 20)
    pending = folder.pending(splits)
    if not pending:
        log.info(
            "%s is up to date: %s scored before", config.output, counted(folder.n_files, "file")
        )
    elif len(pending) < len(splits):
        log.info(
            "%d of %d shares of files are done, going on with the rest",
            len(splits) - len(pending),
            len(splits),
        )
    rate, before = "", folder.ledger.n_in
    if pending:
        with dask.connect(config.cluster, len(pending)) as client:
            upload(client, task)
            started = time.perf_counter()
            _run_tasks(client, pending, task, folder)
            rate = (
                f", {(folder.ledger.n_in - before) / (time.perf_counter() - started):,.0f} events/s"
            )
    folder.write(complete=True)
    streams = "".join(f", {count:,} kept by {name}" for name, count in folder.accepted.items())
    log.info("%s holds the scores: %s%s%s", config.output, folder.ledger.summary(), streams, rate)


def _run_tasks(
    client: Client, pending: Sequence[EntryRange], task: Task, folder: ScoreFolder
) -> None:
    rate = TextColumn("shares of files, {task.fields[rate]:,.0f} events/s")
    columns = (
        SpinnerColumn(),
        TextColumn("score"),
        BarColumn(),
        MofNCompleteColumn(),
        rate,
        TimeRemainingColumn(),
    )
    futures = {
        submit(client, split, task): split
        for split in sorted(pending, key=lambda split: -split.size)
    }
    with Progress(*columns, console=MESSAGES) as progress:
        bar = progress.add_task("score", total=len(futures), rate=0.0)
        n_events, started = 0, time.perf_counter()
        for future in as_completed(futures):
            record = outcome(future, futures[future], task)
            folder.add(record)
            n_events += record.n_in
            progress.update(bar, advance=1, rate=n_events / (time.perf_counter() - started))
            future.release()


def judge(folder: ScoreFolder, config: ScoreConfig) -> None:
    """Name the files (messages) that lost events; too many of them are an error, after all the work is done."""
    lost = list(folder.lost.values())
    for items in lost[:_NAMED]:
        log.warning("quarantined %s", told(items))
    if len(lost) > _NAMED:
        log.warning("... and %d more, see the records in %s", len(lost) - _NAMED, config.output)
    if len(lost) > config.max_lost_files:
        files = (
            f"{len(lost)} of {counted(folder.n_files, 'file')}",
            "Repair them and run again, or allow",
        )
        what, repair = (counted(len(lost), "message"), "Allow") if config.reads_topic else files
        raise DataError(
            f"{config.output}: {what} lost events (the first, {told(lost[0])}), {config.max_lost_files} allowed; "
            f"the rest is done. {repair} it with --max-lost-files {len(lost)}."
        )
