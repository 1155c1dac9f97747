"""Padded particle sequences and their lengths -> the hidden state after the last particle.

On the CPU in float32 the GRU runs through `hepflow.models.kernels.gru`: sequences are laid end to
end in tiles of lanes, so padding is never touched, and gradients come from hand-written kernels.
Elsewhere (CUDA, other dtypes, no numba, tracing and export, gradients of gradients) it is
``torch.nn.GRU``, whose parameters it has by name, with the same results
(``tests/models/test_gru.py``).

Why: torch pads to the longest sequence, and its CPU kernels do each step as separate small
products. Measured by `benchmarks/gru.py`, forward and backward on one thread, 128 events of about
400 particles padded to 801: 8 times (AVX2, a busy machine) to 15.6 times the speed of
``torch.nn.GRU``, and 0.4 to 0.5 of the speed of a large sgemm in the same minutes.

The path of a batch::

    lengths -> _Schedule: the sequences of each lane, a function of the lengths alone
    tiles -> threads, one tile each -> kernels -> out (B, H); gradients are added in tile order

so results depend neither on the number of threads nor on the order of events.
"""

import heapq
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

try:
    from hepflow.models.kernels import gru as gru_kernels
    from hepflow.models.kernels import simd
except (ImportError, AttributeError):  # no numba, or one without an interface that simd needs
    gru_kernels = None  # type: ignore[assignment]

# B events, P particles, C channels, H hidden

_T = TypeVar("_T")
_Run = Callable[["gru_kernels.Tile", Tensor], _T]
_Weights = tuple[Tensor, Tensor, Tensor, Tensor]

SEQUENCES_PER_LANE = 2  # a long one and a short one: level lanes, and tiles for every thread


class JaggedGRU(nn.GRU):
    """GRU over sequences of different lengths; its state dict is that of ``torch.nn.GRU``."""

    def __init__(self, n_inputs: int, n_hidden: int) -> None:
        super().__init__(n_inputs, n_hidden, batch_first=True)

    def forward(self, x_BPC: Tensor, lengths_B: Tensor) -> Tensor:  # type: ignore[override]
        """Return the hidden state (B, H) after the last particle, zero where there is none."""
        weights = (self.weight_ih_l0, self.weight_hh_l0, self.bias_ih_l0, self.bias_hh_l0)
        tiled = gru_kernels is not None and not (x_BPC.is_cuda or _is_exporting())
        if tiled and all(w.device.type == "cpu" and w.dtype == torch.float32 for w in weights):
            return _tiled_gru(x_BPC.float(), lengths_B, weights)
        return _stock(super().forward, x_BPC, lengths_B)


class JaggedLSTM(nn.LSTM):
    """LSTM with the interface of :class:`JaggedGRU`, always through stock torch."""

    def __init__(self, n_inputs: int, n_hidden: int) -> None:
        super().__init__(n_inputs, n_hidden, batch_first=True)

    def forward(self, x_BPC: Tensor, lengths_B: Tensor) -> Tensor:  # type: ignore[override]
        """Return the hidden state (B, H) after the last particle, zero where there is none."""
        return _stock(super().forward, x_BPC, lengths_B)


def _is_exporting() -> bool:
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return tracing or torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()


def _stock(layer: Callable[..., Any], x_BPC: Tensor, lengths_B: Tensor) -> Tensor:
    """Return the last states of torch's own GRU or LSTM, in the fastest way for the device."""
    if _is_exporting():  # an exported graph has no packed sequences
        return _last(layer(x_BPC)[0], lengths_B)
    if x_BPC.is_cuda:
        lengths = lengths_B.clamp(min=1).cpu()
        packed = pack_padded_sequence(x_BPC, lengths, batch_first=True, enforce_sorted=False)
        state = layer(packed)[1]  # h of a GRU, (h, c) of an LSTM
        h_1BH = state[0] if isinstance(state, tuple) else state
        return _zero_if_empty(h_1BH[0], lengths_B)
    # on the CPU stock torch trains many times slower on packed sequences
    return _last(layer(_trim(x_BPC, lengths_B))[0], lengths_B)


def _last(h_BPH: Tensor, lengths_B: Tensor) -> Tensor:
    """Return the state at the last step of each sequence, out of all."""
    last_B11 = (lengths_B.to(h_BPH.device) - 1).clamp(min=0)[:, None, None]
    h_BH = h_BPH.gather(1, last_B11.expand(-1, 1, h_BPH.shape[2])).squeeze(1)
    return _zero_if_empty(h_BH, lengths_B)


