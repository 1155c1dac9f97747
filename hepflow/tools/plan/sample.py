"""A sample of the input through the tasks of ingest and features, in worker processes.

The ranges are spread over the bytes of each class, so a range is as likely as it is large, and the
mean of anything per byte of range is that of the class, however files differ in size.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from math import sqrt
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from hepflow.config.stages import FeaturesConfig
from hepflow.data.blocks import StoreSpec
from hepflow.data.events import Fragment, cut, empty_events
from hepflow.data.layout import layouts
from hepflow.data.store_writer import StoreWriter
from hepflow.data.task_records import RECORDS
from hepflow.engines import dask, spark
from hepflow.errors import DataError, HepflowError
from hepflow.features.packing import PlannedPart
from hepflow.features.parts import make_part
from hepflow.ingest.task import Settings, TaskRecord, run_task
from hepflow.physics import own
from hepflow.reading.ranges import EntryRange
from hepflow.reading.record import RangeRecord
from hepflow.system import processes
from hepflow.system.processes import timed
from hepflow.system.terminal import Bar

WORKERS = min(4, processes.cores())
"""Processes: as on a node, they share memory and disk; and a login node has other users."""
ENOUGH_S, LEAST_RANGES, MOST_RANGES = 10.0, 2, 64
"""Seconds after which ingest has read enough, and limits of the ranges per class."""
_PIECE = 32 << 20  # bytes of a range that is read
_WARM_UP = 64  # pieces of a range, of which a worker reads the first before it is timed


@dataclass(frozen=True)
class Ingested:
    """The sample of a class, as ingest's tasks have read it."""

    name: str
    records: tuple[TaskRecord, ...]
    seconds: float
    """Wall time of the tasks."""
    peak_bytes: int

    @property
    def ranges(self) -> list[RangeRecord]:
        """Records of the ranges."""
        return [one for record in self.records for one in record.ranges]

    @property
    def n_kept(self) -> int:
        """Events that passed."""
        return sum(record.n_events for record in self.records)

    def per_byte(self, count: Callable[[RangeRecord], float]) -> float:
        """Return a count per byte of a ROOT file of the class.

        A range begins and ends with a cluster, so it is taken for as many bytes as it has events.
        """
        found = []
        for one in self.ranges:
            n, file = one.stop - one.start, one.range.file
            if n and one.n_entries:
                found.append(count(one) / n * one.n_entries / max(file.size, 1))
            elif not one.n_entries:
                found.append(count(one) / max(one.range.size, 1))
        return mean(found) if found else 0.0

    @property
    def entries_per_byte(self) -> float:
        """Events in the files."""
        return self.per_byte(lambda one: one.stop - one.start)

    @property
    def kept_per_byte(self) -> float:
        """Events that pass."""
        return self.per_byte(lambda one: one.n_out)

    @property
    def seconds_per_byte(self) -> float:
        """Time of a core, in which the tasks' own share is that of the sample."""
        in_ranges = sum(one.seconds for one in self.ranges)
        return self.per_byte(lambda one: one.seconds) * self.seconds / max(in_ranges, 1e-9)

    @property
    def bytes_per_kept(self) -> tuple[float, float]:
        """Bytes per event of a fragment: of the file, and uncompressed."""
        groups = [size for one in self.records if one.file for size in one.file.row_groups]
        written = sum(record.bytes_written for record in self.records)
        n = max(self.n_kept, 1)
        return written / n, sum(n_bytes for _, n_bytes in groups) / n

    @property
    def error(self) -> float:
        """Relative standard error of the events in the files."""
        found = [(one.n_entries or 0) / max(one.range.file.size, 1) for one in self.ranges]
        if len(found) < 2 or not mean(found):
            return 0.0
        return stdev(found) / mean(found) / sqrt(len(found))


@dataclass(frozen=True)
class Featured:
    """The sample of a class, as a part of the store."""

    n_in: int
    n_events: int
    """Events selected."""
    n_particles: int
    seconds: float
    chunk_bytes: int
    """Bytes of its shards, without their indexes."""
    peak_bytes: int


