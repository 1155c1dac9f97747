"""The loader: balanced, shuffled, every event once, equal for any ranks and threads, resumable."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from hepflow.config.train import DataConfig
from hepflow.data.blocks import EventBlock, Range
from hepflow.data.store import EventStore
from hepflow.errors import ConfigError, DataError
from hepflow.system.places import place
from hepflow.train.data import EventData
from hepflow.train.loading.batches import Batch
from hepflow.train.loading.loader import EventLoader
from hepflow.train.loading.plan import EpochPlan, Slice, described, make_plan
from hepflow.train.loading.reader import BlockReader
from tests.support.seals import unseal
from tests.support.stores import S3Server
from tests.support.toy_store import toy_store

PLAN: dict[str, Any] = {
    "balance": "equal",
    "batch_size": 16,
    "block_events": 20,
    "window_events": 100,
    "bucket_batches": 2,
    "shuffle": True,
    "seed": 5,
}


def plan_for(store: EventStore, split: str, **options: Any) -> EpochPlan:
    own = {name: options.pop(name) for name in ("shuffle", "seed", "window_events")}
    sizes = {"eval_batch_size": options["batch_size"]}
    return make_plan(store, split, DataConfig(**options, **sizes), **own)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EventStore:
    return toy_store(
        tmp_path_factory.mktemp("loader") / "toy.zarr", events={"qcd": 31, "ttbar": 45, "wjets": 83}
    )


@pytest.fixture(scope="module")
def reader(store: EventStore) -> BlockReader:
    return BlockReader(store, particles=True, order="delta_r", keep=True, block_events=20)


Loader = Callable[..., EventLoader]


@pytest.fixture
def loader(store: EventStore) -> Loader:
    def make(
        *,
        split: str = "train",
        particles: bool = True,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        **options: Any,
    ) -> EventLoader:
        options = PLAN | options
        reader = BlockReader(
            store,
            particles=particles,
            order="delta_r",
            keep=workers == 1,
            block_events=options["block_events"],
        )
        return EventLoader(
            plan_for(store, split, **options), reader, rank=rank, world=world, workers=workers
        )

    return make


def global_batches(loaders: list[EventLoader]) -> list[list[int]]:
    """Return the sorted event ids of each global batch, from the shares of all ranks."""
    found = []
    for shares in zip(*loaders, strict=True):
        real = [share.event_id[share.weight > 0] for share in shares]
        found.append(sorted(torch.cat(real).tolist()))
        assert sum(len(ids) for ids in real) == shares[0].n_global
    return found


def ids(loader: EventLoader) -> list[int]:
    return [i for batch in global_batches([loader]) for i in batch]


@pytest.mark.parametrize("keep", [True, False])
def test_what_is_kept_in_memory_is_what_is_read(store: EventStore, keep: bool) -> None:
    plan = plan_for(store, "train", **PLAN)
    one = EventLoader(
        plan,
        BlockReader(store, particles=True, order="delta_r", keep=keep, block_events=20),
        workers=2,
    )
    first, again = list(one), list(one)
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a.particles, b.particles)
        assert torch.equal(a.hlf, b.hlf)


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("epoch", [0, 3])
def test_global_batches_depend_on_seed_and_epoch_alone(
    loader: Loader, world: int, workers: int, epoch: int
) -> None:
    loaders = [loader(rank=rank, world=world, workers=workers) for rank in range(world)]
    reference = loader()
    for one in [*loaders, reference]:
        one.set_epoch(epoch)
    assert global_batches(loaders) == global_batches([reference])


counts_st = st.lists(st.integers(1, 60), min_size=2, max_size=4)


@given(
    counts=counts_st,
    batch_size=st.integers(1, 40),
    block=st.integers(1, 30),
    window=st.integers(1, 90),
    balance=st.sampled_from(["equal", "natural"]),
    epoch=st.integers(0, 9),
)
def test_an_epoch_takes_its_quota_of_each_class_and_no_event_twice(
    counts: list[int], batch_size: int, block: int, window: int, balance: str, epoch: int
) -> None:
    parts = [Range("train", f"c{label}", 0, count, count) for label, count in enumerate(counts)]
    blocks = tuple(
        tuple(Slice(part, a, min(a + block, part.n_events)) for a in range(0, part.n_events, block))
        for part in parts
    )
    quotas = tuple(counts) if balance == "natural" else (min(counts),) * len(counts)
    plan = EpochPlan(
        blocks=blocks,
        quotas=quotas,
        batch_size=batch_size,
        window_events=window,
        bucket_batches=2,
        shuffle=True,
        seed=epoch,
    )
    seen: list[tuple[str, int]] = []
    n_batches = 0
    for number in range(plan.n_windows):
        events = [
            (s.range.class_name, i)
            for s in plan.slices(epoch, number)
            for i in range(s.start, s.stop)
        ]
        batches = plan.batches(epoch, number, np.arange(len(events)))
        assert sorted(i for batch in batches for i in batch.tolist()) == list(range(len(events)))
        sizes = [len(batch) for batch in batches] or [0]
        assert max(sizes) <= batch_size
        assert max(sizes) - min(sizes) <= 1
        n_batches += len(batches)
        seen += events
    assert len(set(seen)) == len(seen)
    assert [sum(name == f"c{label}" for name, _ in seen) for label in range(len(counts))] == list(
        quotas
    )
    assert n_batches == plan.n_batches


def plan_of(counts: list[int], **options: Any) -> EpochPlan:
    """Return a plan over one part per class, in blocks of seven events."""
    parts = [Range("train", f"c{label}", 0, count, count) for label, count in enumerate(counts)]
    blocks = tuple(
        tuple(Slice(part, a, min(a + 7, part.n_events)) for a in range(0, part.n_events, 7))
        for part in parts
    )
    settings = {
        "quotas": tuple(counts),
        "window_events": 10**6,
        "bucket_batches": 2,
        "shuffle": True,
        "seed": 1,
    }
    return EpochPlan(**settings | {"blocks": blocks} | options)


def events_of(slices: list[Slice]) -> list[tuple[str, int]]:
    return [
        (part.range.class_name, event) for part in slices for event in range(part.start, part.stop)
    ]


@given(
    counts=counts_st, world=st.integers(1, 7), window=st.integers(1, 90), epoch=st.integers(0, 3)
)
def test_the_shares_of_the_ranks_tile_every_window(
    counts: list[int], world: int, window: int, epoch: int
) -> None:
    plan = plan_of(counts, batch_size=8, window_events=window)
    for number in range(plan.n_windows):
        everything = events_of(plan.slices(epoch, number))
        shares = [plan.share(number, rank, world) for rank in range(world)]
        assert sorted(np.concatenate(shares).tolist()) == list(range(len(everything)))
        assert np.ptp([len(share) for share in shares]) <= 1
        for share in shares:
            assert events_of(plan.slices(epoch, number, share)) == [everything[i] for i in share]


@pytest.mark.parametrize("world", [2, 3, 4, 8])
@pytest.mark.parametrize("batch_size", [64, 256, 1000])
@pytest.mark.parametrize("counts", [[9000, 9000, 9000], [2000, 11000, 401]])
def test_what_a_rank_reads_holds_its_share_of_every_batch(
    counts: list[int], batch_size: int, world: int
) -> None:
    plan = plan_of(counts, batch_size=batch_size, bucket_batches=4)
    lengths = np.random.default_rng(1).integers(1, 801, sum(counts))
    edges = np.cumsum(counts)
    for batch in plan.batches(0, 0, lengths):
        per_class = np.bincount(np.searchsorted(edges, batch, side="right"), minlength=3)
        assert np.abs(per_class - len(batch) * np.array(counts) / sum(counts)).max() < 5 * np.sqrt(
            len(batch) / 4
        )
        for rank in range(world):
            own = np.isin(batch, plan.share(0, rank, world)).sum()
            assert abs(own - len(batch) / world) <= 16  # a deal
    uneven = [
        abs(np.isin(batch, plan.share(0, 0, world)).sum() * world / len(batch) - 1)
        for batch in plan.batches(0, 0, lengths)
    ]
    assert np.mean(uneven) < (0.2 if batch_size == 64 else 0.05)


class CountingReader(BlockReader):
    n_read = 0

    def read(self, wanted: Slice) -> EventBlock:
        self.n_read += len(wanted)
        return super().read(wanted)


def test_a_process_reads_no_more_than_its_share(store: EventStore) -> None:
    plan = plan_for(store, "train", **PLAN)
    readers = [
        CountingReader(store, particles=True, order="delta_r", keep=False, block_events=20)
        for _ in range(3)
    ]
    for rank, reader in enumerate(readers):
        list(EventLoader(plan, reader, rank=rank, world=3, workers=0))
    read = [reader.n_read for reader in readers]
    assert sum(read) == plan.n_events
    assert max(read) - min(read) <= plan.n_windows


def test_a_large_class_goes_round_before_an_event_comes_again(
    loader: Loader, store: EventStore
) -> None:
    one = loader(balance={"qcd": 1, "wjets": 1})
    seen: list[int] = []
    for epoch in range(166 // 62):
        one.set_epoch(epoch)
        seen += [
            i
            for batch in one
            for i, label in zip(batch.event_id.tolist(), batch.label.tolist(), strict=True)
            if label == 2
        ]
    assert len(seen) == len(set(seen)) == 124


@pytest.mark.parametrize(
    ("balance", "expected"),
    [
        ("equal", [62, 62, 62]),
        ("natural", [62, 90, 166]),
        ({"qcd": 2, "ttbar": 1, "wjets": 1}, [62, 31, 31]),
        ({"ttbar": 1}, [0, 90, 0]),
    ],
)
def test_balance_mixes_the_classes_at_read_time(
    loader: Loader, balance: Any, expected: list[int]
) -> None:
    labels = torch.cat([batch.label for batch in loader(balance=balance)])
    assert torch.bincount(labels, minlength=3).tolist() == expected


def test_every_window_has_the_mixture_of_the_epoch(loader: Loader) -> None:
    plan = loader().plan
    for window in range(plan.n_windows):
        per_class = np.zeros(3)
        for part in plan.slices(0, window):
            per_class[["qcd", "ttbar", "wjets"].index(part.range.class_name)] += len(part)
        assert np.ptp(per_class) <= 1


def test_epochs_and_seeds_differ_and_repeat(loader: Loader) -> None:
    first, again, other = loader(), loader(), loader(seed=6)
    second = loader()
    second.set_epoch(1)
    assert global_batches([first]) == global_batches([again])
    assert global_batches([first]) != global_batches([second])
    assert global_batches([first]) != global_batches([other])


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("world", [1, 3])
def test_evaluation_sees_every_event_once(
    loader: Loader, store: EventStore, split: str, world: int
) -> None:
    loaders = [loader(split=split, shuffle=False, rank=rank, world=world) for rank in range(world)]
    seen = sorted(i for batch in global_batches(loaders) for i in batch)
    everything = [
        i
        for name in store.spec.classes
        for part in store.ranges(split, name)
        for i in store.read(part).event_id.tolist()
    ]
    assert seen == sorted(everything)


@settings(max_examples=25)
@given(data=st.data())
def test_a_state_goes_on_with_exactly_the_rest_on_any_number_of_ranks(
    store: EventStore, reader: BlockReader, data: st.DataObject
) -> None:
    plan = plan_for(store, "train", **PLAN)

    def make(rank: int, world: int) -> EventLoader:
        return EventLoader(plan, reader, rank=rank, world=world, workers=0)

    whole = make(0, 1)
    whole.set_epoch(2)
    expected = global_batches([whole])
    stopped = make(0, 1)
    stopped.set_epoch(2)
    stop = data.draw(st.integers(0, len(whole) - 1))
    for _ in zip(range(stop), stopped, strict=False):
        pass
    state = stopped.state_dict()
    world = data.draw(st.integers(1, 3))
    resumed = [make(rank, world) for rank in range(world)]
    for one in resumed:
        one.load_state_dict(state)
        one.set_epoch(2)
    assert global_batches(resumed) == expected[state["position"] :]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_that_was_left_starts_again(loader: Loader, workers: int) -> None:
    """As a validation of a few batches, in the same epoch."""
    one = loader(split="val", shuffle=False, workers=workers)
    first = [batch.event_id.tolist() for batch, _ in zip(one, range(3), strict=False)][:2]
    assert [batch.event_id.tolist() for batch in one][:2] == first


def test_a_state_of_another_order_is_refused(loader: Loader) -> None:
    with pytest.raises(ConfigError, match="another order of events"):
        loader().load_state_dict(loader(batch_size=8).state_dict())


def test_padding_ends_at_the_longest_event_and_buckets_make_it_small(loader: Loader) -> None:
    def waste(bucket_batches: int) -> float:
        batches = list(loader(bucket_batches=bucket_batches, window_events=1000))
        assert all(
            batch.particles.shape[1] == max(1, int(batch.lengths.max())) for batch in batches
        )
        return sum(batch.particles[:, :, 0].numel() for batch in batches) / sum(
            int(batch.lengths.sum()) for batch in batches
        )

    assert waste(12) < 1.2 < waste(1)


def test_particles_arrive_as_stored_in_reading_order(loader: Loader, store: EventStore) -> None:
    stored = {
        int(block.event_id[i]): block.particles[block.offsets[i] : block.offsets[i + 1]]
        for name in store.spec.classes
        for part in store.ranges("train", name)
        for block in [store.read(part)]
        for i in range(len(block))
    }
    for batch in loader():
        for event, length, event_id in zip(
            batch.particles.numpy(), batch.lengths.tolist(), batch.event_id.tolist(), strict=True
        ):
            own = stored[event_id]
            assert length == len(own)
            assert (event[length:] == 0).all()
            assert sorted(map(tuple, event[:length])) == sorted(map(tuple, own))
            if length:
                assert tuple(event[length - 1]) == tuple(
                    own[0]
                )  # the first particle is at no distance from itself


def test_nets_of_event_features_read_no_particles(tmp_path: Path) -> None:
    store = toy_store(tmp_path / "toy.zarr")
    for path in store.path.glob("particles"):
        shutil.rmtree(path)
    reader = BlockReader(store, particles=False, order="delta_r", keep=False, block_events=20)
    batches: list[Batch] = list(EventLoader(plan_for(store, "train", **PLAN), reader))
    assert sum(len(batch.label) for batch in batches) == 360
    assert all(batch.particles is None for batch in batches)


@pytest.mark.parametrize("array", ["hlf", "particles"])
def test_a_nan_is_named_by_part_event_and_feature(tmp_path: Path, array: str) -> None:
    store = toy_store(tmp_path / "toy.zarr")
    rows = store.ranges("train", "ttbar")[1]
    block = store.read(rows)
    root = zarr.open_group(store.path, mode="r+")
    event = rows.first + 33
    root[array][event if array == "hlf" else root["offsets"][event], 4] = np.nan
    store = EventStore.open(store.path)
    feature = (store.spec.hlf if array == "hlf" else store.spec.particles)[4].name
    reader = BlockReader(store, particles=True, order="delta_r", keep=True, block_events=20)
    with pytest.raises(
        DataError,
        match=rf"toy\.zarr: event {event} \(id {block.event_id[33]}\) has nan for '{feature}'",
    ):
        list(EventLoader(plan_for(store, "train", **PLAN), reader, workers=2))


def test_a_batch_larger_than_the_epoch_is_refused(loader: Loader) -> None:
    with pytest.raises(ConfigError, match="batch_size 999 is more than the 186 events"):
        loader(batch_size=999)


def test_more_processes_than_events_in_a_batch_are_refused(loader: Loader) -> None:
    with pytest.raises(ConfigError, match="3 processes share"):
        loader(batch_size=2, world=3)


def test_a_class_without_events_is_named(tmp_path: Path) -> None:
    store = toy_store(tmp_path / "toy.zarr", events={"qcd": 30, "ttbar": 0, "wjets": 30})
    with pytest.raises(DataError, match="no event of class 'ttbar'"):
        plan_for(store, "train", **PLAN)
    assert plan_for(store, "train", **PLAN | {"balance": {"qcd": 1, "wjets": 1}}).quotas == (
        60,
        0,
        60,
    )


@pytest.mark.parametrize(
    ("balance", "expected"),
    [
        ({"tt": 1}, "names tt; the classes"),
        ({"qcd": -1}, "none is negative"),
        ({"qcd": np.nan}, "finite"),
    ],
)
def test_a_balance_that_cannot_be_is_refused(loader: Loader, balance: Any, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        loader(balance=balance)


def test_a_store_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no feature store here"):
        EventData(tmp_path / "nowhere.zarr")
    store = toy_store(tmp_path / "toy.zarr")
    unseal(store.path / "zarr.json")
    root = zarr.open_group(store.path, mode="r+")
    about = root.attrs["hepflow"]
    root.attrs["hepflow"] = about | {"complete": False}
    with pytest.raises(DataError, match="unfinished"):
        EventData(store.path)
    root.attrs["hepflow"] = about | {"schema_version": 99}
    with pytest.raises(DataError, match="schema version 99"):
        EventData(store.path)


def test_options_that_cannot_be_are_refused(store: EventStore) -> None:
    with pytest.raises(ConfigError, match=r"data\.batch_size must be at least 1, got 0"):
        EventData(store.path, batch_size=0)


def test_what_is_trained_on_and_the_quality_of_the_shuffle_are_stated(loader: Loader) -> None:
    plan = loader(window_events=93).plan
    whole = f"an epoch: {plan.n_events} events in {plan.n_batches} batches, shuffled as "
    assert described(plan, plan.n_batches).startswith(whole)
    assert "(50% of it" in described(plan, plan.n_batches)
    n_events = plan.n_events // plan.n_batches
    part = f"an epoch: 1 of {plan.n_batches} batches, about {n_events} of {plan.n_events} events"
    assert described(plan, 1).startswith(part)


def test_a_loader_that_is_left_alone_leaves_no_thread(loader: Loader) -> None:
    before = threading.active_count()
    iterator = iter(loader(workers=2))
    next(iterator)
    iterator.close()
    assert threading.active_count() == before


def test_the_splits_of_every_epoch_share_the_memory_for_what_is_kept(store: EventStore) -> None:
    def kept(memory_mb: int) -> list[str]:
        data = EventData(big.path, memory_mb=memory_mb)
        splits = ("train", "val", "test")
        return [name for name in splits if data.loader(name, shuffle=False).reader.keep]

    big = EventStore.open(store.path)
    sizes = {name: big.size(*big.all_ranges(name))[0] for name in ("train", "val")}
    assert sizes["train"] < 1e6 < sizes["train"] + sizes["val"]
    assert [kept(memory_mb) for memory_mb in (0, 1, 2)] == [[], ["train"], ["train", "val"]]


def test_a_window_counts_the_order_of_events_only_where_they_do_not_fit(store: EventStore) -> None:
    """A small store keeps the order of earlier versions, whose checkpoints resume."""
    flat, n_events = 4 * 14 + 16, sum(one.n_events for one in store.all_ranges("train"))
    plans = {}
    for buffer_mb in (1, 512):
        data = EventData(store.path, buffer_mb=buffer_mb, batch_size=4)
        plans[buffer_mb] = data.plan("train", shuffle=True, particles=False)
        assert plans[buffer_mb].window_events == int(buffer_mb * 1e6 / flat) > n_events
    data = EventData(store.path, buffer_mb=1, batch_size=4)
    data._total = lambda *_: 10**6  # type: ignore[method-assign]
    held = data.plan("train", shuffle=True, particles=False).window_events
    assert held == int(1e6 / (flat + 48))


@pytest.mark.slow
@pytest.mark.s3
@pytest.mark.parametrize("parts", [1, 7])
def test_a_rank_asks_a_distant_store_little_before_its_first_batch(
    parts: int, tmp_path: Path, s3: str, s3_server: S3Server
) -> None:
    """Six answers describe a store of any size: two of its file, four of the ranges of events."""
    local, far = tmp_path / "toy.zarr", place(f"{s3}/few-{parts}.zarr")
    far.fs.put(str(toy_store(local, parts=parts).path), far.path, recursive=True)
    s3_server.n_requests = 0
    data = EventData(far)
    loader = data.loader("train", shuffle=True)
    assert s3_server.n_requests <= 6
    (first, *_), (again, *_) = iter(loader), iter(EventData(local).loader("train", shuffle=True))
    assert torch.equal(first.event_id, again.event_id)
