"""Batches of a split for one process, read ahead of the training thread, and resumable.

The sequence of global batches is the plan's. Every process has its share of each batch, so all
make the same number of steps. A split that fits into memory is read once, by every process. Of a
larger one, a process reads its own share of each window, in every epoch.

Threads read, not processes: zarr's event loop does not survive a fork, and zarr and numpy release
the interpreter where it counts.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any

import numpy as np

from hepflow.data.blocks import EventBlock
from hepflow.errors import ConfigError
from hepflow.train.loading.batches import Batch, Window, batches_of
from hepflow.train.loading.plan import EpochPlan, Slice
from hepflow.train.loading.reader import BlockReader


class EventLoader:
    """Iterates over the share of an epoch of process ``rank`` out of ``world``.

    ``workers`` threads read, and ``prefetch`` batches are made ahead; with 0 workers the training
    thread does everything. ``pin`` puts batches into page-locked memory.
    """

    batch_sampler = None  # Lightning asks for one where there is a sampler

    def __init__(
        self,
        plan: EpochPlan,
        reader: BlockReader,
        *,
        rank: int = 0,
        world: int = 1,
        workers: int = 1,
        prefetch: int = 4,
        pin: bool = False,
    ) -> None:
        if world > plan.batch_size:
            why = f"which {world} processes share: it must be at least {world}"
            raise ConfigError(f"batch_size {plan.batch_size} is the global batch, {why}")
        self.plan, self.reader, self.rank, self.world = plan, reader, rank, world
        self.reads_share = world > 1 and not reader.keep
        self.workers, self.prefetch, self.pin = workers, prefetch, pin
        self.epoch = self.position = 0  # position: batches of the epoch that were handed out
        self._resumes = False
        self.waited_s = 0.0  # for batches, in the training thread

    def __len__(self) -> int:
        return self.plan.n_batches

    @property
    def sampler(self) -> "EventLoader":
        """Itself: Lightning calls ``set_epoch`` on the sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch, or stay where a state was loaded within it."""
        if epoch != self.epoch:
            self.epoch, self.position, self._resumes = epoch, 0, False

    def state_dict(self) -> dict[str, Any]:
        """Return the position, the same for every process."""
        return {"epoch": self.epoch, "position": self.position, "plan": self.plan.fingerprint}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the position of another loader of the same plan, whatever its rank."""
        if state["plan"] != self.plan.fingerprint:
            options = "seed, balance, batch_size, block_events, buffer_mb and bucket_batches"
            advice = f"Give the store, {options} of that run, or another --output."
            why = "the checkpoint was written within an epoch of another order of events"
            raise ConfigError(f"{why}. {advice}")
        self.epoch, self.position, self._resumes = state["epoch"], state["position"], True

    def __iter__(self) -> Iterator[Batch]:
        """Yield the epoch, or the rest of it after a state was loaded."""
        if not self._resumes or self.position >= len(self):
            self.position = 0
        self._resumes = False
        batches = self._batches(self.epoch, self.position)
        if self.workers:
            batches = _ahead(batches, self.prefetch)
        with closing(batches):
            while True:
                start = time.perf_counter()
                batch = next(batches, None)
                self.waited_s += time.perf_counter() - start
                if batch is None:
                    return
                self.position += 1
                if self.position == len(self):
                    # Not when Python drops the generator: an interrupt would be lost there.
                    batches.close()
                yield batch

    def _batches(self, epoch: int, position: int) -> Generator[Batch, None, None]:
        # The first window is the one that holds the batch at `position`.
        ends = np.cumsum(self.plan.window_batches)
        first = int(np.searchsorted(ends, position, side="right"))
        skip = position - int(ends[first - 1]) if first else position
        for number, window in enumerate(self._windows(epoch, first), start=first):
            lengths = None
            if self.reader.particles:
                lengths = window.lengths
                if self.reads_share:  # of the events of all processes
                    parts = [self.reader.lengths(part) for part in self.plan.slices(epoch, number)]
                    lengths = np.concatenate([np.zeros(0, np.int64), *parts])
            order = self.plan.batches(epoch, number, lengths)[skip:]
            skip = 0
            rows, sizes = self._rows(number, order), [len(batch) for batch in order]
            for batch in batches_of(window, rows, sizes, particles=self.reader.particles):
                yield batch.pinned() if self.pin else batch
            del window, order, rows  # before the next window takes memory

    def _rows(self, window: int, order: list[np.ndarray]) -> list[np.ndarray]:
        """Return the positions of this process's events in what it read, batch by batch."""
        if not self.reads_share:  # sorted by length, so every world-th event is equal work
            return [batch[self.rank :: self.world] for batch in order]
        share = self.plan.share(window, self.rank, self.world)
        row_of = np.full(sum(self.plan.counts(window)), -1)
        row_of[share] = np.arange(len(share))
        return [rows[rows >= 0] for rows in (row_of[batch] for batch in order)]

    def _slices(self, epoch: int, window: int) -> list[Slice]:
        if not self.reads_share:
            return self.plan.slices(epoch, window)
        share = self.plan.share(window, self.rank, self.world)
        return self.plan.slices(epoch, window, share if len(share) else np.zeros(1, np.int64))

    def _windows(self, epoch: int, first: int) -> Generator[Window, None, None]:
        """Yield the events of each window; the next window is read meanwhile."""
        windows = range(first, self.plan.n_windows)
        if not self.workers:
            for number in windows:
                wanted = self._slices(epoch, number)
                yield Window(map(self.reader.read, wanted), sum(map(len, wanted)))
            return
        with ThreadPoolExecutor(self.workers, thread_name_prefix="hepflow-read") as pool:
            coming: deque[Future[EventBlock]] = deque()

            def read_ahead(number: int) -> int:
                """Have a window read; return its events that this process reads."""
                wanted = self._slices(epoch, number) if number in windows else []
                coming.extend(pool.submit(self.reader.read, part) for part in wanted)
                return sum(map(len, wanted))

            n_events = read_ahead(first)
            try:
                for number in windows:
                    blocks = (coming.popleft().result() for _ in range(len(coming)))
                    window = Window(blocks, n_events)
                    n_events = read_ahead(number + 1)
                    yield window
                    del window
            finally:
                for future in coming:
                    future.cancel()


def _ahead(batches: Generator[Batch, None, None], n_ahead: int) -> Generator[Batch, None, None]:
    """Yield the same batches, made ahead by a thread; its error is raised in place of a batch."""
    ready: queue.Queue[Batch | None] = queue.Queue(maxsize=max(1, n_ahead))
    stop = threading.Event()

    def put(item: Batch | None) -> None:
        while not stop.is_set():  # a full queue must not keep the thread alive
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def produce() -> None:
        try:
            with closing(batches):
                for batch in batches:
                    put(batch)
                    if stop.is_set():
                        return
        finally:
            put(None)

    with ThreadPoolExecutor(1, thread_name_prefix="hepflow-batches") as pool:
        producer = pool.submit(produce)
        try:
            while (batch := ready.get()) is not None:
                yield batch
            producer.result()
        finally:
            stop.set()