def ingest(ranges: Sequence[EntryRange], settings: Settings, progress: Bar) -> dict[str, Ingested]:
    """Read ranges of each class until that has taken a while; ``settings.output`` is a scratch."""
    (settings.output / RECORDS).mkdir(parents=True)
    of_class: dict[str, list[EntryRange]] = {name: [] for name in settings.classes}
    for one in ranges:
        of_class[one.file.class_name].append(one)
    orders = {name: _spread(found) for name, found in of_class.items() if found}
    found: dict[str, list[tuple[TaskRecord, float, int]]] = {name: [] for name in orders}
    at_once, n, n_read = max(1, WORKERS // len(orders)), 1, 0
    first = replace(ranges[0], index=ranges[0].index * _WARM_UP, count=ranges[0].count * _WARM_UP)
    with workers(spark.worker_environment(), run_task, [first], settings) as pool:
        pool.submit(int).result()
        started = time.perf_counter()
        while True:
            began = time.perf_counter()
            taken = {
                name: list(zip(range(n), order, strict=False)) for name, order in orders.items()
            }
            futures = [
                (
                    name,
                    pool.submit(timed, run_task, [one for _, one in picked[i::at_once]], settings),
                )
                for name, picked in taken.items()
                for i in range(min(at_once, len(picked)))
            ]
            for name, future in futures:
                found[name].append(future.result())
                n_ranges = sum(len(r.ranges) for own in found.values() for r, *_ in own)
                progress.advance(0, f"ingest, {n_ranges:,} entry ranges")
            now, n_read = time.perf_counter(), n_read + n
            n = n_read
            late = now - started + 2 * (now - began) > ENOUGH_S and n_read >= LEAST_RANGES
            if late or n_read >= MOST_RANGES or not futures:
                break
    return {name: _ingested(name, own) for name, own in found.items()}


def _ingested(name: str, tasks: Sequence[tuple[TaskRecord, float, int]]) -> Ingested:
    records, seconds, peaks = zip(*tasks, strict=True)
    return Ingested(name, records, sum(seconds), max(peaks))


def features(
    config: FeaturesConfig,
    spec: StoreSpec,
    samples: Mapping[str, Ingested],
    events: Path,
    output: Path,
    round_bytes: int,
) -> tuple[dict[str, Featured], float]:
    """Make a part per class of the sample's fragments in ``events``, and a store of the parts.

    The second value is the seconds in which the processes have started.
    """
    store = StoreWriter.create(output, spec)
    planned: dict[str, PlannedPart] = {}
    for name, own_sample in samples.items():
        if fragments := fragments_of(own_sample.records, events, round_bytes):
            planned[name] = PlannedPart(len(planned), tuple(fragments))
    found = {}
    started = time.perf_counter()
    with workers(
        dask.worker_environment(), _warm_features, config.physics, spec.definitions
    ) as pool:
        share = pool.submit(processes.share_of_core).result()
        start_s = share * (time.perf_counter() - started)
        how: Any = (config.physics, round_bytes)
        futures = {n: pool.submit(timed, make_part, store, p, *how) for n, p in planned.items()}
        done = {name: future.result() for name, future in futures.items()}
    store.refresh()
    for name, (outcome, seconds, _) in done.items():
        if outcome.error is not None:
            raise DataError(outcome.error)
        record = store.records[planned[name].number]
        sizes = [row[2:4] for row in record["ranges"]]
        n_events, n_particles = (
            (sum(column) for column in zip(*sizes, strict=True)) if sizes else (0, 0)
        )
        indexes = (layouts(spec)[array].index_bytes for array in record["bytes"])
        chunk_bytes = sum(record["bytes"].values()) - sum(indexes)
        sums = outcome.n_events, n_events, n_particles
        found[name] = Featured(*sums, seconds, chunk_bytes, outcome.peak_bytes)
    store.finalise()
    return found, start_s


def fragments_of(records: Sequence[TaskRecord], events: Path, task_bytes: int) -> list[Fragment]:
    """Return the fragments of records, as a features stage reads them."""
    there = [(one.fragment, one.file) for one in records if one.fragment and one.file]
    return [f for name, file in there for f in cut(name, events / name, file, task_bytes)]


@contextmanager
def workers(
    environment: Mapping[str, str], ready: Callable[..., object], *arguments: Any
) -> Iterator[ProcessPoolExecutor]:
    """Yield processes that start with an environment, and have called ``ready`` once."""
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    how: Any = {"initializer": processes.begin, "initargs": (ready, *arguments)}
    pool = ProcessPoolExecutor(WORKERS, get_context("spawn"), **how)
    try:
        yield pool
    except BrokenProcessPool as error:
        what = "a process that read the sample died, probably out of memory"
        raise HepflowError(f"{what}. Give a smaller --target-partition-mb or --task-mb.") from error
    finally:
        pool.shutdown(cancel_futures=True)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _spread(ranges: Sequence[EntryRange]) -> Iterator[EntryRange]:
    """Yield pieces of ranges, which are spread evenly over the bytes however many are taken."""
    ends = list(accumulate(max(one.size, 1) for one in ranges))
    seen: set[int] = set()
    for number in range(16 * MOST_RANGES):
        digits = f"{number:b}"[::-1]  # van der Corput: 0, 1/2, 1/4, 3/4, 1/8 ...
        place = (int(digits, 2) / 2 ** len(digits) + 2**-12) % 1 * ends[-1]
        index = int(np.searchsorted(ends, place, side="right"))
        if index not in seen:
            seen.add(index)
            one = ranges[index]
            pieces = max(1, one.size // _PIECE)
            place, count = one.index * pieces + number % pieces, one.count * pieces
            yield replace(one, index=place, count=count)


def _warm_features(physics: str | None, definitions: str) -> None:
    own.load(physics)(empty_events(), definitions)
