"""Padded particle sequences and their lengths -> the hidden state after the last particle of each.

On the CPU in float32 the GRU runs through the kernels of ``gru_kernels``: sequences are laid end to end in tiles of lanes, so padding is
never touched, and gradients come from hand-written kernels. Elsewhere (CUDA, other dtypes, no numba, tracing and export, gradients of
gradients) it is ``torch.nn.GRU``, whose parameters it has by name, with the same results.
"""

import heapq
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

try:
    from hepflow.models.kernels import gru as gru_kernels
    from hepflow.models.kernels import simd
except ImportError:  # numba is optional: the stock GRU gives the same numbers, more slowly
    gru_kernels = None  # type: ignore[assignment]

# B events, P particles, C channels, H hidden

_T = TypeVar("_T")

SEQUENCES_A_LANE = 2  # a long one with a short one: level lanes, and yet tiles for every thread


class JaggedGRU(nn.GRU):
    """A GRU layer over sequences of different lengths; its state dict is that of ``torch.nn.GRU``."""

    def __init__(self, n_inputs: int, n_hidden: int) -> None:
        super().__init__(n_inputs, n_hidden, batch_first=True)

    def forward(self, x_BPC: Tensor, lengths_B: Tensor) -> Tensor:  # type: ignore[override]
        """Hidden state (B, H) after the last particle of each sequence, zero where there is none.

        Parameters
        ----------
        x_BPC : any content beyond a sequence's length is ignored
        lengths_B : integers from 0 to P
        """
        if _is_exporting():
            return _last(super().forward(x_BPC)[0], lengths_B)
        if x_BPC.is_cuda:
            return _zero_if_empty(super().forward(_pack(x_BPC, lengths_B))[1][0], lengths_B)
        weights = (self.weight_ih_l0, self.weight_hh_l0, self.bias_ih_l0, self.bias_hh_l0)
        if gru_kernels is not None and all(
            w.device.type == "cpu" and w.dtype == torch.float32 for w in weights
        ):
            return _tiled_gru(x_BPC.float(), lengths_B, weights)
        return _last(super().forward(_trim(x_BPC, lengths_B))[0], lengths_B)


class JaggedLSTM(nn.LSTM):
    """An LSTM layer with the interface of :class:`JaggedGRU`, always through stock torch."""

    def __init__(self, n_inputs: int, n_hidden: int) -> None:
        super().__init__(n_inputs, n_hidden, batch_first=True)

    def forward(self, x_BPC: Tensor, lengths_B: Tensor) -> Tensor:  # type: ignore[override]
        """Hidden state (B, H) after the last particle of each sequence, zero where there is none."""
        if _is_exporting():
            return _last(super().forward(x_BPC)[0], lengths_B)
        if x_BPC.is_cuda:
            return _zero_if_empty(super().forward(_pack(x_BPC, lengths_B))[1][0][0], lengths_B)
        return _last(super().forward(_trim(x_BPC, lengths_B))[0], lengths_B)


def _is_exporting() -> bool:
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return tracing or torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()


def _last(h_BPH: Tensor, lengths_B: Tensor) -> Tensor:
    """The state at the last step of each sequence, out of all: an exported graph knows no packed sequences."""
    last_B11 = (lengths_B.to(h_BPH.device) - 1).clamp(min=0)[:, None, None]
    return _zero_if_empty(
        h_BPH.gather(1, last_B11.expand(-1, 1, h_BPH.shape[2])).squeeze(1), lengths_B
    )


def _trim(x_BPC: Tensor, lengths_B: Tensor) -> Tensor:
    """The particles alone, zero beyond them; on the CPU stock torch trains many times slower on packed sequences."""
    x_BPC = x_BPC[:, : max(1, int(lengths_B.max()))]
    inside_BP = (
        torch.arange(x_BPC.shape[1], device=x_BPC.device) < lengths_B.to(x_BPC.device)[:, None]
    )
    return torch.where(inside_BP[..., None], x_BPC, 0)  # NaN times a gradient of zero would be NaN


def _zero_if_empty(h_BH: Tensor, lengths_B: Tensor) -> Tensor:
    return torch.where(lengths_B.to(h_BH.device)[:, None] > 0, h_BH, 0)


def _pack(x_BPC: Tensor, lengths_B: Tensor) -> PackedSequence:
    return pack_padded_sequence(
        x_BPC, lengths_B.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False
    )


