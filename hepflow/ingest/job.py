"""ROOT files -> data/events/, one Parquet fragment a Spark task. What is finished stays, what changed is done again."""

import gc
import logging
import os
import re
import time
from collections.abc import Sequence
from typing import Any

from pyspark import SparkContext, TaskContext
from pyspark.errors import PythonException

from hepflow.config.stages import IngestConfig
from hepflow.data.ledger import Ledger
from hepflow.data.output import MARKER
from hepflow.engines.spark import check_paths, interruptible, nothing_to_do, session
from hepflow.errors import DataError
from hepflow.ingest import dataset
from hepflow.ingest.fragment import Settings, TaskRecord, run_task
from hepflow.ingest.progress import Counters, ingest_progress
from hepflow.ingest.report import print_estimate, print_summary
from hepflow.reading.listing import assign, list_files
from hepflow.reading.ranges import EntryRange, SourceFile, pack, plan
from hepflow.reading.reader import Access
from hepflow.system.files import read_json
from hepflow.system.locks import exclusive
from hepflow.system.terminal import counted

log = logging.getLogger(__name__)

NAME = "hepflow ingest"
"""Of the Spark application."""

_Task = tuple[EntryRange, ...]
_NAMED = 20
"""Bad files named on the screen; ``_hepflow.json`` has them all."""


def run(config: IngestConfig) -> None:
    """Bring the dataset up to date with the input: once, or (``watch``) again and again.

    Raises
    ------
    DataError
        The input is missing, holds no ROOT files or files of no class, nothing is left, or more files are lost than allowed.
    """
    check_paths({"input": config.input, "output": config.output})
    if config.estimate:
        settings, target = _settings(config), _target(config)
        splits = _splits(list_files(config.input, config.timeout_s), config)
        pending = _pending(splits, dataset.finished(splits, settings, config.retry_quarantined))
        print_estimate(pending, len(pack(pending, target)), settings, as_json=config.json)
        return
    with exclusive(config.output):
        try:
            if config.watch:
                _watch(config)
            else:
                _update(list_files(config.input, config.timeout_s), config)
        finally:
            dataset.remove_empty(config.output, config.samples)


def _watch(config: IngestConfig) -> None:
    """Update whenever there are files that have looked the same twice; only an interrupt ends it, and an input that was never there."""
    before = set(list_files(config.input, config.timeout_s))
    done: list[SourceFile] = []
    with session(config.spark, f"{NAME} --watch"):
        log.info("watching %s every %g s", config.input, config.watch)
        while True:
            time.sleep(config.watch)
            try:
                found = set(list_files(config.input, config.timeout_s))
                settled, before = sorted(found & before), found
                if settled != done:
                    done = settled
                    _update(settled, config)
            except DataError as error:
                log.error("%s", error)


def _update(files: Sequence[SourceFile], config: IngestConfig) -> None:
    settings, target = _settings(config), _target(config)
    splits = _splits(files, config)
    about = _up_to_date(splits, settings, config)
    if about is None:
        if not config.overwrite:
            dataset.check_replaceable(splits, settings)
        dataset.prepare(settings.output)
        records = dataset.finished(splits, settings, config.retry_quarantined)
        pending = _pending(splits, records)
        if records and pending:
            log.info(
                "%d of %d files (or pieces of them) are finished: going on with the rest",
                len(splits) - len(pending),
                len(splits),
            )
        if pending:
            records += _run_tasks(pack(pending, target), settings, config)
        about = dataset.commit(records, splits, settings)
        ledger = Ledger.from_dict(about["ledger"])
        log.info(
            "wrote %s to %s: %s",
            counted(len(about["fragments"]), "fragment"),
            config.output,
            ledger.summary(),
        )
    else:
        nothing_to_do(config.spark, NAME)
        dataset.sweep(about, settings.output)
        log.info(
            "%s is up to date: %s of %s",
            config.output,
            counted(about["n_events"], "event"),
            counted(len(about["files"]), "file"),
        )
    _judge(about["files"], config)


