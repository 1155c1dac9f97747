"""`hepflow score --stream`: scores of what arrives in a folder, until interrupted.

Not Structured Streaming: its Python sources cannot be read at a bounded rate, its file source knows no ROOT, and its file sink keeps the
list of valid files in a log that only Spark reads (`hepflow.ingest.dataset` says more). What it promises holds here by other means:

- exactly once: the records of `hepflow.score.task` are the checkpoint, and a share's scores have one name however often they are written;
- restart: what has no record is done (again), whatever died in between;
- back-pressure: so many shares are in the workers' hands at a time, the oldest first; the rest waits in the folder, where it is safe;
- a file is taken once it has looked the same twice, so that one that is being copied is left alone, and again when its content changes.
"""

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from distributed import Client, Future, wait

from hepflow.config.score import ScoreConfig
from hepflow.errors import DataError
from hepflow.models.drift import Spread
from hepflow.reading.listing import list_files
from hepflow.reading.ranges import EntryRange, plan
from hepflow.score.folder import ScoreFolder
from hepflow.score.pool import outcome, submit, told
from hepflow.score.task import Task
from hepflow.score.view import View, shown

log = logging.getLogger(__name__)

WRITE_EVERY_S = 10.0


class Stream:
    """What waits, what is in the workers' hands, and what is done."""

    def __init__(
        self, config: ScoreConfig, folder: ScoreFolder, task: Task, client: Client, view: View
    ) -> None:
        self.config, self.folder, self.task, self.client, self.view = (
            config,
            folder,
            task,
            client,
            view,
        )
        self.waiting: dict[str, EntryRange] = {}
        self.in_flight: dict[Future, EntryRange] = {}
        self._before: set[EntryRange] = set()
        self._seen: dict[str, float] = {}

    def look(self) -> None:
        """List the folder, and let what has settled wait for its turn."""
        files = list_files(self.config.input, self.task.access.timeout_s)
        found = set(plan(files, self.config.target_partition_mb << 20))
        now = time.monotonic()
        for split in found - self._before:
            self._seen.setdefault(split.key, now)
        busy = {split.key for split in self.in_flight.values()}
        pending = self.folder.pending(
            sorted(found & self._before, key=lambda split: (split.file.version, split))
        )
        self.waiting = {split.key: split for split in pending if split.key not in busy}
        self._before = found

    def work(self) -> None:
        """Hand out as much as the workers may hold, and take what they have finished."""
        while self.waiting and len(self.in_flight) < self.config.in_flight:
            split = self.waiting.pop(next(iter(self.waiting)))
            self.in_flight[submit(self.client, split, self.task)] = split
        for future in [future for future in self.in_flight if future.done()]:
            record = outcome(future, self.in_flight.pop(future), self.task)
            self.folder.add(record)
            self.view.add(
                record,
                [
                    (
                        time.monotonic() - self._seen.pop(record.key, time.monotonic()),
                        max(record.n_in, 1),
                    )
                ],
            )
            if record.lost:
                log.warning("quarantined %s", told(record.lost))
        self.view.waiting = len(self.waiting) + len(self.in_flight)

    @property
    def idle(self) -> bool:
        """Whether nothing is left to do at the moment, of what has settled or is about to."""
        return (
            not self.waiting
            and not self.in_flight
            and all(split.key in self.folder.done for split in self._before)
        )


def run(
    config: ScoreConfig, folder: ScoreFolder, task: Task, spread: Spread | None, client: Client
) -> None:
    """Score what arrives, until interrupted, or until nothing has arrived for ``idle_stop_s`` seconds.

    Raises
    ------
    DataError
        The folder cannot be listed when the run begins; later that is taken for a passing trouble of the file system.
    """
    view = View(config, task.working_points, spread, folder)
    stream = Stream(config, folder, task, client, view)
    stream.look()
    log.info("watching %s every %g s, scores go to %s", config.input, config.poll_s, config.output)
    looked = written = busy = time.monotonic()
    try:
        with terminated(), shown(view) as tick:
            while not (
                config.idle_stop_s and stream.idle and time.monotonic() - busy > config.idle_stop_s
            ):
                stream.work()
                tick()
                now = time.monotonic()
                if now - looked >= config.poll_s:
                    _look_again(stream)
                    looked = now
                if not stream.idle:
                    busy = time.monotonic()
                if now - written >= WRITE_EVERY_S:
                    folder.write(complete=False)
                    written = now
                _pause(stream, min(config.poll_s, 0.2))
    finally:
        folder.write(complete=stream.idle)
        log.info("scored %s: %s", config.output, folder.ledger.summary())


@contextmanager
def terminated() -> Iterator[None]:
    """SIGTERM ends the run as an interrupt does: what is done is done, and the rest waits for the next run."""

    def stop(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _look_again(stream: Stream) -> None:
    try:
        stream.look()
    except (DataError, OSError) as error:
        log.error("%s", error)


def _pause(stream: Stream, seconds: float) -> None:
    """Until a worker has finished something, but no longer than this."""
    if not stream.in_flight:
        time.sleep(seconds)
        return
    try:
        wait(list(stream.in_flight), timeout=seconds, return_when="FIRST_COMPLETED")
    except TimeoutError:
        return
