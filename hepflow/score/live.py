"""`hepflow score --stream`: score files as they arrive in a folder, until interrupted.

Not Structured Streaming: its Python sources have no bounded rate for files, its file source reads
no ROOT, and its file sink lists valid files in a log that only Spark reads. Its guarantees hold
here by other means:

- exactly once: the records of `hepflow.score.task` are the checkpoint, and the scores of a task
  have one name however often they are written;
- restart: ranges without a record are scored again, whatever died in between;
- back-pressure: a bounded number of tasks is with the workers, the oldest files first; the rest
  waits in the folder, where it is safe. A task is one file, or of a long queue several;
- a file is read once its size and time are unchanged between two polls, so a file that is still
  being copied is left alone; it is read again when its content changes.
"""

import logging
import time
from concurrent.futures import CancelledError
from contextlib import suppress
from itertools import islice

from distributed import Client, Future, KilledWorker, wait

from hepflow.config.score import ScoreConfig
from hepflow.errors import DataError
from hepflow.models.drift import Spread
from hepflow.reading.listing import list_files
from hepflow.reading.ranges import EntryRange, plan
from hepflow.reading.record import describe
from hepflow.score.folder import ScoreFolder
from hepflow.score.inputs import OPENING
from hepflow.score.record import ScoreRecord
from hepflow.score.task import Task, given_up, score_task
from hepflow.score.view import View, shown
from hepflow.system.processes import terminated

log = logging.getLogger(__name__)

_TASKS_EACH = 8  # for each in flight, that the queue is divided into


class Stream:
    """Entry ranges that wait, are with the workers, and are scored."""

    def __init__(
        self, config: ScoreConfig, folder: ScoreFolder, task: Task, client: Client, view: View
    ) -> None:
        self.config, self.folder, self.task = config, folder, task
        self.client, self.view = client, view
        self.waiting: dict[str, EntryRange] = {}
        self.in_flight: dict[Future, tuple[EntryRange, ...]] = {}
        self._alone: set[str] = set()  # ranges of a task that killed its workers
        self._before: set[EntryRange] = set()
        self._left: set[str] = set()  # keys of these that are not scored
        self._seen: dict[str, float] = {}

    def poll(self) -> None:
        """List the folder, and queue the ranges that are unchanged since the last poll."""
        files = list_files(self.config.input, self.task.access.timeout_s)
        found = set(plan(files, self.config.target_partition_mb << 20))
        for entries in found - self._before:
            self._seen.setdefault(entries.key, time.monotonic())
        busy = {entries.key for ranges in self.in_flight.values() for entries in ranges}
        settled = sorted(found & self._before, key=lambda entries: (entries.file.version, entries))
        pending = self.folder.pending(settled)
        self.waiting = {entries.key: entries for entries in pending if entries.key not in busy}
        self._before = found
        done = self.folder.done
        self._left = {entries.key for entries in found if entries.key not in done}

    def work(self) -> None:
        """Submit as many tasks as allowed, and collect the finished ones."""
        while self.waiting and len(self.in_flight) < self.config.in_flight:
            ranges = self._next_task()
            future = self.client.submit(score_task, ranges, self.task, pure=False, retries=0)
            self.in_flight[future] = ranges
        for future in [future for future in self.in_flight if future.done()]:
            ranges = self.in_flight.pop(future)
            try:
                record = future.result()
            except (KilledWorker, CancelledError):
                if len(ranges) > 1:
                    self._alone |= {entries.key for entries in ranges}
                    self.waiting = {entries.key: entries for entries in ranges} | self.waiting
                    continue
                record = given_up(ranges[0], self.task)
            self._add(record)
        self.view.waiting = len(self.waiting) + sum(map(len, self.in_flight.values()))

    def _next_task(self) -> tuple[EntryRange, ...]:
        """Take the ranges of a task from those that wait: enough to keep every worker busy."""
        most = max(1, len(self.waiting) // (_TASKS_EACH * self.config.in_flight))
        task: list[EntryRange] = []
        n_bytes = 0
        for entries in islice(self.waiting.values(), most):
            n_bytes += entries.size + OPENING
            alone = entries.key in self._alone
            if task and (alone or n_bytes > self.config.target_partition_mb << 20):
                break
            task.append(entries)
            if alone:
                break
        for entries in task:
            del self.waiting[entries.key]
        return tuple(task)

    def _add(self, record: ScoreRecord) -> None:
        self.folder.add(record)
        latencies, now = [], time.monotonic()
        for one in record.ranges:
            key, lost = one.range.key, one.ledger.lost
            self._left.discard(key)
            self._alone.discard(key)
            latencies.append((now - self._seen.pop(key, now), max(one.ledger.n_in, 1)))
            if lost:
                log.warning("quarantined %s", describe(lost))
        self.view.add(record, latencies)

    @property
    def idle(self) -> bool:
        """Whether all files in the folder are scored."""
        return not (self.waiting or self.in_flight or self._left)


def run(
    config: ScoreConfig, folder: ScoreFolder, task: Task, spread: Spread | None, client: Client
) -> None:
    """Score arriving files until interrupted, or until none arrived for ``idle_stop_s`` seconds."""
    view = View(config, task.working_points, spread, folder)
    stream = Stream(config, folder, task, client, view)
    stream.poll()
    every_s = config.interval_s
    log.info("watching %s every %g s, scores go to %s", config.input, every_s, config.output)
    polled = busy = now = time.monotonic()
    try:
        with terminated(), shown(view):
            while not (config.idle_stop_s and stream.idle and now - busy > config.idle_stop_s):
                stream.work()
                view.tick()
                now = time.monotonic()
                if now - polled >= every_s:
                    try:
                        stream.poll()
                    except (DataError, OSError) as error:
                        log.error("%s", error)
                    polled = now
                if not stream.idle:
                    busy = time.monotonic()
                pause = min(every_s, 0.2)  # shorter if a worker finishes something
                if stream.in_flight:
                    with suppress(TimeoutError):
                        wait([*stream.in_flight], timeout=pause, return_when="FIRST_COMPLETED")
                else:
                    time.sleep(pause)
    finally:
        folder.finish(complete=stream.idle)
        log.info("scored %s: %s", config.output, folder.ledger.summary())
