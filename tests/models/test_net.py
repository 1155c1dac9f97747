"""Nets: sizes from the store, padding without effect, normalisation inside."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hepflow.data.blocks import EventBlock
from hepflow.errors import ConfigError, DataError
from hepflow.models.hlf import HLFNet
from hepflow.models.inclusive import InclusiveNet
from hepflow.models.inputs import Inputs
from hepflow.models.layers import InputNorm
from hepflow.models.net import Net, parameters, rebuild
from hepflow.models.order import reading_order
from hepflow.models.sequence import SequenceNet
from hepflow.models.transformer import TransformerNet
from hepflow.schema import CLASSES, HLF, PARTICLE
from tests.support.toy_store import toy_block, toy_store

NETS = (HLFNet, SequenceNet, InclusiveNet)
SEQUENCES = (SequenceNet, InclusiveNet)


def inputs_of(
    n_classes: int = len(CLASSES), n_hlf: int = len(HLF), n_particles: int = len(PARTICLE)
) -> Inputs:
    rng = np.random.default_rng(1)

    def statistics(n: int) -> dict[str, list[float]]:
        mean = rng.normal(0, 3, n)
        return {
            "mean": mean.tolist(),
            "std": rng.uniform(0.1, 5, n).tolist(),
            "min": (mean - 9).tolist(),
            "max": (mean + 200).tolist(),
        }

    names = tuple(f"c{i}" for i in range(n_classes))
    features = {
        "hlf": tuple(f"h{i}" for i in range(n_hlf)),
        "particles": tuple(f"p{i}" for i in range(n_particles)),
    }
    return Inputs(
        names,
        **features,
        statistics={key: statistics(len(value)) for key, value in features.items()},
        definitions="x",
        provenance="y",
    )


def events(
    inputs: Inputs, lengths: list[int], n_padded: int, padding: float = 0.0
) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(2)
    hlf = torch.randn(len(lengths), len(inputs.hlf), generator=rng)
    particles = torch.randn(len(lengths), max(lengths), len(inputs.particles), generator=rng)
    padded = torch.full((len(lengths), n_padded, len(inputs.particles)), padding)
    for row, (event, length) in zip(padded, zip(particles, lengths, strict=True), strict=True):
        row[:length] = event[:length]
    return {"hlf": hlf, "particles": padded, "lengths": torch.tensor(lengths)}


def logits(net: Net, features: dict[str, torch.Tensor]) -> torch.Tensor:
    net.eval()
    with torch.no_grad():
        return net(**{name: features[name] for name in net.reads})


@pytest.mark.parametrize(
    ("net", "expected"), [(HLFNet, 2013), (SequenceNet, 10803), (InclusiveNet, 12353)]
)
def test_the_shipped_sizes_give_the_published_number_of_parameters(
    net: type[Net], expected: int
) -> None:
    assert parameters(net(inputs_of())) == expected


@pytest.mark.parametrize("net", NETS)
@given(n_classes=st.integers(2, 5), n_hlf=st.integers(1, 6), n_particles=st.integers(1, 6))
def test_sizes_come_from_the_inputs(
    net: type[Net], n_classes: int, n_hlf: int, n_particles: int
) -> None:
    inputs = inputs_of(n_classes, n_hlf, n_particles)
    assert logits(net(inputs), events(inputs, [3, 1], 3)).shape == (2, n_classes)


@pytest.mark.parametrize("net", SEQUENCES)
@pytest.mark.parametrize("cell", ["gru", "lstm"])
@given(
    lengths=st.lists(st.integers(0, 7), min_size=1, max_size=6).filter(any),
    more=st.integers(0, 5),
    padding=st.floats(-1e3, 1e3),
)
def test_padding_does_not_change_a_logit(
    net: type[Net], cell: str, lengths: list[int], more: int, padding: float
) -> None:
    inputs = inputs_of()
    torch.manual_seed(3)
    model = net(inputs, cell=cell)
    plain = logits(model, events(inputs, lengths, max(lengths)))
    padded = logits(model, events(inputs, lengths, max(lengths) + more, padding))
    torch.testing.assert_close(padded, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("net", SEQUENCES)
def test_an_event_has_the_same_logits_in_any_batch(net: type[Net]) -> None:
    inputs = inputs_of()
    model = net(inputs)
    together = events(inputs, [5, 0, 9, 2], 9)
    for i in range(4):
        alone = {name: value[i : i + 1] for name, value in together.items()}
        torch.testing.assert_close(
            logits(model, alone)[0], logits(model, together)[i], rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("net", NETS)
def test_a_description_and_a_state_rebuild_the_net(net: type[Net]) -> None:
    inputs = inputs_of()
    model = net(inputs, scale="symlog")
    twin = rebuild(model.describe())
    twin.load_state_dict(model.state_dict())
    features = events(inputs, [4, 2], 4)
    assert torch.equal(logits(twin, features), logits(model, features))


def test_normalisation_is_of_the_training_statistics(tmp_path: Path) -> None:
    store = toy_store(tmp_path / "toy.zarr")
    norm = InputNorm(store.statistics["hlf"])
    hlf = np.concatenate(
        [
            store.read(part).hlf
            for name in store.spec.classes
            for part in store.ranges("train", name)
        ]
    )
    z = norm(torch.from_numpy(hlf)).numpy()
    assert np.allclose(z.mean(axis=0), 0, atol=1e-5)
    assert np.allclose(z[:, :-1].std(axis=0), 1, atol=1e-5)
    assert (z[:, -1] == 0).all()  # the constant feature


@given(x=st.floats(-1e5, 1e5), y=st.floats(-1e5, 1e5))
def test_symlog_keeps_the_order_and_tames_the_tails(x: float, y: float) -> None:
    norm = InputNorm({"mean": [1.0], "std": [2.0], "min": [0.0], "max": [900.0]}, scale="symlog")
    a, b = norm(torch.tensor([[x], [y]])).flatten().tolist()
    assert (a <= b) == (np.float32(x) <= np.float32(y)) or a == b
    assert abs(a) <= np.log1p(1e5)


def test_statistics_travel_with_the_weights() -> None:
    state = InclusiveNet(inputs_of()).state_dict()
    assert {
        "norm_hlf.shift",
        "norm_hlf.width",
        "norm_particles.shift",
        "norm_particles.width",
    } <= set(state)


@pytest.mark.parametrize(
    ("net", "arguments", "expected"),
    [
        (SequenceNet, {"hidden": 0}, "model.net.hidden must be at least 1, got 0"),
        (InclusiveNet, {"dropout": 1.5}, "model.net.dropout must be between 0 and 1, got 1.5"),
        (
            TransformerNet,
            {"width": 50},
            "model.net.width must be a multiple of model.net.heads, got 50 and 4",
        ),
    ],
)
def test_a_net_with_impossible_arguments_is_refused(
    net: type[Net], arguments: dict[str, float], expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected):
        net(inputs_of(), **arguments)


def test_one_class_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least two classes"):
        HLFNet(inputs_of(n_classes=1))


def test_inputs_survive_json_and_name_what_differs() -> None:
    inputs = inputs_of()
    assert Inputs.from_dict(inputs.to_dict()) == inputs
    with pytest.raises(DataError, match="made for classes c0, c1, c2, the store has c0, c1"):
        inputs.require_same_features(inputs_of(n_classes=2), "x.ckpt")


def block_of(eta: list[float], phi: list[float], offsets: list[int]) -> EventBlock:
    n = len(offsets) - 1
    particles = np.stack([np.arange(len(eta)), eta, phi], axis=1).astype(np.float32)
    return EventBlock(
        np.zeros((n, 1), np.float32),
        particles,
        np.array(offsets),
        np.zeros(n, np.int8),
        np.arange(n),
    )


def test_the_lepton_is_read_last_and_the_farthest_first() -> None:
    block = block_of([0, 0.1, 3, -1, 0, 0], [3.1, 3.0, 3.1, -3.1, 1.0, -2.0], [0, 4, 4, 6])
    order = reading_order(block, ["n", "Eta", "Phi"], "delta_r")
    assert order is not None
    assert order.tolist() == [2, 3, 1, 0, 5, 4]  # across phi = pi, particle 3 is 1.01 away, not 6.3


def test_particles_at_one_distance_stay_as_stored() -> None:
    order = reading_order(
        block_of([0, 1, 1, -1], [0, 0, 0, 0], [0, 4]), ["n", "Eta", "Phi"], "delta_r"
    )
    assert order is not None
    assert order.tolist() == [1, 2, 3, 0]


@given(seed=st.integers(0, 99))
def test_reading_order_mixes_no_events(seed: int) -> None:
    block = toy_block(np.random.default_rng(seed), 9, 1, 2, ["Eta", "Phi"], 4, 0)
    order = reading_order(block, ["Eta", "Phi"], "delta_r")
    assert order is not None
    event = np.repeat(np.arange(9), np.diff(block.offsets))
    assert np.array_equal(event[order], event)
    assert np.array_equal(np.sort(order), np.arange(len(order)))


def test_stored_order_needs_no_column() -> None:
    block = block_of([1], [1], [0, 1])
    assert reading_order(block, ["a", "b", "c"], "stored") is None
    with pytest.raises(DataError, match="no particle feature Eta and Phi"):
        reading_order(block, ["a", "b", "c"], "delta_r")


def named(inputs: Inputs) -> Inputs:
    return replace(inputs, particles=tuple(feature.name for feature in PARTICLE))


@given(
    lengths=st.lists(st.integers(0, 7), min_size=1, max_size=4).filter(any),
    more=st.integers(0, 5),
    padding=st.floats(-1e3, 1e3),
)
def test_padding_does_not_change_a_logit_of_the_transformer(
    lengths: list[int], more: int, padding: float
) -> None:
    inputs = named(inputs_of())
    torch.manual_seed(3)
    model = TransformerNet(inputs, max_particles=5)
    short, long = (
        events(inputs, lengths, max(lengths)),
        events(inputs, lengths, max(lengths) + more, padding),
    )
    for features in (short, long):
        features["particles"][..., inputs.particles.index("Pt")].abs_()
    plain, padded = logits(model, short), logits(model, long)
    torch.testing.assert_close(padded, plain, rtol=1e-4, atol=1e-5)


def test_the_transformer_does_not_depend_on_the_order_of_particles() -> None:
    inputs = named(inputs_of())
    model = TransformerNet(inputs)
    features = events(inputs, [6, 6], 6)
    shuffled = features | {"particles": features["particles"][:, [3, 1, 5, 0, 2, 4]]}
    torch.testing.assert_close(
        logits(model, shuffled), logits(model, features), rtol=1e-4, atol=1e-5
    )


def test_the_transformer_names_a_missing_feature() -> None:
    with pytest.raises(DataError, match="no particle feature Eta and Phi and Pt"):
        TransformerNet(inputs_of())
