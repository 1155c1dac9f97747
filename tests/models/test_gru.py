"""The jagged recurrent layers: the numbers of stock torch, for any padding and any threads."""

import io
import re
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from llvmlite import binding
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from hepflow.models import gru as gru_module
from hepflow.models.gru import JaggedGRU, JaggedLSTM
from hepflow.models.kernels import simd

# B events, P particles, C channels, H hidden


def stock_gru(layer: JaggedGRU, x_BPC: Tensor, lengths_B: Tensor) -> tuple[Tensor, nn.GRU]:
    """Return the states of torch.nn.GRU with the same weights, zero for empty sequences."""
    stock = nn.GRU(layer.input_size, layer.hidden_size, batch_first=True)
    stock.load_state_dict(layer.state_dict())
    filled = lengths_B > 0
    h_BH = x_BPC.new_zeros(len(x_BPC), layer.hidden_size)
    if filled.any():
        packed = pack_padded_sequence(
            x_BPC[filled], lengths_B[filled], batch_first=True, enforce_sorted=False
        )
        h_BH = h_BH.index_put((filled,), stock(packed)[1][0])
    return h_BH, stock


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    """Compare within 1e-5 of the largest value, or 1e-6, as float32 states near 1 allow."""
    assert ours.shape == theirs.shape
    torch.testing.assert_close(
        ours,
        theirs,
        rtol=0,
        atol=1e-5 * max(float(theirs.abs().max()), 0.1) if theirs.numel() else 0,
    )


def assert_like_stock(x_BPC: Tensor, lengths_B: Tensor, n_hidden: int) -> None:
    layer = JaggedGRU(x_BPC.shape[2], n_hidden)
    ours, theirs = x_BPC.clone().requires_grad_(), x_BPC.clone().requires_grad_()
    h_BH = layer(ours, lengths_B)
    expected_BH, stock = stock_gru(layer, theirs, lengths_B)
    assert_close(h_BH, expected_BH)
    if not lengths_B.any():
        assert not h_BH.any()
        return
    weight_BH = torch.randn_like(h_BH)
    (h_BH * weight_BH).sum().backward()
    (expected_BH * weight_BH).sum().backward()
    assert_close(ours.grad, theirs.grad)
    for name, parameter in layer.named_parameters():
        assert_close(parameter.grad, stock.get_parameter(name).grad)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 40), max_size=150),
    extra=st.integers(1, 5),
    n_inputs=st.integers(1, 40),
    n_hidden=st.integers(1, 70),
    seed=st.integers(0, 1000),
)
def test_results_and_gradients_are_those_of_stock_torch(
    lengths: list[int], extra: int, n_inputs: int, n_hidden: int, seed: int
) -> None:
    torch.manual_seed(seed)
    x_BPC = torch.randn(len(lengths), max(lengths, default=0) + extra, n_inputs)
    assert_like_stock(x_BPC, torch.tensor(lengths, dtype=torch.int64), n_hidden)


@pytest.mark.parametrize(
    "lengths", [[801, 400, 3], [60] * 64, [1] * 70, [0, 0], [0, 1, 801]], ids=str
)
def test_results_and_gradients_are_those_of_stock_torch_at_the_size_of_the_nets(
    lengths: list[int],
) -> None:
    torch.manual_seed(1)
    assert_like_stock(torch.randn(len(lengths), max(lengths) or 1, 19), torch.tensor(lengths), 50)


def test_large_inputs_saturate_the_gates_as_in_stock_torch() -> None:
    torch.manual_seed(2)
    assert_like_stock(torch.randn(40, 20, 5) * 200, torch.randint(0, 21, (40,)), 8)


@pytest.mark.parametrize("garbage", [0.0, 1e30, float("nan"), float("inf")])
def test_padding_never_changes_a_bit(garbage: float) -> None:
    layer, lengths_B = JaggedGRU(19, 50), torch.randint(0, 31, (100,))
    x_BPC = torch.randn(100, 30, 19)
    padded_BPC = torch.cat([x_BPC, torch.zeros(100, 3, 19)], 1)
    padded_BPC[torch.arange(33) >= lengths_B[:, None]] = garbage
    clean = _result_and_gradients(layer, x_BPC, lengths_B)
    padded = _result_and_gradients(layer, padded_BPC, lengths_B)
    assert all(torch.equal(a, b) for a, b in zip(clean, padded, strict=True))