def _settings(config: IngestConfig) -> Settings:
    return Settings(
        config.output.absolute(),
        tuple(config.samples),
        Access(config.tree, config.retries, config.timeout_s),
    )


def _target(config: IngestConfig) -> int:
    return config.target_partition_mb << 20


def _splits(files: Sequence[SourceFile], config: IngestConfig) -> list[EntryRange]:
    return plan(assign(files, config.samples, config.input, config.unmatched), _target(config))


def _pending(splits: Sequence[EntryRange], records: Sequence[TaskRecord]) -> list[EntryRange]:
    done = {share.range.key for record in records for share in record.ranges}
    return [split for split in splits if split.key not in done]


def _up_to_date(
    splits: Sequence[EntryRange], settings: Settings, config: IngestConfig
) -> dict[str, Any] | None:
    """The manifest, if there is nothing to do."""
    about = dataset.manifest(settings.output)
    if about is None or about["listing"] != dataset.listing_hash(splits, settings):
        return None
    if any(
        file["transient"] or (file["reason"] and config.retry_quarantined)
        for file in about["files"]
    ):
        return None
    return about if all((settings.output / name).is_file() for name in about["fragments"]) else None


def _run_tasks(
    tasks: Sequence[_Task], settings: Settings, config: IngestConfig
) -> list[TaskRecord]:
    """Run the tasks on Spark, with a progress bar, and collect their records."""
    with session(config.spark, NAME) as spark:
        started = time.monotonic()
        _run_job(tasks, settings, spark.sparkContext)
        seconds = time.monotonic() - started
    records = [
        TaskRecord.from_dict(read_json(settings.record_path(settings.task_key(task))))
        for task in tasks
    ]
    print_summary(records, seconds)
    return records


def _run_job(tasks: Sequence[_Task], settings: Settings, context: SparkContext) -> None:
    counters = Counters.of(context)
    last = int(context.getConf().get("spark.task.maxFailures", "4")) - 1

    def work(task: _Task) -> None:
        if not gc.get_freeze_count():
            gc.freeze()  # pyspark looks for garbage after every task; among all that is imported that takes as long as some tasks
        attempt = TaskContext.get()
        record = run_task(
            task, settings, last_attempt=attempt is not None and attempt.attemptNumber() >= last
        )
        counters.add(record)

    jobs = context.parallelize(tasks, len(tasks))
    with ingest_progress(tasks, counters) as update:
        try:
            interruptible(context, lambda: jobs.foreach(work), update)
        except PythonException as error:  # a traceback, in text
            if (found := re.search(r"^\w+: \[Errno (\d+)\]", str(error), re.MULTILINE)) is None:
                raise
            number = int(found.group(1))
            raise OSError(number, os.strerror(number)) from error
        update()


def _judge(files: Sequence[dict[str, Any]], config: IngestConfig) -> None:
    """Name the files that lost something; too many of them are an error, after all the work is done."""
    filled = [file for file in files if file["filled"]]
    if filled:
        first = f"{filled[0]['file']}: {', '.join(filled[0]['filled'])}"
        log.warning(
            "without optional fields: %s (%s), filled as hepflow.schema.OPTIONAL says",
            counted(len(filled), "file"),
            first,
        )
    bad = [file for file in files if file["reason"]]
    for file in bad[:_NAMED]:
        events = "an unknown number of" if file["lost"] is None else f"{file['lost']:,}"
        log.warning("quarantined %s, %s events lost: %s", file["file"], events, file["reason"])
    if len(bad) > _NAMED:
        log.warning("... and %d more, see %s", len(bad) - _NAMED, config.output / MARKER)
    if len(bad) > config.max_lost_files:
        raise DataError(
            f"{config.output}: {len(bad)} of {counted(len(files), 'file')} lost events (the first, {bad[0]['file']}: {bad[0]['reason']}), "
            f"{config.max_lost_files} allowed; the rest is done. Repair them and run again, or allow it with --max-lost-files {len(bad)}."
        )
