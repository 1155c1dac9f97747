"""Batches of a split for one rank, read ahead of the training thread; where it stands is a state that any number of ranks can take up.

The sequence of global batches is the plan's; every rank has its share of each, so all ranks make the same number of steps. Of a split
that is larger than memory a rank reads its share of a window alone; one that stays in memory is read whole, once, by every rank.
Reading is done by threads: zarr's event loop does not survive a fork, and zarr and numpy let go of the interpreter where it counts.
"""

import queue
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any

import numpy as np

from hepflow.data.blocks import EventBlock
from hepflow.errors import ConfigError
from hepflow.train.loading.batches import Batch, batches_of
from hepflow.train.loading.plan import EpochPlan, Slice
from hepflow.train.loading.reader import BlockReader


class EventLoader:
    """Iterates over one rank's share of an epoch.

    Parameters
    ----------
    plan : EpochPlan
        Which events, in which order.
    reader : BlockReader
        Where they come from.
    rank, world : int
        Which share, of how many.
    workers : int
        Threads that read; 0: the training thread does it all.
    prefetch : int
        Batches to make ahead.
    pin : bool
        Put batches into page-locked memory.
    """

    batch_sampler = None  # Lightning looks for one where there is a sampler

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
            raise ConfigError(
                f"batch_size {plan.batch_size} is the global batch, which {world} processes share: it must be {world} at least"
            )
        self.plan = plan
        self.reader = reader
        self.rank, self.world = rank, world
        self.reads_share = world > 1 and not reader.keep
        self.workers, self.prefetch, self.pin = workers, prefetch, pin
        self.epoch = 0
        self.position = 0
        """Global batches of the epoch that were handed out."""
        self._taken_up = False
        self.waited_s = 0.0
        """Seconds that the training thread has waited for batches."""

    def __len__(self) -> int:
        """Batches an epoch, the same on every rank and wherever the epoch was taken up."""
        return self.plan.n_batches

    @property
    def sampler(self) -> "EventLoader":
        """What Lightning tells the epoch to."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch, or stay where a state was loaded within it."""
        if epoch != self.epoch:
            self.epoch, self.position, self._taken_up = epoch, 0, False

    def state_dict(self) -> dict[str, Any]:
        """Where it stands: the same on every rank."""
        return {"epoch": self.epoch, "position": self.position, "plan": self.plan.fingerprint}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another loader of the same plan stood, whatever its rank and number of ranks."""
        if state["plan"] != self.plan.fingerprint:
            raise ConfigError(
                "the checkpoint was written within an epoch of another order of events: give the store, seed, balance, batch_size, "
                "block_events, buffer_mb and bucket_batches of that run, or start afresh in another --output"
            )
        self.epoch, self.position, self._taken_up = state["epoch"], state["position"], True

    def __iter__(self) -> Iterator[Batch]:
        """The epoch, or the rest of it after a state was loaded."""
        if not self._taken_up or self.position >= len(self):
            self.position = 0
        self._taken_up = False
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
                    batches.close()  # not when Python drops a generator that nobody asks again: an interrupt would be lost there
                yield batch

    def _batches(self, epoch: int, position: int) -> Generator[Batch, None, None]:
        particles = self.reader.particles
        done = 0
        first = 0
        while first < self.plan.n_windows and done + self.plan.window_batches[first] <= position:
            done += int(self.plan.window_batches[first])
            first += 1
        skip = position - done
        for window, blocks in enumerate(self._windows(epoch, first), start=first):
            lengths = self._lengths(epoch, window, blocks) if particles else None
            order = self.plan.batches(epoch, window, lengths)[skip:]
            skip = 0
            for batch in batches_of(
                blocks,
                self._rows(window, order),
                [len(batch) for batch in order],
                particles=particles,
            ):
                yield batch.pinned() if self.pin else batch

    def _rows(self, window: int, order: list[np.ndarray]) -> list[np.ndarray]:
        """Positions of this rank's events in what it read, batch by batch."""
        if not self.reads_share:
            return [
                batch[self.rank :: self.world] for batch in order
            ]  # sorted by length: the ranks get equal work
        share = self.plan.share(window, self.rank, self.world)
        row_of = np.full(sum(self.plan.counts(window)), -1)
        row_of[share] = np.arange(len(share))
        return [rows[rows >= 0] for rows in (row_of[batch] for batch in order)]

    def _lengths(self, epoch: int, window: int, blocks: list[EventBlock]) -> np.ndarray:
        """Particles of every event of a window, also of those that other ranks read."""
        if not self.reads_share:
            parts = [np.diff(block.offsets) for block in blocks]
        else:
            parts = [self.reader.lengths(part) for part in self.plan.slices(epoch, window)]
        return np.concatenate([np.zeros(0, np.int64), *parts])

    def _slices(self, epoch: int, window: int) -> list[Slice]:
        if not self.reads_share:
            return self.plan.slices(epoch, window)
        share = self.plan.share(window, self.rank, self.world)
        return self.plan.slices(epoch, window, share if len(share) else np.zeros(1, np.int64))

    def _windows(self, epoch: int, first: int) -> Generator[list[EventBlock], None, None]:
        """Events of each window; those of the next are read meanwhile."""
        if not self.workers:
            for window in range(first, self.plan.n_windows):
                yield [self.reader.read(part) for part in self._slices(epoch, window)]
            return
        with ThreadPoolExecutor(self.workers, thread_name_prefix="hepflow-read") as pool:

            def submit(window: int) -> list[Future[EventBlock]]:
                wanted: list[Slice] = (
                    self._slices(epoch, window) if window < self.plan.n_windows else []
                )
                return [pool.submit(self.reader.read, part) for part in wanted]

            coming = submit(first)
            try:
                for window in range(first, self.plan.n_windows):
                    blocks = [future.result() for future in coming]
                    coming = submit(window + 1)
                    yield blocks
            finally:
                for future in coming:
                    future.cancel()


def _ahead(batches: Generator[Batch, None, None], n_ahead: int) -> Generator[Batch, None, None]:
    """The same batches, made by a thread that keeps ``n_ahead`` of them ready. Its error is raised where its batch would come."""
    ready: queue.Queue[Batch | None] = queue.Queue(maxsize=max(1, n_ahead))
    stop = threading.Event()

    def put(item: Batch | None) -> None:
        while not stop.is_set():
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