def _trim(x_BPC: Tensor, lengths_B: Tensor) -> Tensor:
    """Cut to the longest sequence, and set padding to zero: NaN times a zero gradient is NaN."""
    x_BPC = x_BPC[:, : max(1, int(lengths_B.max()))]
    step_P = torch.arange(x_BPC.shape[1], device=x_BPC.device)
    inside_BP = step_P < lengths_B.to(x_BPC.device)[:, None]
    return torch.where(inside_BP[..., None], x_BPC, 0)


def _zero_if_empty(h_BH: Tensor, lengths_B: Tensor) -> Tensor:
    return torch.where(lengths_B.to(h_BH.device)[:, None] > 0, h_BH, 0)


@torch.compiler.disable  # numba cannot be traced: the graph is divided around it
def _tiled_gru(x_BPC: Tensor, lengths_B: Tensor, weights: _Weights) -> Tensor:
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x_BPC, *weights)):
        return _TiledGRU.apply(x_BPC, lengths_B, *weights)  # type: ignore[no-untyped-call]
    return _forward(x_BPC, _schedule(lengths_B, x_BPC), weights, keep=False)[0]


def _schedule(lengths_B: Tensor, x_BPC: Tensor) -> list["gru_kernels.Tile"]:
    """Deal the sequences, longest first, each to the lane that ends first."""
    n_particles = x_BPC.shape[1]
    lengths = lengths_B.detach().cpu().numpy().astype(np.int64)
    in_range = not lengths.size or 0 <= lengths.min() <= lengths.max() <= n_particles
    if lengths.shape != x_BPC.shape[:1] or not in_range:
        rule = f"{x_BPC.shape[0]} integers from 0 to {n_particles}"
        raise ValueError(f"lengths must be {rule}, got {lengths_B}")
    order = np.argsort(-lengths, kind="stable")[: np.count_nonzero(lengths)]
    n_tiles = -(-len(order) // (SEQUENCES_PER_LANE * simd.LANES))
    lanes = [(0, lane) for lane in range(n_tiles * simd.LANES)]  # a heap of (end, lane)
    jobs = np.empty((len(order), 4), np.int64)  # lane, start, end, sequence
    for job, sequence in zip(jobs, order.tolist(), strict=True):
        start, lane = heapq.heappop(lanes)
        end = start + int(lengths[sequence])
        heapq.heappush(lanes, (end, lane))
        job[:] = lane, start, end, sequence
    tiles = []
    for i in range(n_tiles):  # neighbouring lanes, of similar ends, go to different tiles
        own = jobs[jobs[:, 0] % n_tiles == i] // (n_tiles, 1, 1, 1)
        rows = np.full((own[:, 2].max(), simd.LANES), -1, np.int64)
        for lane, start, end, sequence in own.tolist():
            first = sequence * n_particles
            rows[start:end, lane] = np.arange(first, first + end - start)
        starts, ends = (own[np.argsort(own[:, i], kind="stable")][:, [i, 0, 3]] for i in (1, 2))
        ends[:, 0] -= 1
        tiles.append(gru_kernels.Tile(rows, starts.copy(), ends.copy()))
    return tiles


class _TiledGRU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BPC: Tensor, lengths_B: Tensor, *weights: Tensor) -> Tensor:
        ctx.tiles = _schedule(lengths_B, x_BPC)
        h_BH, checkpoints = _forward(x_BPC, ctx.tiles, weights, keep=True)
        ctx.save_for_backward(x_BPC, lengths_B, *weights, *checkpoints)
        return h_BH

    @staticmethod
    def backward(ctx: Any, dh_BH: Tensor) -> tuple[Tensor | None, ...]:
        x_BPC, lengths_B, w_ih, w_hh, b_ih, b_hh, *checkpoints = ctx.saved_tensors
        weights = (w_ih, w_hh, b_ih, b_hh)
        needs = (ctx.needs_input_grad[0], *ctx.needs_input_grad[2:])
        if torch.is_grad_enabled():  # create_graph=True: these gradients are to be differentiated
            first, *rest = _stock_backward(x_BPC, lengths_B, weights, dh_BH, needs)
            return (first, None, *rest)
        layout, packed = _prepare(x_BPC, weights)
        dx_BPC = torch.zeros(x_BPC.shape if needs[0] else 0)
        x, dh, dx = _flat(x_BPC), _flat(dh_BH), _flat(dx_BPC)

        def run(tile: "gru_kernels.Tile", kept: Tensor) -> NDArray[np.float32]:
            work = gru_kernels.Work.of(layout)
            dw = np.zeros(layout.gates * layout.xh, np.float32)
            gru_kernels.backward_tile(layout, packed, work, tile, x, kept.numpy(), dh, dw, dx)
            return dw

        total = np.zeros(layout.gates * layout.xh)
        for dw in _in_threads(gru_kernels.backward_tile, run, ctx.tiles, checkpoints):
            total += dw  # in the order of the tiles, so the sum has the same bits on any threads
        packed_dw = total.reshape(layout.gates, layout.xh).astype(np.float32)
        gradients = zip(gru_kernels.unpack_gradients(layout, packed_dw), needs[1:], strict=True)
        dws = (torch.from_numpy(np.ascontiguousarray(g)) if need else None for g, need in gradients)
        return (dx_BPC if needs[0] else None, None, *dws)


