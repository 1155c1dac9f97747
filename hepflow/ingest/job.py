"""ROOT files -> data/events/, one Parquet fragment per Spark task. A rerun reads only changes."""

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pyspark import TaskContext
from rich.filesize import decimal

from hepflow.config.stages import IngestConfig
from hepflow.data.file_lists import read_expected, read_list
from hepflow.data.ledger import Ledger, total
from hepflow.data.task_records import RECORDS
from hepflow.engines.spark import nothing_to_do, prepare, spark_session
from hepflow.engines.spark_jobs import collected, interruptible
from hepflow.errors import DataError
from hepflow.ingest import dataset, only
from hepflow.ingest.expected import compare
from hepflow.ingest.task import Settings, TaskRecord, run_task, spare_imports
from hepflow.reading.listing import assign, list_files
from hepflow.reading.ranges import EntryRange, SourceFile, pack, plan
from hepflow.reading.reader import Access
from hepflow.reading.record import Retry, judge
from hepflow.system.locks import exclusive
from hepflow.system.terminal import MESSAGES, bar, counted, show, table

log = logging.getLogger(__name__)

NAME = "hepflow ingest"  # name of the Spark application
_SLOWEST = 5  # files in the summary


def run(config: IngestConfig) -> None:
    """Bring the dataset up to date with the input: once, or again and again (``watch``)."""
    prepare(config.spark, {"input": config.input, "output": config.output})
    if config.expected is not None:
        read_expected(config.expected, config.input)  # a mistake in it, before any work
    with exclusive(config.output, RECORDS, *config.samples):
        try:
            if config.watch:
                _watch(config)
            elif config.only is not None:
                _update_only(config, config.only)
            else:
                files = list_files(config.input, config.timeout_s)
                _update(*ranges_of(files, config), config, config.retry_quarantined)
        finally:
            dataset.remove_empty(config.output, config.samples)


def ranges_of(
    files: Sequence[SourceFile], config: IngestConfig
) -> tuple[list[EntryRange], Settings]:
    """Return every entry range of the files of a listing, and the settings of all tasks."""
    assigned = assign(files, config.samples, config.input, config.unmatched)
    return plan(assigned, config.target_partition_mb << 20), _settings(config)


def _settings(config: IngestConfig) -> Settings:
    access = Access(config.tree, config.retries, config.timeout_s)
    return Settings(config.output.absolute(), tuple(config.samples), access)


def _watch(config: IngestConfig) -> None:
    """Update whenever files are complete, which is when two polls find them the same."""
    before = set(list_files(config.input, config.timeout_s))  # the input must exist at the start
    done: list[SourceFile] = []
    with spark_session(config.spark, f"{NAME} --watch"):
        log.info("watching %s every %g s", config.input, config.watch)
        while True:
            time.sleep(config.watch)
            try:
                found = set(list_files(config.input, config.timeout_s))
                settled, before = sorted(found & before), found
                if settled != done:
                    done = settled
                    _update(*ranges_of(settled, config), config, config.retry_quarantined)
            except DataError as error:
                log.error("%s", error)


def _update_only(config: IngestConfig, path: Path) -> None:
    """Read the files of a list again, or into a dataset of their own."""
    listed, settings = read_list(path, config.input), _settings(config)
    if not listed:
        log.info("%s names no file, so nothing is read", path)
        nothing_to_do(config.spark, NAME)
        return
    about = dataset.manifest(settings.output)
    if about is not None:
        dataset.check_settings(about, settings)
    _update(only.ranges_of(about, listed, settings, config), settings, config, listed.keys())