def test_threads_and_repeats_give_the_same_bits() -> None:
    layer, x_BPC, lengths_B = (
        JaggedGRU(19, 50),
        torch.randn(300, 30, 19),
        torch.randint(0, 31, (300,)),
    )
    n_threads = torch.get_num_threads()
    results = []
    try:
        for n in (1, 3, 2, 1):
            torch.set_num_threads(n)
            results.append(_result_and_gradients(layer, x_BPC, lengths_B))
    finally:
        torch.set_num_threads(n_threads)
    assert all(
        torch.equal(a, b) for result in results[1:] for a, b in zip(results[0], result, strict=True)
    )


def test_two_python_threads_may_train_at_once() -> None:
    layer, x_BPC, lengths_B = (
        JaggedGRU(19, 50),
        torch.randn(200, 60, 19),
        torch.randint(0, 61, (200,)),
    )
    expected = _result_and_gradients(layer, x_BPC, lengths_B)
    found: list[tuple[Tensor, ...]] = []

    def work() -> None:
        found.extend(_result_and_gradients(layer, x_BPC, lengths_B) for _ in range(5))

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 10
    assert all(torch.equal(a, b) for result in found for a, b in zip(expected, result, strict=True))


def test_the_order_of_events_does_not_change_their_result() -> None:
    layer, x_BPC, lengths_B = (
        JaggedGRU(19, 50),
        torch.randn(100, 30, 19),
        torch.randint(0, 31, (100,)),
    )
    order = torch.randperm(100)
    assert torch.equal(layer(x_BPC, lengths_B)[order], layer(x_BPC[order], lengths_B[order]))


def test_a_nan_stays_in_its_event() -> None:
    layer, x_BPC, lengths_B = (
        JaggedGRU(19, 50),
        torch.randn(100, 30, 19),
        torch.randint(1, 31, (100,)),
    )
    clean_BH = layer(x_BPC, lengths_B)
    x_BPC[7, 0, 3] = float("nan")
    h_BH = layer(x_BPC, lengths_B)
    assert h_BH[7].isnan().all()
    others = torch.arange(100) != 7
    assert torch.equal(h_BH[others], clean_BH[others])


def test_inputs_may_be_views_of_any_stride() -> None:
    layer, x_CPB, lengths_B = JaggedGRU(4, 6), torch.randn(4, 9, 12), torch.randint(0, 10, (12,))
    x_BPC = x_CPB.permute(2, 1, 0)
    assert torch.equal(layer(x_BPC, lengths_B), layer(x_BPC.contiguous(), lengths_B))


def test_state_dicts_interchange_with_torch() -> None:
    layer, stock = JaggedGRU(19, 50), nn.GRU(19, 50)
    stock.load_state_dict(layer.state_dict())
    layer.load_state_dict(nn.GRU(19, 50).state_dict())
    lstm = JaggedLSTM(19, 50)
    lstm.load_state_dict(nn.LSTM(19, 50).state_dict())
    assert list(layer.state_dict()) == ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"]


def test_no_grad_and_frozen_weights_give_the_same_result() -> None:
    layer, x_BPC, lengths_B = (
        JaggedGRU(19, 50),
        torch.randn(40, 30, 19),
        torch.randint(0, 31, (40,)),
    )
    h_BH = layer(x_BPC, lengths_B)
    with torch.no_grad():
        assert torch.equal(layer(x_BPC, lengths_B), h_BH)
    with torch.inference_mode():
        assert torch.equal(layer(x_BPC, lengths_B), h_BH)
    layer.requires_grad_(requires_grad=False)
    layer.weight_hh_l0.requires_grad_()
    layer(x_BPC, lengths_B).sum().backward()
    assert layer.weight_hh_l0.grad is not None
    assert layer.weight_ih_l0.grad is None


def test_two_results_may_be_kept_before_going_back() -> None:
    layer, lengths_B = JaggedGRU(3, 5), torch.tensor([4, 2])
    first, second = torch.randn(2, 4, 3), torch.randn(2, 4, 3)
    kept = [layer(x, lengths_B).sum() for x in (first, second)]
    sum(kept).backward()
    together = layer.weight_ih_l0.grad.clone()
    layer.zero_grad()
    layer(torch.cat([first, second]), lengths_B.repeat(2)).sum().backward()
    torch.testing.assert_close(together, layer.weight_ih_l0.grad)


