"""Awkward arrays in memory, in a plain torch training: the batches of a store of these events."""

from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import torch

from hepflow.data.blocks import EventBlock
from hepflow.data.ledger import Ledger
from hepflow.data.store_writer import StoreWriter
from hepflow.errors import ConfigError, DataError
from hepflow.models.inclusive import InclusiveNet
from hepflow.models.inputs import Inputs
from hepflow.physics.features import compute_features
from hepflow.schema import CLASSES, HLF, PARTICLE
from hepflow.train.data import EventData
from hepflow.train.loading.memory import batches_of_events
from tests.support.delphes_events import random_events, to_awkward
from tests.support.toy_store import toy_block, toy_store

NAMES = [feature.name for feature in PARTICLE]


@pytest.fixture(scope="module")
def blocks() -> list[EventBlock]:
    rng = np.random.default_rng(1)
    return [toy_block(rng, 80, k, len(HLF), NAMES, 6, 80 * k) for k in range(len(CLASSES))]


def jagged(blocks: list[EventBlock]) -> ak.Array:
    """(n, var, 19) numbers."""
    rows = np.concatenate([block.particles for block in blocks])
    return ak.unflatten(rows, np.concatenate([np.diff(block.offsets) for block in blocks]))


def joined(blocks: list[EventBlock], name: str) -> np.ndarray:
    return np.concatenate([getattr(block, name) for block in blocks])