def _update(
    ranges: Sequence[EntryRange], settings: Settings, config: IngestConfig, retry: Retry
) -> None:
    about = dataset.manifest(settings.output)
    if about is not None and dataset.is_up_to_date(about, ranges, settings, retry):
        nothing_to_do(config.spark, NAME)
        dataset.sweep(about, settings.output)
        dataset.write_missing_list(about, settings.output)
        n_events, n_files = about["n_events"], counted(len(about["files"]), "file")
        log.info("%s is up to date: %s of %s", config.output, counted(n_events, "event"), n_files)
    else:
        if about is not None and not config.overwrite:
            dataset.check_replaceable(about, ranges, settings)
        dataset.prepare(settings.output, about)
        records, left = dataset.finished(ranges, settings, retry)
        if records and left:
            n_done, message = len(ranges) - len(left), "resuming: %d of %d entry ranges are done"
            log.info(message, n_done, len(ranges))
        if left:
            tasks = pack(left, config.target_partition_mb << 20)
            records += _run_tasks(tasks, settings, config)
        about = dataset.commit(records, ranges, settings, about)
        n_fragments = counted(len(about["fragments"]), "fragment")
        summary = Ledger.from_dict(about["ledger"]).summary()
        log.info("wrote %s to %s: %s", n_fragments, config.output, summary)
    if filled := [file for file in about["files"] if file["filled"]]:
        n_files, fields = counted(len(filled), "file"), ", ".join(filled[0]["filled"])
        message = "without optional fields: %s (%s: %s), filled as hepflow.schema.OPTIONAL says"
        log.warning(message, n_files, filled[0]["file"], fields)
    differences = compare(about["files"], config) if config.expected is not None else 0
    lost = Ledger.from_dict(about["ledger"]).lost
    judge(lost, len(about["files"]), config.max_lost_files, config.output)
    if differences > config.max_lost_files:
        what = f"{counted(differences, 'file')} differ from {config.expected}"
        advice = f"Repair them or that list, or allow it with --max-lost-files {differences}."
        raise DataError(f"{config.output}: {what}, {config.max_lost_files} allowed. {advice}")


def _run_tasks(
    tasks: Sequence[tuple[EntryRange, ...]], settings: Settings, config: IngestConfig
) -> list[TaskRecord]:
    """Run the tasks on Spark, with a progress bar, and return their records."""
    with spark_session(config.spark, NAME) as spark:
        context = spark.sparkContext
        # Sums over finished tasks, for the bar: a failed attempt does not count.
        n_events, n_bytes, n_files = (context.accumulator(zero) for zero in (0, 0, 0.0))
        last = int(context.getConf().get("spark.task.maxFailures", "4")) - 1

        def work(task: tuple[EntryRange, ...]) -> TaskRecord:
            attempt = TaskContext.get()
            is_last = attempt is not None and attempt.attemptNumber() >= last
            record = run_task(task, settings, is_last)
            spare_imports()
            n_events.add(sum(own.stop - own.start for own in record.ranges))
            n_bytes.add(sum(one.size for one in task))
            n_files.add(sum(1 / one.count for one in task))
            return record

        ranges = [one for task in tasks for one in task]
        of_files, started = sum(1 / one.count for one in ranges), time.monotonic()
        with bar("ingest", sum(one.size for one in ranges)) as progress:

            def update() -> None:
                spent, done = time.monotonic() - started, n_bytes.value
                rates = f"{n_events.value / spent:,.0f} events/s, {decimal(int(done / spent))}/s"
                progress.update(done, f"{n_files.value:,.0f}/{of_files:,.0f} files, {rates}")

            records = interruptible(context, partial(collected, context, work, tasks), update)
            update()
        seconds = time.monotonic() - started
    _print_summary(records, seconds)
    return records


def _print_summary(records: Sequence[TaskRecord], seconds: float) -> None:
    """Print what the tasks of this run read, kept and wrote, and the slowest files."""
    parts = [own for record in records for own in record.ranges]
    ledger = total(own.ledger for own in parts)
    busy, entries = defaultdict[str, float](float), Counter[str]()
    for own in parts:
        busy[own.range.file.name] += own.seconds
        entries[own.range.file.name] += own.stop - own.start
    unreadable = {item.file for item in ledger.lost if item.events is None}
    core_seconds = sum(busy.values())
    rows = {
        "files": f"{len({own.range.file for own in parts}):,}",
        "entries": f"{ledger.n_in:,}",
        "kept": f"{ledger.n_out:,}",
        **{reason: f"{count:,}" for reason, count in ledger.rejected.items()},
        "lost": ledger.lost_in_words,
        **({"unreadable files": f"{len(unreadable):,}"} if unreadable else {}),
        "read": decimal(sum(own.bytes_read for own in parts)),
        "written": decimal(sum(record.bytes_written for record in records)),
        "wall time": f"{seconds:,.1f} s",
        "events/s per core": f"{ledger.n_in / core_seconds:,.0f}" if core_seconds else "-",
    }
    names = sorted(busy, key=lambda name: -busy[name])[:_SLOWEST]
    slowest = [(name, f"{busy[name]:,.2f} s, {entries[name]:,} entries") for name in names]
    tables = table(("", ""), rows.items(), "ingest"), table(("", ""), slowest, "slowest files")
    show(*tables, console=MESSAGES)