def test_gradients_of_gradients_are_those_of_stock_torch() -> None:
    layer, lengths_B = JaggedGRU(3, 4), torch.tensor([5, 0, 2])
    x_BPC = torch.randn(3, 5, 3)

    def penalty(h_BH: Tensor, x: Tensor) -> Tensor:
        return torch.autograd.grad(h_BH.square().sum(), x, create_graph=True)[0].square().sum()

    ours, theirs = x_BPC.clone().requires_grad_(), x_BPC.clone().requires_grad_()
    penalty(layer(ours, lengths_B), ours).backward()
    h_BH, stock = stock_gru(layer, theirs, lengths_B)
    penalty(h_BH, theirs).backward()
    assert_close(ours.grad, theirs.grad)
    assert_close(layer.weight_hh_l0.grad, stock.weight_hh_l0.grad)


@pytest.mark.parametrize("cell", [JaggedGRU, JaggedLSTM])
def test_bf16_autocast_trains(cell: type[JaggedGRU | JaggedLSTM]) -> None:
    embed, layer = nn.Linear(19, 19), cell(19, 50)
    x_BPC, lengths_B = torch.randn(8, 12, 19), torch.randint(0, 13, (8,))
    with torch.autocast("cpu", torch.bfloat16):
        h_BH = layer(embed(x_BPC), lengths_B)
    h_BH.float().sum().backward()
    assert embed.weight.grad.isfinite().all()
    torch.testing.assert_close(h_BH.float(), layer(embed(x_BPC), lengths_B), rtol=0, atol=0.03)


def test_double_precision_goes_through_stock_torch() -> None:
    layer = JaggedGRU(2, 3).double()
    x_BPC, lengths_B = (
        torch.randn(4, 5, 2, dtype=torch.float64, requires_grad=True),
        torch.tensor([5, 0, 1, 3]),
    )
    assert torch.autograd.gradcheck(lambda x: layer(x, lengths_B), (x_BPC,))


def test_without_numba_the_results_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x_BPC, lengths_B = (
        JaggedGRU(19, 50),
        torch.randn(20, 30, 19),
        torch.randint(0, 31, (20,)),
    )
    ours = _result_and_gradients(layer, x_BPC, lengths_B)
    monkeypatch.setattr(gru_module, "gru_kernels", None)
    for a, b in zip(ours, _result_and_gradients(layer, x_BPC, lengths_B), strict=True):
        assert_close(a, b)


def test_a_simple_loop_learns_to_tell_long_from_short() -> None:
    torch.manual_seed(0)
    layer, head = JaggedGRU(2, 8), nn.Linear(8, 1)
    optimizer = torch.optim.Adam([*layer.parameters(), *head.parameters()], lr=0.02)
    lengths_B = torch.randint(0, 20, (128,))
    x_BPC, target_B = torch.randn(128, 20, 2), (lengths_B > 9).float()
    for _ in range(80):
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(
            head(layer(x_BPC, lengths_B))[:, 0], target_B
        )
        loss.backward()
        optimizer.step()
    assert loss < 0.2


def test_lstm_is_the_stock_one_with_zeros_for_the_empty() -> None:
    layer, x_BPC, lengths_B = (
        JaggedLSTM(3, 5),
        torch.randn(6, 7, 3),
        torch.tensor([7, 0, 1, 3, 3, 6]),
    )
    stock = nn.LSTM(3, 5, batch_first=True)
    stock.load_state_dict(layer.state_dict())
    h_BH = layer(x_BPC, lengths_B)
    for h_H, x_PC, n in zip(h_BH, x_BPC, lengths_B.tolist(), strict=True):
        torch.testing.assert_close(h_H, stock(x_PC[None, :n])[1][0][0, 0] if n else torch.zeros(5))


