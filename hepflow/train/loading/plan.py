"""Which events an epoch sees, and in which order: a function of the store's part sizes, the seed and the epoch, and of nothing else.

Events lie in blocks: contiguous slices of a part. Every epoch takes the same number of events from each class, as ``balance`` asks.
The epoch is a sequence of *windows*; a window takes its share of every class from that class's shuffled blocks, is read into memory,
and its events are dealt at random to its global batches. So an event travels anywhere within its window, and its block anywhere within
the epoch.

Events are dealt as cards are: a window is laid out with its classes interleaved, and every stretch of it (a *deal*) gives each batch
equally many. So any contiguous share of a window holds, but for a few events, its share of every batch. That is what a rank reads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np

from hepflow.data.blocks import Part
from hepflow.data.provenance import digest
from hepflow.data.store import EventStore
from hepflow.errors import ConfigError, DataError

Balance = Literal["equal", "natural"] | dict[str, float]

_BLOCKS, _EVENTS, _BATCHES = range(3)  # keeps the random streams of one (seed, epoch) apart
_DEALS, _MOST_DEALT = 8, 16
"""A batch comes from so many deals at least, and gets so many events of each at most: many deals make the ranks' shares equal, large
ones the lengths within a batch."""
_DEALT = "dealt"
"""How events come into batches: a checkpoint within an epoch of another way cannot go on."""


@dataclass(frozen=True)
class Slice:
    """Events ``start:stop`` of a part."""

    part: Part
    start: int
    stop: int

    def __len__(self) -> int:
        """Events."""
        return self.stop - self.start


@dataclass(frozen=True, kw_only=True)
class EpochPlan:
    """The order of events for every epoch."""

    blocks: tuple[tuple[Slice, ...], ...]
    """Class -> its blocks."""
    quotas: tuple[int, ...]
    """Class -> events an epoch."""
    batch_size: int
    """Events in a global batch, over all ranks."""
    window_events: int
    """Events in memory that are shuffled together."""
    bucket_batches: int
    """Batches that are sorted by length together; 1: none."""
    shuffle: bool
    seed: int

    @property
    def n_events(self) -> int:
        """Events an epoch."""
        return sum(self.quotas)

    @property
    def n_windows(self) -> int:
        """Windows an epoch."""
        return max(1, round(self.n_events / self.window_events))

    @cached_property
    def window_sizes(self) -> np.ndarray:
        """(windows,) events."""
        edges = np.arange(self.n_windows + 1)
        return np.diff(sum(quota * edges // self.n_windows for quota in self.quotas))

    @cached_property
    def window_batches(self) -> np.ndarray:
        """(windows,) batches; those of a window are equally large but for one event."""
        return -(-self.window_sizes // self.batch_size)

    @property
    def n_batches(self) -> int:
        """Global batches an epoch."""
        return int(self.window_batches.sum())

    @property
    def reach(self) -> float:
        """How far an event travels within its epoch: the share of it among which it may end up anywhere; 1 is a perfect shuffle."""
        return float(self.window_sizes.max() / self.n_events)

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides the order."""
        sizes = [[len(block) for block in blocks] for blocks in self.blocks]
        own = [
            _DEALT,
            self.batch_size,
            self.window_events,
            self.bucket_batches,
            self.shuffle,
            self.seed,
        ]
        return digest(sizes, list(self.quotas), own)

    def counts(self, window: int) -> tuple[int, ...]:
        """Class -> events of a window."""
        return tuple(
            quota * (window + 1) // self.n_windows - quota * window // self.n_windows
            for quota in self.quotas
        )

    def share(self, window: int, rank: int, world: int) -> np.ndarray:
        """Positions in a window, ascending, of the events that a rank has of it: none, if there are fewer events than ranks."""
        return _share(self.counts(window), rank, world)

    def slices(self, epoch: int, window: int, share: np.ndarray | None = None) -> list[Slice]:
        """What to read for a window, class by class, or for a share of it."""
        found = []
        edges = np.cumsum([0, *self.counts(window)])
        for label, (blocks, quota) in enumerate(zip(self.blocks, self.quotas, strict=True)):
            own = (
                np.arange(edges[label], edges[label + 1])
                if share is None
                else share[_between(share, *edges[label : label + 2])]
            )
            if not len(own):
                continue
            first, last = (
                quota * window // self.n_windows + int(end - edges[label])
                for end in (own[0], own[-1] + 1)
            )
            rounds = (
                sum(len(block) for block in blocks) // quota
            )  # epochs that one shuffle of a large class lasts
            start = epoch % rounds * quota
            order = np.arange(len(blocks))
            if self.shuffle:
                order = np.random.default_rng(
                    [self.seed, epoch // rounds, _BLOCKS, label]
                ).permutation(len(blocks))
            found += _cut([blocks[i] for i in order], start + first, start + last)
        return found

    def batches(self, epoch: int, window: int, lengths: np.ndarray | None) -> list[np.ndarray]:
        """Order of a window's events, batch by batch.

        Parameters
        ----------
        lengths : (events,) integers, or None
            Particles an event, to put events of similar length into a batch.

        Returns
        -------
        list of (batch,) int64
            Positions in the window, the longest event of a batch first.
        """
        counts, n_batches = self.counts(window), int(self.window_batches[window])
        if not n_batches:  # more windows than events of any class
            return []
        order = _interleaved(counts)
        n_dealt = max(1, min(_MOST_DEALT, self.batch_size // _DEALS))
        deals, rest = np.split(order, [len(order) // (n_batches * n_dealt) * n_batches * n_dealt])
        deals = deals.reshape(-1, n_batches * n_dealt)
        if self.shuffle:
            rng = np.random.default_rng([self.seed, epoch, _EVENTS, window])
            deals, rest = rng.permuted(deals, axis=1), rng.permutation(rest)
        sizes = np.full(n_batches, len(rest) // n_batches) + (
            np.arange(n_batches) < len(rest) % n_batches
        )
        ends = np.cumsum(sizes)
        step = n_batches if lengths is None else min(self.bucket_batches, n_batches)
        batches: list[np.ndarray] = []
        for first in range(0, n_batches, step):
            last = min(first + step, n_batches)
            group = deals[:, first * n_dealt : last * n_dealt]
            tail = rest[ends[first] - sizes[first] : ends[last - 1]]
            if lengths is not None:
                group = np.take_along_axis(
                    group, np.argsort(-lengths[group], axis=1, kind="stable"), axis=1
                )
                tail = tail[np.argsort(-lengths[tail], kind="stable")]
            dealt = (
                group.reshape(-1, last - first, n_dealt)
                .transpose(1, 0, 2)
                .reshape(last - first, -1)
            )
            batches += map(
                np.concatenate,
                zip(dealt, np.split(tail, np.cumsum(sizes[first : last - 1])), strict=True),
            )
        if lengths is not None:
            batches = [batch[np.argsort(-lengths[batch], kind="stable")] for batch in batches]
        if self.shuffle:
            mix = np.random.default_rng([self.seed, epoch, _BATCHES, window]).permutation(n_batches)
            batches = [batches[i] for i in mix]
        return batches


@lru_cache(maxsize=2)
def _interleaved(counts: tuple[int, ...]) -> np.ndarray:
    """Positions of events that lie class by class, in an order in which every stretch has the mixture of the whole."""
    return np.argsort(
        np.concatenate([(np.arange(n) + 0.5) / max(n, 1) for n in counts]), kind="stable"
    )


@lru_cache(maxsize=4)
def _share(counts: tuple[int, ...], rank: int, world: int) -> np.ndarray:
    n_events = sum(counts)
    return np.sort(_interleaved(counts)[n_events * rank // world : n_events * (rank + 1) // world])


def _between(ascending: np.ndarray, low: int, high: int) -> slice:
    return slice(*np.searchsorted(ascending, [low, high]))


def make_plan(
    store: EventStore,
    split: str,
    *,
    balance: Balance,
    batch_size: int,
    block_events: int,
    window_events: int,
    bucket_batches: int,
    shuffle: bool,
    seed: int,
) -> EpochPlan:
    """The plan for a split of a store. Without ``shuffle`` it is every event once, whatever the balance.

    Raises
    ------
    ConfigError
        The balance names a class that is not there, or the batch is larger than the epoch.
    DataError
        A class that is asked for has no event.
    """
    parts = [store.parts(split, name) for name in store.spec.classes]
    counts = [sum(part.n_events for part in of_class) for of_class in parts]
    where = f"{store.path}, split {split}"
    if not sum(counts):
        raise DataError(
            f"{where}: no events. Give `hepflow features` more events or another share to this split."
        )
    quotas = (
        _quotas(dict(zip(store.spec.classes, counts, strict=True)), balance, where)
        if shuffle
        else tuple(counts)
    )
    if shuffle and batch_size > sum(quotas):
        raise ConfigError(
            f"batch_size {batch_size} is more than the {sum(quotas)} events of an epoch ({where}, balance {balance})"
        )
    return EpochPlan(
        blocks=tuple(tuple(_blocks(of_class, block_events)) for of_class in parts),
        quotas=quotas,
        batch_size=batch_size,
        window_events=max(window_events, batch_size),
        bucket_batches=bucket_batches,
        shuffle=shuffle,
        seed=seed,
    )


def _quotas(counts: Mapping[str, int], balance: Balance, where: str) -> tuple[int, ...]:
    """Events an epoch and class: as many as the proportions allow without repeating one."""
    if isinstance(balance, Mapping):
        if unknown := set(balance) - set(counts):
            raise ConfigError(
                f"balance names {', '.join(sorted(unknown))}; the classes of {where} are {', '.join(counts)}"
            )
        weights = [float(balance.get(name, 0.0)) for name in counts]
        if not all(0 <= weight < np.inf for weight in weights) or max(weights) == 0:
            raise ConfigError(
                f"balance must be finite weights of which none is negative and one is positive, got {balance}"
            )
    else:
        weights = [1.0] * len(counts)
    for (name, count), weight in zip(counts.items(), weights, strict=True):
        if weight and not count:
            raise DataError(
                f"{where}: no event of class {name!r}. Simulate or ingest some, or leave it out by `balance: {{{name}: 0, ...}}`."
            )
    if balance == "natural":
        return tuple(counts.values())
    unit = min(
        count / weight for count, weight in zip(counts.values(), weights, strict=True) if weight
    )
    return tuple(
        min(count, round(weight * unit))
        for count, weight in zip(counts.values(), weights, strict=True)
    )


def _blocks(parts: Sequence[Part], block_events: int) -> list[Slice]:
    return [
        Slice(part, start, min(start + block_events, part.n_events))
        for part in parts
        for start in range(0, part.n_events, block_events)
    ]


def _cut(blocks: Sequence[Slice], start: int, stop: int) -> list[Slice]:
    """Events ``start:stop`` of the blocks one after the other."""
    found, position = [], 0
    for block in blocks:
        first, last = max(start - position, 0), min(stop - position, len(block))
        if first < last:
            found.append(Slice(block.part, block.start + first, block.start + last))
        position += len(block)
    return found


def described(plan: EpochPlan, n_batches: int) -> str:
    """What is trained on in an epoch, so many of its batches, and how far events travel: in one line for a person."""
    epoch = f"an epoch: {plan.n_events:,} events in {plan.n_batches:,} batches, "
    if n_batches < plan.n_batches:
        n_events = plan.n_events * n_batches // plan.n_batches
        epoch = f"an epoch: {n_batches:,} of {plan.n_batches:,} batches, about {n_events:,} of {plan.n_events:,} events, "
    if plan.n_windows == 1:
        return epoch + "shuffled one by one"
    n_blocks = sum(len(blocks) for blocks in plan.blocks)
    return (
        epoch
        + f"shuffled as {n_blocks:,} blocks, then one by one among {plan.window_sizes.max():,} ({plan.reach:.0%} of it)"
    )