def test_a_plain_torch_loop_trains_a_net(blocks: list[EventBlock]) -> None:
    torch.manual_seed(1)
    batches = batches_of_events(
        jagged(blocks), joined(blocks, "label"), hlf=joined(blocks, "hlf"), batch_size=32
    )
    net = InclusiveNet(batches.inputs)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    losses = []
    for epoch in range(4):
        for batch in batches.epoch(epoch):
            logits = net(batch.hlf, batch.particles, batch.lengths)
            loss = torch.nn.functional.cross_entropy(logits, batch.label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    assert np.mean(losses[-len(batches) :]) < 0.7 * np.mean(losses[: len(batches)])


@pytest.mark.parametrize("balance", ["equal", "natural"])
def test_batches_are_those_of_a_store_of_the_same_events(
    blocks: list[EventBlock], tmp_path: Path, balance: Any
) -> None:
    store = StoreWriter.create(tmp_path / "toy.zarr", toy_store(tmp_path / "spec.zarr").spec)
    total = sum(map(len, blocks))
    places = {("train", name): block for name, block in zip(CLASSES, blocks, strict=True)}
    store.write_part(0, places, Ledger(total, total))
    store.finalise()
    options: dict[str, Any] = {"batch_size": 32, "balance": balance, "seed": 3}
    loader = EventData(store.path, **options).loader("train", shuffle=True)
    batches = batches_of_events(
        jagged(blocks),
        joined(blocks, "label"),
        hlf=joined(blocks, "hlf"),
        event_id=joined(blocks, "event_id"),
        **options,
    )
    assert len(batches) == len(loader)
    for epoch in range(2):
        loader.set_epoch(epoch)
        for mine, theirs in zip(batches, loader, strict=True):
            for name, value in theirs._asdict().items():
                assert np.array_equal(getattr(mine, name), value), name
    of_store = Inputs.of(store)
    assert batches.inputs.hlf == of_store.hlf
    for group in ("hlf", "particles"):
        for name, value in of_store.statistics[group].items():
            assert batches.inputs.statistics[group][name] == pytest.approx(value)


def test_raw_events_get_their_features_computed() -> None:
    events = to_awkward([*random_events(60, seed=1), *random_events(60, seed=2)])
    events["label"] = np.repeat([0, 1], 60).astype(np.int32)
    batches = batches_of_events(events, batch_size=10, classes=("qcd", "ttbar"))
    features = compute_features(events)
    assert 0 < len(features.index) < len(events)
    assert batches.rejected == features.rejected
    seen = {}
    for batch in batches:
        assert torch.equal(batch.mask.sum(dim=1), batch.lengths)
        assert (batch.particles[~batch.mask] == 0).all()
        for i, event in enumerate(batch.event_id.tolist()):
            seen[event] = batch.hlf[i].numpy(), int(batch.label[i]), int(batch.lengths[i])
    assert sorted(seen) == features.index.tolist()
    counts = np.diff(features.offsets)
    for row, event in enumerate(features.index):
        hlf, label, length = seen[event]
        assert np.array_equal(hlf, features.hlf[row])
        assert (label, length) == (events["label"][event], counts[row])


def test_records_and_numbers_are_the_same_particles(blocks: list[EventBlock]) -> None:
    numbers, label = jagged(blocks), joined(blocks, "label")
    columns = {name: numbers[..., i] for i, name in enumerate(NAMES)}
    every = [numbers, ak.zip(columns), ak.Array(columns)]
    made = [list(batches_of_events(events, label, batch_size=50)) for events in every]
    for one, other in pairwise(made):
        for a, b in zip(one, other, strict=True):
            assert torch.equal(a.particles, b.particles)
    assert made[0][0].hlf.shape == (48, 0)


def test_an_epoch_repeats_and_the_next_one_differs(blocks: list[EventBlock]) -> None:
    batches = batches_of_events(jagged(blocks), joined(blocks, "label"))
    epochs = [[batch.event_id.tolist() for batch in batches] for _ in range(2)]
    again = [[batch.event_id.tolist() for batch in batches.epoch(number)] for number in range(2)]
    assert epochs == again
    assert epochs[0] != epochs[1]
    assert sorted(chain.from_iterable(epochs[0])) == list(range(240))
    fixed = batches_of_events(jagged(blocks), joined(blocks, "label"), shuffle=False, batch_size=50)
    epochs = [[batch.event_id.tolist() for batch in fixed] for _ in range(2)]
    assert epochs[0] == epochs[1]
    assert [len(batch) for batch in epochs[0]] == [48] * 5


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"label": None}, DataError, "no field 'label'. Give the labels"),
        ({"label": [0, 1]}, DataError, r"label: int64 of shape \(2,\), expected one integer"),
        ({"label": np.full(240, 0.5)}, DataError, "label: float64 of shape"),
        ({"label": np.arange(240)}, DataError, "values from 0 to 239, but 3 classes"),
        ({"label": ["qcd"] * 240}, DataError, "label: <U3, expected numbers"),
        ({"hlf": np.zeros((240, 3))}, DataError, r"hlf: numbers of shape \(240, 3\), expected"),
        ({"hlf": np.full((240, 14), np.nan)}, DataError, r"event 0 \(id 0\) has nan for 'HT'"),
        ({"events": ak.Array([[{"Pt": 1.0}]] * 240)}, DataError, "no particle field Energy, Px"),
        ({"events": ak.Array([1.0] * 240)}, DataError, "not a list of particles per event"),
        ({"events": ak.Array([[[1.0]]] * 240)}, DataError, r"shape \(240, 1\), expected"),
        ({"events": ak.Array([[[None] * 19]] * 240)}, DataError, "not an array of numbers"),
        ({"balance": {"higgs": 1}}, ConfigError, "balance names higgs"),
        ({"batch_size": 0}, ConfigError, "batch_size must be at least 1"),
        ({"batch_size": 999}, ConfigError, "999 is more than the 240 events"),
    ],
)
def test_a_mistake_is_one_line(
    blocks: list[EventBlock], change: dict[str, Any], error: type[Exception], message: str
) -> None:
    given = {"events": jagged(blocks), "label": joined(blocks, "label")} | change
    with pytest.raises(error, match=message) as caught:
        batches_of_events(**given)
    assert "\n" not in str(caught.value)


def test_a_nan_of_a_particle_is_named_by_its_event(blocks: list[EventBlock]) -> None:
    numbers = [event.tolist() for event in jagged(blocks)]
    numbers[7][1][4] = np.nan
    with pytest.raises(DataError, match=r"event 7 \(id 7\) has nan for 'Pt'. Remove the event"):
        batches_of_events(ak.Array(numbers), joined(blocks, "label"))


def test_events_without_a_collection_or_without_a_lepton_are_refused() -> None:
    events = to_awkward(random_events(20, seed=1))
    label = np.zeros(20, int)
    with pytest.raises(DataError, match="no collection 'Jet'"):
        batches_of_events(ak.without_field(events, "Jet"), label)
    events["Electron"] = events["MuonTight"] = events["Electron"][:, :0]
    with pytest.raises(DataError, match="events: none of 20 passes"):
        batches_of_events(events, label)