@torch.compiler.disable  # numba cannot be traced: the graph is split around it
def _tiled_gru(x_BPC: Tensor, lengths_B: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x_BPC, *weights)):
        return _TiledGRU.apply(x_BPC, lengths_B, *weights)  # type: ignore[no-untyped-call]
    return _forward(x_BPC, _Schedule.of(lengths_B, x_BPC), weights, keep=False)[0]


@dataclass(frozen=True)
class _Tile:
    """What the lanes of a tile do; the arrays are those of ``gru_kernels.forward_tile``."""

    rows: NDArray[np.int64]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]


@dataclass(frozen=True)
class _Schedule:
    """Which sequence runs in which lane when: a function of the lengths alone, so that results do not depend on the threads."""

    tiles: list[_Tile]

    @classmethod
    def of(cls, lengths_B: Tensor, x_BPC: Tensor) -> "_Schedule":
        """Deal the sequences, the longest first, each to the lane that ends first."""
        n_particles = x_BPC.shape[1]
        lengths = lengths_B.detach().cpu().numpy().astype(np.int64)
        if lengths.shape != x_BPC.shape[:1] or (
            lengths.size and not 0 <= lengths.min() <= lengths.max() <= n_particles
        ):
            raise ValueError(
                f"lengths must be {x_BPC.shape[0]} integers from 0 to {n_particles}, got {lengths_B}"
            )
        order = np.argsort(-lengths, kind="stable")[: np.count_nonzero(lengths)]
        n_tiles = -(-len(order) // (SEQUENCES_A_LANE * simd.LANES))
        lanes = [(0, lane) for lane in range(n_tiles * simd.LANES)]
        jobs = np.empty((len(order), 4), np.int64)  # lane, start, end, sequence
        for i, (sequence, length) in enumerate(
            zip(order.tolist(), lengths[order].tolist(), strict=True)
        ):
            start, lane = heapq.heappop(lanes)
            heapq.heappush(lanes, (start + length, lane))
            jobs[i] = lane, start, start + length, sequence
        return cls(
            [
                _tile(jobs[jobs[:, 0] % n_tiles == i] // (n_tiles, 1, 1, 1), n_particles)
                for i in range(n_tiles)
            ]
        )


def _tile(jobs: NDArray[np.int64], n_particles: int) -> _Tile:
    rows = np.full((jobs[:, 2].max(), simd.LANES), -1, np.int64)
    for lane, start, end, sequence in jobs.tolist():
        rows[start:end, lane] = np.arange(
            sequence * n_particles, sequence * n_particles + end - start
        )
    starts = jobs[np.argsort(jobs[:, 1], kind="stable")][:, [1, 0, 3]]
    ends = jobs[np.argsort(jobs[:, 2], kind="stable")][:, [2, 0, 3]] - (1, 0, 0)
    return _Tile(rows, np.ascontiguousarray(starts), np.ascontiguousarray(ends))


class _TiledGRU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BPC: Tensor, lengths_B: Tensor, *weights: Tensor) -> Tensor:
        ctx.schedule = _Schedule.of(lengths_B, x_BPC)
        h_BH, checkpoints = _forward(x_BPC, ctx.schedule, weights, keep=True)
        ctx.save_for_backward(x_BPC, lengths_B, *weights, *checkpoints)
        return h_BH

    @staticmethod
    def backward(ctx: Any, dh_BH: Tensor) -> tuple[Tensor | None, ...]:
        x_BPC, lengths_B, w_ih, w_hh, b_ih, b_hh, *checkpoints = ctx.saved_tensors
        weights = (w_ih, w_hh, b_ih, b_hh)
        needs = (ctx.needs_input_grad[0], *ctx.needs_input_grad[2:])
        if torch.is_grad_enabled():  # create_graph=True: these gradients are to be differentiated
            return _stock_backward(x_BPC, lengths_B, weights, dh_BH, needs)
        dx, *dw = _backward(x_BPC, ctx.schedule, weights, checkpoints, dh_BH, needs_dx=needs[0])
        return (dx, None, *(d if need else None for d, need in zip(dw, needs[1:], strict=True)))


def _forward(
    x_BPC: Tensor, schedule: _Schedule, weights: tuple[Tensor, ...], *, keep: bool
) -> tuple[Tensor, list[Tensor]]:
    """Hidden states (B, H) and, to go back from, those of every lane before each chunk of a tile."""
    layout, packed = _prepare(x_BPC, weights)
    h_BH, x = torch.zeros((x_BPC.shape[0], layout.hidden)), _flat(x_BPC)
    chunks = [-(-len(tile.rows) // gru_kernels.CHUNK) if keep else 0 for tile in schedule.tiles]
    checkpoints = [torch.empty(n * layout.hidden * simd.LANES) for n in chunks]

    def run(tile: _Tile, kept: Tensor) -> None:
        work = gru_kernels.Workspace.of(layout)
        gru_kernels.forward_tile(
            layout, packed, work, x, tile.rows, tile.starts, tile.ends, kept.numpy(), _flat(h_BH)
        )

    _in_threads(gru_kernels.forward_tile, run, schedule.tiles, checkpoints)
    return h_BH, checkpoints


def _backward(
    x_BPC: Tensor,
    schedule: _Schedule,
    weights: tuple[Tensor, ...],
    checkpoints: list[Tensor],
    dh_BH: Tensor,
    *,
    needs_dx: bool,
) -> tuple[Tensor | None, ...]:
    """Gradients of x, if needed, and of the weights."""
    layout, packed = _prepare(x_BPC, weights)
    dx_BPC = torch.zeros(x_BPC.shape if needs_dx else 0)
    x, dh, dx = _flat(x_BPC), _flat(dh_BH), _flat(dx_BPC)

    def run(tile: _Tile, kept: Tensor) -> NDArray[np.float32]:
        work = gru_kernels.Workspace.of(layout)
        dw = np.zeros(layout.gates * layout.xh, np.float32)
        gru_kernels.backward_tile(
            layout, packed, work, x, tile.rows, tile.starts, tile.ends, kept.numpy(), dh, dw, dx
        )
        return dw

    total = np.zeros(layout.gates * layout.xh)
    for dw in _in_threads(
        gru_kernels.backward_tile, run, schedule.tiles, checkpoints
    ):  # always in this order
        total += dw
    gradients = gru_kernels.unpack_gradients(layout, total.reshape(layout.gates, layout.xh))
    return (
        dx_BPC if needs_dx else None,
        *(torch.from_numpy(g.astype(np.float32)) for g in gradients),
    )


def _stock_backward(
    x_BPC: Tensor,
    lengths_B: Tensor,
    weights: tuple[Tensor, ...],
    dh_BH: Tensor,
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    h0_1BH = x_BPC.new_zeros(1, x_BPC.shape[0], weights[1].shape[1])
    h_BPH, _ = torch.gru(
        _trim(x_BPC, lengths_B), h0_1BH, list(weights), True, 1, 0.0, False, False, True
    )
    h_BH = _last(h_BPH, lengths_B)
    wanted = [tensor for tensor, need in zip((x_BPC, *weights), needs, strict=True) if need]
    found = iter(torch.autograd.grad(h_BH, wanted, dh_BH, create_graph=True))
    dx, *dw = (next(found) if need else None for need in needs)
    return (dx, None, *dw)


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
    kernel: Any, run: Callable[[_Tile, Tensor], _T], tiles: list[_Tile], checkpoints: list[Tensor]
) -> list[_T]:
    """Run every tile on as many threads as torch has; more than this one live for this call only, so that forking is always safe."""
    if tiles and not kernel.signatures:
        run(
            _Tile(tiles[0].rows[:0], tiles[0].starts[:0], tiles[0].ends[:0]), torch.empty(0)
        )  # compile where denormals are as numba expects
    # Gradients fade over hundreds of steps into denormal numbers, on which the CPU is a hundred times slower.
    if (
        torch.get_num_threads() == 1
    ):  # a thread for each call would often begin on a core that has none of this in its cache
        before = _flushes_denormals()
        torch.set_flush_denormal(True)
        try:
            return list(map(run, tiles, checkpoints))
        finally:
            torch.set_flush_denormal(before)
    with ThreadPoolExecutor(
        torch.get_num_threads(), initializer=torch.set_flush_denormal, initargs=(True,)
    ) as pool:
        return list(pool.map(run, tiles, checkpoints))


def _flushes_denormals() -> bool:
    """Whether this thread does, which torch can be told but not asked."""
    return bool(np.float32(1e-38) * np.float32(0.1) == 0)