def _forward(
    x_BPC: Tensor, tiles: list["gru_kernels.Tile"], weights: tuple[Tensor, ...], *, keep: bool
) -> tuple[Tensor, list[Tensor]]:
    """Return hidden states (B, H) and, if kept, those of all lanes before each chunk of a tile."""
    layout, packed = _prepare(x_BPC, weights)
    h_BH, x = torch.zeros((x_BPC.shape[0], layout.hidden)), _flat(x_BPC)
    chunks = [-(-len(tile.rows) // gru_kernels.CHUNK) if keep else 0 for tile in tiles]
    checkpoints = [torch.empty(n * layout.hidden * simd.LANES) for n in chunks]

    def run(tile: "gru_kernels.Tile", kept: Tensor) -> None:
        work = gru_kernels.Work.of(layout)
        gru_kernels.forward_tile(layout, packed, work, tile, x, kept.numpy(), _flat(h_BH))

    _in_threads(gru_kernels.forward_tile, run, tiles, checkpoints)
    return h_BH, checkpoints


def _stock_backward(
    x_BPC: Tensor, lengths_B: Tensor, weights: _Weights, dh_BH: Tensor, needs: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """Return gradients of x and the weights that torch can differentiate again."""
    h0_1BH = x_BPC.new_zeros(1, x_BPC.shape[0], weights[1].shape[1])
    options = (True, 1, 0.0, False, False, True)  # biases, layers, ..., batch_first
    h_BPH, _ = torch.gru(_trim(x_BPC, lengths_B), h0_1BH, list(weights), *options)
    wanted = [tensor for tensor, need in zip((x_BPC, *weights), needs, strict=True) if need]
    h_BH = _last(h_BPH, lengths_B)
    found = iter(torch.autograd.grad(h_BH, wanted, dh_BH, create_graph=True))
    return tuple(next(found) if need else None for need in needs)


def _prepare(
    x_BPC: Tensor, weights: tuple[Tensor, ...]
) -> tuple["gru_kernels.Layout", "gru_kernels.Weights"]:
    n_inputs, n_hidden = weights[0].shape[1], weights[1].shape[1]
    if x_BPC.dim() != 3 or x_BPC.shape[2] != n_inputs:
        raise ValueError(f"x must be (events, particles, {n_inputs}), got {tuple(x_BPC.shape)}")
    layout = gru_kernels.Layout.of(n_inputs, n_hidden)
    return layout, gru_kernels.pack_weights(layout, *(w.detach().numpy() for w in weights))


def _flat(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.detach().contiguous().view(-1).numpy()


def _in_threads(
    kernel: Any, run: _Run[_T], tiles: list["gru_kernels.Tile"], checkpoints: list[Tensor]
) -> list[_T]:
    """Run every tile, on as many threads as torch has.

    The threads live for this call only, so forking is always safe. They flush denormal numbers
    to zero: gradients fade over hundreds of steps, and the CPU is a hundred times slower on them.
    """
    if tiles and not kernel.signatures:  # compile before: numba expects that nothing is flushed
        run(gru_kernels.Tile(*(array[:0] for array in tiles[0])), torch.empty(0))
    if torch.get_num_threads() > 1:
        n, flush = torch.get_num_threads(), torch.set_flush_denormal
        with ThreadPoolExecutor(n, initializer=flush, initargs=(True,)) as pool:
            return list(pool.map(run, tiles, checkpoints))
    # One thread is this one: a new one would often begin on a core with a cold cache.
    before = bool(np.float32(1e-38) * np.float32(0.1) == 0)  # torch can set but not report it
    torch.set_flush_denormal(True)
    try:
        return list(map(run, tiles, checkpoints))
    finally:
        torch.set_flush_denormal(before)
