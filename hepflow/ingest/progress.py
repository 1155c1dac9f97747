"""What a person sees while the tasks run: files, events and megabytes, counted by the tasks through Spark accumulators."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pyspark import Accumulator, SparkContext
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from hepflow.ingest.fragment import TaskRecord
from hepflow.reading.ranges import EntryRange
from hepflow.system.terminal import MESSAGES


@dataclass(frozen=True)
class Counters:
    """Sums over finished tasks; an attempt that failed does not count."""

    events: Accumulator[int]
    file_bytes: Accumulator[int]
    files: Accumulator[float]
    """A share counts as its part of the file."""

    @classmethod
    def of(cls, context: SparkContext) -> "Counters":
        """New ones, at zero."""
        return cls(context.accumulator(0), context.accumulator(0), context.accumulator(0.0))

    def add(self, record: TaskRecord) -> None:
        """In a task: count what it did."""
        self.events.add(sum(share.ledger.n_in for share in record.ranges))
        self.file_bytes.add(sum(share.range.size for share in record.ranges))
        self.files.add(_files(share.range for share in record.ranges))


@contextmanager
def ingest_progress(
    tasks: Sequence[Sequence[EntryRange]], counters: Counters
) -> Iterator[Callable[[], None]]:
    """A progress bar on stderr; call what it gives to bring it up to date."""
    n_bytes = sum(split.size for task in tasks for split in task)
    n_files = round(_files(split for task in tasks for split in task))
    texts = [
        TextColumn(text)
        for text in (
            "ingest",
            "{task.percentage:>3.0f} %",
            "{task.fields[done]}",
            "{task.fields[rate]}",
        )
    ]
    started = time.monotonic()
    with Progress(
        SpinnerColumn(), texts[0], BarColumn(), *texts[1:], TimeRemainingColumn(), console=MESSAGES
    ) as progress:
        bar = progress.add_task("", total=n_bytes, done="", rate="")

        def update() -> None:
            seconds = time.monotonic() - started
            rate = f"{counters.events.value / seconds:,.0f} events/s, {decimal(int(counters.file_bytes.value / seconds))}/s"
            progress.update(
                bar,
                completed=counters.file_bytes.value,
                done=f"{counters.files.value:,.0f}/{n_files:,} files",
                rate=rate,
            )

        yield update


def _files(splits: Iterable[EntryRange]) -> float:
    return sum(1 / split.count for split in splits)