@pytest.mark.parametrize("cell", [JaggedGRU, JaggedLSTM])
def test_the_onnx_export_has_dynamic_batch_and_length(cell: type[JaggedGRU | JaggedLSTM]) -> None:
    runtime = pytest.importorskip("onnxruntime")
    layer, file = cell(19, 50).eval(), io.BytesIO()
    axes = {"x": {0: "events", 1: "particles"}, "lengths": {0: "events"}}
    example = (torch.randn(3, 6, 19), torch.tensor([6, 0, 2]))
    torch.onnx.export(
        layer,
        example,
        file,
        input_names=["x", "lengths"],
        output_names=["h"],
        dynamic_axes=axes,
        dynamo=False,
    )
    session = runtime.InferenceSession(file.getvalue())
    for n_events, n_particles in ((1, 1), (5, 40)):
        x_BPC, lengths_B = (
            torch.randn(n_events, n_particles, 19),
            torch.randint(0, n_particles + 1, (n_events,)),
        )
        found = session.run(None, {"x": x_BPC.numpy(), "lengths": lengths_B.numpy()})[0]
        np.testing.assert_allclose(found, layer(x_BPC, lengths_B).detach().numpy(), atol=1e-5)


def test_the_graph_of_torch_export_gives_the_same_result() -> None:
    layer, example = JaggedGRU(19, 50).eval(), (torch.randn(3, 6, 19), torch.tensor([6, 0, 2]))
    program = torch.export.export(layer, example)
    torch.testing.assert_close(program.module()(*example), layer(*example), rtol=0, atol=1e-5)


def test_lengths_and_shapes_that_do_not_fit_are_refused() -> None:
    layer = JaggedGRU(19, 50)
    for lengths in ([5], [6, 1], [-1, 1]):
        with pytest.raises(ValueError, match="lengths must be 2 integers from 0 to 5"):
            layer(torch.randn(2, 5, 19), torch.tensor(lengths))
    with pytest.raises(ValueError, match="x must be"):
        layer(torch.randn(2, 5, 18), torch.tensor([1, 2]))


def test_exp_of_the_kernels_is_good_to_three_ulp() -> None:
    numba = pytest.importorskip("numba")

    @numba.njit
    def run(x: np.ndarray, y: np.ndarray) -> None:
        for i in range(0, x.size, simd.LANES):
            simd.store(y, i, simd.exp(simd.load(x, i)))

    x = np.linspace(-87, 87, 64 * 1024, dtype=np.float32)
    y = np.empty_like(x)
    run(x, y)
    np.testing.assert_allclose(y, np.exp(x.astype(np.float64)), rtol=3.6e-7)


def test_the_product_of_the_kernels_is_made_of_fused_multiply_adds() -> None:
    numba = pytest.importorskip("numba")

    @numba.njit
    def run(a: np.ndarray, b: np.ndarray, n: int, c: np.ndarray) -> None:
        simd.product(a, 0, b, 0, n, c, 0)

    rng = np.random.default_rng(0)
    a_KR, b_KL = (rng.normal(size=(7, n)).astype(np.float32) for n in (simd.ROWS, simd.LANES))
    c_RL = np.empty((simd.ROWS, simd.LANES), np.float32)
    run(a_KR.ravel(), b_KL.ravel(), 7, c_RL.reshape(-1))
    np.testing.assert_allclose(c_RL, a_KR.T @ b_KL, rtol=1e-5, atol=1e-5)
    if binding.get_host_cpu_features().get("fma"):
        (assembly,) = run.inspect_asm().values()
        assert len(re.findall(r"vfmadd\w+ps.*[yz]mm", assembly)) >= 2 * simd.ROWS


def _result_and_gradients(layer: JaggedGRU, x_BPC: Tensor, lengths_B: Tensor) -> tuple[Tensor, ...]:
    """Result, gradients of x where there are particles and of all weights."""
    x_BPC = x_BPC.clone().requires_grad_()
    h_BH = layer(x_BPC, lengths_B)
    weight_BH = torch.linspace(-1, 1, h_BH.numel()).view_as(h_BH)
    dx_BPC, *dw = torch.autograd.grad((h_BH * weight_BH).sum(), [x_BPC, *layer.parameters()])
    inside_BP = torch.arange(x_BPC.shape[1]) < lengths_B[:, None]
    assert not dx_BPC[~inside_BP].any()
    return (h_BH.detach(), dx_BPC[inside_BP], *dw)
