"""Selection and order of the events of an epoch.

The order is a function of the sizes of the ranges, the seed and the epoch. It does not depend on
the number of processes or threads, so a training resumes on any number of them. No library does
this on a jagged store: a `DataLoader` shuffles single indices, one random read per event.

    qcd    [b2][b0][b3][b1] ..      blocks: contiguous events of a range, in random order
    ttbar  [b1][b4][b0][b2] ..
    wjets  [b0][b3][b1][b2] ..      balance decides how many events per class an epoch takes
           | window 0 | window 1    a window: its share of each class, read into memory

    q t w q t w q t w q t w | q t w q t w q t w q t w | q t     the window, classes interleaved
          first deal        |      second deal        | rest

Each deal gives every batch the same number of events, chosen at random, as one deals cards. So an
event travels anywhere within its window and its block anywhere within the epoch. And any contiguous
stretch of a window holds its share of every batch, to within a few events: with several processes,
each one reads one stretch of the window and nothing else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain

import numpy as np

from hepflow.config.train import Balance, DataConfig
from hepflow.data.blocks import Range
from hepflow.data.provenance import digest
from hepflow.data.store import EventStore
from hepflow.errors import ConfigError, DataError

_BLOCKS, _EVENTS, _BATCHES = range(3)  # keeps the random streams of one (seed, epoch) apart
# A batch gets its events from at least 8 deals, and at most 16 events from each: many deals make
# the processes' shares equal, large deals make the lengths within a batch similar.
_DEALS, _MOST_DEALT = 8, 16
_DEALT = "dealt"  # names this algorithm: a checkpoint within an epoch of another one cannot resume


@dataclass(frozen=True)
class Slice:
    """Events ``start:stop`` of a range of a store."""

    range: Range
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, kw_only=True)
class EpochPlan:
    """The order of events for every epoch."""

    blocks: tuple[tuple[Slice, ...], ...]  # blocks of each class
    quotas: tuple[int, ...]  # events per epoch of each class
    batch_size: int  # events per global batch, over all processes
    window_events: int  # events in memory that are shuffled together
    bucket_batches: int  # batches whose events are sorted by length together; 1: none
    shuffle: bool
    seed: int

    @property
    def n_events(self) -> int:
        """Events per epoch."""
        return sum(self.quotas)

    @property
    def n_windows(self) -> int:
        """Windows per epoch."""
        return max(1, round(self.n_events / self.window_events))

    @cached_property
    def window_sizes(self) -> np.ndarray:
        """Events per window, (windows,)."""
        return np.array([sum(self.counts(window)) for window in range(self.n_windows)])

    @cached_property
    def window_batches(self) -> np.ndarray:
        """Batches per window, (windows,); their sizes differ by at most one event."""
        return -(-self.window_sizes // self.batch_size)

    @property
    def n_batches(self) -> int:
        """Global batches per epoch."""
        return int(self.window_batches.sum())

    @property
    def reach(self) -> float:
        """Part of the epoch within which an event moves freely; 1 is a perfect shuffle."""
        return float(self.window_sizes.max() / self.n_events)

    @property
    def splits(self) -> list[str]:
        """Splits of the events."""
        return sorted({block.range.split for blocks in self.blocks for block in blocks})

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides the order."""
        sizes = [[len(block) for block in blocks] for blocks in self.blocks]
        own = [_DEALT, self.batch_size, self.window_events, self.bucket_batches]
        return digest(sizes, list(self.quotas), [*own, self.shuffle, self.seed])

    def counts(self, window: int) -> tuple[int, ...]:
        """Return the number of events of each class in a window."""
        n = self.n_windows
        return tuple(quota * (window + 1) // n - quota * window // n for quota in self.quotas)

    def share(self, window: int, rank: int, world: int) -> np.ndarray:
        """Return the positions in a window, ascending, of the events that a process reads.

        They are a stretch of the interleaved window; none if there are fewer events than processes.
        """
        return _share(self.counts(window), rank, world)

    def slices(self, epoch: int, window: int, share: np.ndarray | None = None) -> list[Slice]:
        """Return what to read for a window, or for a share of it, class by class."""
        found = []
        edges = np.cumsum([0, *self.counts(window)])
        for label, (blocks, quota) in enumerate(zip(self.blocks, self.quotas, strict=True)):
            start, stop = edges[label : label + 2]
            if share is not None:  # from its first event of this class to its last
                first, last = np.searchsorted(share, [start, stop])
                start, stop = (share[first], share[last - 1] + 1) if first < last else (0, 0)
            if start == stop:
                continue
            # A class with k times more events than its quota is shuffled once per k epochs, and
            # each of them takes the next quota: no event comes again before all have been used.
            rounds = sum(len(block) for block in blocks) // quota
            order = np.arange(len(blocks))
            if self.shuffle:
                stream = [self.seed, epoch // rounds, _BLOCKS, label]
                order = np.random.default_rng(stream).permutation(len(blocks))
            before = epoch % rounds * quota + quota * window // self.n_windows - edges[label]
            found += _cut([blocks[i] for i in order], int(before + start), int(before + stop))
        return found

    def batches(self, epoch: int, window: int, lengths: np.ndarray | None) -> list[np.ndarray]:
        """Return the positions in a window of its events, batch by batch.

        Given the particles per event, events of similar length are in a batch, the longest first.
        """
        n_batches = int(self.window_batches[window])
        if not n_batches:  # more windows than events of any class
            return []
        deals, rest = self._deal(epoch, window, n_batches)
        if lengths is not None:
            _sort_by_length(deals, rest, lengths, self.bucket_batches)
        # (deals, batches, dealt) -> each batch's events of all deals, and its part of the rest
        dealt = deals.swapaxes(0, 1).reshape(n_batches, deals.size // n_batches)
        pairs = zip(dealt, np.array_split(rest, n_batches), strict=True)
        batches = [np.concatenate(pair) for pair in pairs]
        if lengths is not None:
            batches = [_longest_first(batch, lengths) for batch in batches]
        if self.shuffle:  # else the sorting would put the longest batch of each bucket first
            mix = np.random.default_rng([self.seed, epoch, _BATCHES, window]).permutation(n_batches)
            batches = [batches[i] for i in mix]
        return batches

    def _deal(self, epoch: int, window: int, n_batches: int) -> tuple[np.ndarray, np.ndarray]:
        """Deal the events of a window.

        Invariant: every batch gets the same number of events of each deal, and a deal is a
        contiguous stretch of the interleaved window. So every batch has the window's mixture of
        classes, and each process's stretch has its share of every batch. Returns deals of shape
        (deals, batches, events dealt), and the rest: less than a deal.
        """
        order = _interleaved(self.counts(window)).copy()
        n_dealt = max(1, min(_MOST_DEALT, self.batch_size // _DEALS))
        n_deals = len(order) // (n_batches * n_dealt)
        deals, rest = np.split(order, [n_deals * n_batches * n_dealt])
        deals = deals.reshape(n_deals, n_batches * n_dealt)
        if self.shuffle:
            rng = np.random.default_rng([self.seed, epoch, _EVENTS, window])
            deals, rest = rng.permuted(deals, axis=1), rng.permutation(rest)
        return deals.reshape(n_deals, n_batches, n_dealt), rest


def _sort_by_length(deals: np.ndarray, rest: np.ndarray, lengths: np.ndarray, bucket: int) -> None:
    """Sort by decreasing length within buckets of batches, in place: little is padded then.

    Invariant: an event stays in its deal and in its bucket of batches, so what `_deal` promises
    about classes and shares still holds.
    """
    n_deals, n_batches, n_dealt = deals.shape
    ends = np.cumsum([0, *map(len, np.array_split(rest, n_batches))])
    for first in range(0, n_batches, bucket):
        last = min(first + bucket, n_batches)
        rows = deals[:, first:last].reshape(n_deals, (last - first) * n_dealt)
        ordered = _longest_first(rows, lengths)
        deals[:, first:last] = ordered.reshape(n_deals, last - first, n_dealt)
        tail = slice(ends[first], ends[last])
        rest[tail] = _longest_first(rest[tail], lengths)


def _longest_first(events: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    order = np.argsort(-lengths[events], axis=-1, kind="stable")
    return np.take_along_axis(events, order, axis=-1)


@lru_cache(maxsize=2)
def _interleaved(counts: tuple[int, ...]) -> np.ndarray:
    """Return the positions of events stored class by class, so that every stretch is mixed."""
    places = [(np.arange(n) + 0.5) / max(n, 1) for n in counts]
    return np.argsort(np.concatenate(places), kind="stable")


@lru_cache(maxsize=4)
def _share(counts: tuple[int, ...], rank: int, world: int) -> np.ndarray:
    n_events = sum(counts)
    return np.sort(_interleaved(counts)[n_events * rank // world : n_events * (rank + 1) // world])


def _cut(blocks: Sequence[Slice], start: int, stop: int) -> list[Slice]:
    """Return events ``start:stop`` of the blocks put one after another."""
    found, position = [], 0
    for block in blocks:
        first, last = max(start - position, 0), min(stop - position, len(block))
        if first < last:
            found.append(Slice(block.range, block.start + first, block.start + last))
        position += len(block)
    return found


def make_plan(
    store: EventStore,
    split: str,
    options: DataConfig,
    *,
    shuffle: bool,
    seed: int,
    window_events: int | None = None,
) -> EpochPlan:
    """Return the plan for a split of a store; without ``shuffle`` it has every event once."""
    ranges = {name: store.ranges(split, name) for name in store.spec.classes}
    counts = {name: sum(one.n_events for one in own) for name, own in ranges.items()}
    where = f"{store.path}, split {split}"
    if not sum(counts.values()):
        advice = "Give `hepflow features` more events or this split a larger share."
        raise DataError(f"{where}: no events. {advice}")
    balance, step = options.balance, options.block_events
    batch_size = options.batch_size if shuffle else options.eval_batch_size
    quotas = quotas_of(counts, balance, where) if shuffle else tuple(counts.values())
    if shuffle and batch_size > sum(quotas):
        epoch = f"{sum(quotas)} events of an epoch ({where}, balance {balance})"
        raise ConfigError(f"batch_size {batch_size} is more than the {epoch}")

    def blocks_of(rows: Range) -> list[Slice]:
        starts = range(0, rows.n_events, step)
        return [Slice(rows, start, min(start + step, rows.n_events)) for start in starts]

    blocks = tuple(tuple(chain.from_iterable(map(blocks_of, own))) for own in ranges.values())
    bucket = options.bucket_batches if shuffle else np.iinfo(np.int64).max
    window = max(window_events or sum(quotas), batch_size)
    sizes = {"batch_size": batch_size, "window_events": window, "bucket_batches": bucket}
    return EpochPlan(blocks=blocks, quotas=quotas, **sizes, shuffle=shuffle, seed=seed)


def quotas_of(counts: Mapping[str, int], balance: Balance, where: str) -> tuple[int, ...]:
    """Return the events per epoch of each class: as many as possible without repeating one."""
    weights = dict.fromkeys(counts, 1.0)
    if isinstance(balance, Mapping):
        if unknown := ", ".join(sorted(set(balance) - set(counts))):
            known = ", ".join(counts)
            raise ConfigError(f"balance names {unknown}; the classes of {where} are {known}")
        weights = {name: float(balance.get(name, 0.0)) for name in counts}
        values = weights.values()
        if not all(0 <= weight < np.inf for weight in values) or max(values) == 0:
            rule = "finite weights: none is negative and at least one is positive"
            raise ConfigError(f"balance must have {rule}; got {balance}")
    for name, count in counts.items():
        if weights[name] and not count:
            advice = f"Simulate or ingest some, or leave it out by `balance: {{{name}: 0, ...}}`."
            raise DataError(f"{where}: no event of class {name!r}. {advice}")
    if balance == "natural":
        return tuple(counts.values())
    unit = min(count / weights[name] for name, count in counts.items() if weights[name])
    return tuple(min(count, round(weights[name] * unit)) for name, count in counts.items())


def described(plan: EpochPlan, n_batches: int) -> str:
    """Return one line: the events of an epoch of ``n_batches``, and how far they are shuffled."""
    n_all = plan.n_batches
    epoch = f"{plan.n_events:,} events in {n_all:,} batches"
    if n_batches < n_all:
        n_events = f"about {plan.n_events * n_batches // n_all:,} of {plan.n_events:,} events"
        epoch = f"{n_batches:,} of {n_all:,} batches, {n_events}"
    order = "one by one"
    if plan.n_windows > 1:
        among = f"{plan.window_sizes.max():,} ({plan.reach:.0%} of it)"
        order = f"as {sum(map(len, plan.blocks)):,} blocks, then one by one among {among}"
    return f"an epoch: {epoch}, shuffled {order}"
