"""GRU forward and backward over one tile of lanes, float32, in numba without the interpreter lock.

A lane runs several sequences one after the other, so that lanes of one tile end almost together and nothing is spent on padding.
The hidden state is kept only every CHUNK steps; backward runs a chunk forward again from there, with all of it in the L2 cache, where
storing and reading the gates of every step would cost as much time and a hundred times the memory.

All arrays are flat float32 with the lanes innermost. In a chunk, step t holds

- ``xh``: the rows ``x (C), 1, h before the step (H)``, so that biases are a column of the weights;
- ``gates``: the rows ``hidden part of n, r, z, input part of n``, each section filled up to whole blocks of ROWS rows.
"""

from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

from hepflow.models.kernels.simd import (
    LANES,
    ROWS,
    copy,
    exp,
    load,
    outer_sum,
    product,
    product_add,
    splat,
    store,
    transpose,
)
from hepflow.system.compiled import cached_njit

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

CHUNK = 8  # steps; on AVX-512 a chunk of 50 hidden units takes 0.4 MB of the L2 cache


class Layout(NamedTuple):
    """Sizes in rows; every function takes them from here."""

    inputs: int
    hidden: int
    xh: int
    """Rows of a step in xh, filled up to whole vectors."""
    r: int
    """First row of r in the gates; z follows it, and the hidden part of n starts at 0."""
    nx: int
    """First row of the input part of n."""
    gates: int
    """Rows of a step in the gates."""

    @classmethod
    def of(cls, n_inputs: int, n_hidden: int) -> "Layout":
        """Layout of a GRU."""
        r = _whole(n_hidden, ROWS)
        nx = r + _whole(2 * n_hidden, ROWS)
        return cls(n_inputs, n_hidden, _whole(n_inputs + 1 + n_hidden, LANES), r, nx, nx + r)


class Weights(NamedTuple):
    """Weights in the order in which the products read them: blocks of ROWS outputs, in a block one column after the other."""

    nh: Floats
    rz: Floats
    nx: Floats
    to_h: Floats
    to_x: Floats


def pack_weights(layout: Layout, w_ih: Floats, w_hh: Floats, b_ih: Floats, b_hh: Floats) -> Weights:
    """Weights of a ``torch.nn.GRU`` layer, as arrays (3H, C), (3H, H), (3H), (3H), for the kernels."""
    h, rz = layout.hidden, slice(0, 2 * layout.hidden)
    n = slice(2 * h, 3 * h)
    to_h, to_x = (
        np.zeros((h, layout.nx), np.float32),
        np.zeros((layout.inputs, layout.gates - layout.r), np.float32),
    )
    to_h[:, :h], to_h[:, layout.r : layout.r + 2 * h] = w_hh[n].T, w_hh[rz].T
    to_x[:, : 2 * h], to_x[:, layout.nx - layout.r : layout.nx - layout.r + h] = (
        w_ih[rz].T,
        w_ih[n].T,
    )
    return Weights(
        nh=_pack(np.column_stack([b_hh[n], w_hh[n]])),
        rz=_pack(np.column_stack([w_ih[rz], b_ih[rz] + b_hh[rz], w_hh[rz]])),
        nx=_pack(np.column_stack([w_ih[n], b_ih[n]])),
        to_h=_pack(to_h),
        to_x=_pack(to_x),
    )


def unpack_gradients(layout: Layout, total: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Gradients of w_ih, w_hh, b_ih, b_hh out of the gates' gradient times xh, as (gates, xh)."""
    c, h = layout.inputs, layout.hidden
    rz, nh, nx = (
        total[start : start + n] for start, n in ((layout.r, 2 * h), (0, h), (layout.nx, h))
    )
    to_input, to_hidden = np.concatenate([rz, nx]), np.concatenate([rz, nh])
    return to_input[:, :c], to_hidden[:, c + 1 : c + 1 + h], to_input[:, c], to_hidden[:, c]


class Workspace(NamedTuple):
    """Arrays that stay in the cache while a tile runs."""

    xh: Floats
    gates: Floats
    columns: Floats
    """xh of a chunk, transposed: a row for each lane and step."""
    dh: Floats
    dx: Floats

    @classmethod
    def of(cls, layout: Layout) -> "Workspace":
        """Arrays for one tile at a time."""
        xh = torch.zeros((CHUNK + 1, layout.xh, LANES))
        xh[:, layout.inputs] = 1
        rows = (CHUNK * layout.gates, CHUNK * layout.xh, layout.r, _whole(layout.inputs, ROWS))
        # torch aligns to 64 bytes, and a vector across two cache lines costs twice
        return cls(
            *(array.view(-1).numpy() for array in (xh, *(torch.zeros(n * LANES) for n in rows)))
        )


@cached_njit(nogil=True)
def forward_tile(
    layout: Layout,
    weights: Weights,
    work: Workspace,
    x: Floats,
    rows: Ints,
    starts: Ints,
    ends: Ints,
    checkpoints: Floats,
    out: Floats,
) -> None:
    """Run a tile; fill ``checkpoints`` unless it is empty, and what of ``out`` ends here.

    Parameters
    ----------
    x : (B * P * C)
    rows : (T, LANES), the row of x that a lane reads at a step, -1 where it is idle
    starts, ends : (n, 3), step, lane and sequence, by step
    checkpoints : (chunks * H * LANES), h before each chunk
    out : (B * H), the last h of each sequence
    """
    xh, step, first, size = (
        work.xh,
        layout.xh * LANES,
        (layout.inputs + 1) * LANES,
        layout.hidden * LANES,
    )
    start, end = 0, 0
    for i in range(size):
        xh[CHUNK * step + first + i] = 0
    for t in range(rows.shape[0]):
        now = (t % CHUNK) * step
        if now == 0:
            copy(size, xh, CHUNK * step + first, 1, xh, first, 1)
            if checkpoints.size:
                copy(size, xh, first, 1, checkpoints, (t // CHUNK) * size, 1)
        while start < len(starts) and starts[start, 0] == t:
            _clear_lane(xh, now + first, layout.hidden, starts[start, 1])
            start += 1
        _step(layout, weights, x, rows[t], xh, now, work.gates, 0)
        while end < len(ends) and ends[end, 0] == t:
            copy(
                layout.hidden,
                xh,
                now + step + first + ends[end, 1],
                LANES,
                out,
                ends[end, 2] * layout.hidden,
                1,
            )
            end += 1


@cached_njit(nogil=True)
def backward_tile(
    layout: Layout,
    weights: Weights,
    work: Workspace,
    x: Floats,
    rows: Ints,
    starts: Ints,
    ends: Ints,
    checkpoints: Floats,
    dout: Floats,
    dw: Floats,
    dx: Floats,
) -> None:
    """Add to ``dw`` (gates * xh) and fill ``dx`` (B * P * C, or empty if not wanted), given the gradient ``dout`` of ``out``."""
    xh, gates, dh = work.xh, work.gates, work.dh
    step, g_step, first, size = (
        layout.xh * LANES,
        layout.gates * LANES,
        (layout.inputs + 1) * LANES,
        layout.hidden * LANES,
    )
    start, end = len(starts), len(ends)
    for i in range(dh.size):
        dh[i] = 0
    for chunk in range((rows.shape[0] - 1) // CHUNK, -1, -1):
        t0 = chunk * CHUNK
        n = min(CHUNK, rows.shape[0] - t0)
        begin = start
        while begin > 0 and starts[begin - 1, 0] >= t0:
            begin -= 1
        copy(size, checkpoints, chunk * size, 1, xh, first, 1)
        _run_chunk(layout, weights, work, x, rows[t0 : t0 + n], starts[begin:start], t0)
        for i in range(n - 1, -1, -1):
            while end > 0 and ends[end - 1, 0] == t0 + i:
                end -= 1
                for j in range(layout.hidden):
                    dh[j * LANES + ends[end, 1]] += dout[ends[end, 2] * layout.hidden + j]
            _step_back(layout, weights, xh, i * step, gates, i * g_step, dh)
            if dx.size:
                _input_gradient(layout, weights, rows[t0 + i], gates, i * g_step, work.dx, dx)
            while start > 0 and starts[start - 1, 0] == t0 + i:
                start -= 1
                _clear_lane(dh, 0, layout.hidden, starts[start, 1])
            for column in range(layout.xh // LANES):
                transpose(
                    xh,
                    i * step + column * LANES * LANES,
                    work.columns,
                    (column * CHUNK + i) * LANES * LANES,
                )
        _weight_gradient(layout, n, gates, work.columns, dw)


@njit
def _run_chunk(
    layout: Layout, weights: Weights, work: Workspace, x: Floats, rows: Ints, starts: Ints, t0: int
) -> None:
    """Run a chunk forward again from the h in its first step, and keep the gates and h of every step."""
    step, first, start = layout.xh * LANES, (layout.inputs + 1) * LANES, 0
    for i in range(len(rows)):
        while start < len(starts) and starts[start, 0] == t0 + i:
            _clear_lane(work.xh, i * step + first, layout.hidden, starts[start, 1])
            start += 1
        _step(layout, weights, x, rows[i], work.xh, i * step, work.gates, i * layout.gates * LANES)


@njit
def _clear_lane(array: Floats, offset: int, n: int, lane: int) -> None:
    for j in range(n):
        array[offset + j * LANES + lane] = 0


@njit
def _step(
    layout: Layout,
    weights: Weights,
    x: Floats,
    rows: Ints,
    xh: Floats,
    now: int,
    gates: Floats,
    g: int,
) -> None:
    """One step of all lanes: leave r, z, n and the hidden part of n in the gates, and h in the next step's xh."""
    for lane in range(LANES):
        if rows[lane] < 0:
            for c in range(layout.inputs):
                xh[now + c * LANES + lane] = 0
        else:
            copy(layout.inputs, x, rows[lane] * layout.inputs, 1, xh, now + lane, LANES)
    bias, h, after = (
        now + layout.inputs * LANES,
        now + (layout.inputs + 1) * LANES,
        layout.xh * LANES,
    )
    _multiply(weights.nh, xh, bias, layout.hidden + 1, gates, g, layout.r)
    _multiply(
        weights.rz,
        xh,
        now,
        layout.inputs + 1 + layout.hidden,
        gates,
        g + layout.r * LANES,
        layout.nx - layout.r,
    )
    _multiply(weights.nx, xh, now, layout.inputs + 1, gates, g + layout.nx * LANES, layout.r)
    zero, one, two = splat(np.float32(0)), splat(np.float32(1)), splat(np.float32(2))
    at_nh, at_r, at_z, at_nx = (
        g,
        g + layout.r * LANES,
        g + (layout.r + layout.hidden) * LANES,
        g + layout.nx * LANES,
    )
    for j in range(0, layout.hidden * LANES, LANES):
        r = one / (one + exp(zero - load(gates, at_r + j)))
        z = one / (one + exp(zero - load(gates, at_z + j)))
        a = load(gates, at_nx + j) + r * load(gates, at_nh + j)
        n = one - two / (one + exp(a + a))
        store(gates, at_r + j, r)
        store(gates, at_z + j, z)
        store(gates, at_nx + j, n)
        store(xh, h + after + j, n + z * (load(xh, h + j) - n))


@njit
def _step_back(
    layout: Layout, weights: Weights, xh: Floats, now: int, gates: Floats, g: int, dh: Floats
) -> None:
    """Gradients of a step: the gates' in their place, and dh from after the step to before it."""
    one, h = splat(np.float32(1)), now + (layout.inputs + 1) * LANES
    at_nh, at_r, at_z, at_nx = (
        g,
        g + layout.r * LANES,
        g + (layout.r + layout.hidden) * LANES,
        g + layout.nx * LANES,
    )
    for j in range(0, layout.hidden * LANES, LANES):
        r, z, n, d = (
            load(gates, at_r + j),
            load(gates, at_z + j),
            load(gates, at_nx + j),
            load(dh, j),
        )
        d_n = d * (one - z) * (one - n * n)
        store(gates, at_z + j, d * (load(xh, h + j) - n) * z * (one - z))
        store(gates, at_r + j, d_n * load(gates, at_nh + j) * r * (one - r))
        store(gates, at_nh + j, d_n * r)
        store(gates, at_nx + j, d_n)
        store(dh, j, d * z)
    for block in range(layout.r // ROWS):
        product_add(
            weights.to_h, block * layout.nx * ROWS, gates, g, layout.nx, dh, block * ROWS * LANES
        )


@njit
def _input_gradient(
    layout: Layout, weights: Weights, rows: Ints, gates: Floats, g: int, step: Floats, dx: Floats
) -> None:
    _multiply(
        weights.to_x, gates, g + layout.r * LANES, layout.gates - layout.r, step, 0, layout.inputs
    )
    for lane in range(LANES):
        if rows[lane] >= 0:
            copy(layout.inputs, step, lane, LANES, dx, rows[lane] * layout.inputs, 1)


@njit
def _weight_gradient(layout: Layout, n: int, gates: Floats, columns: Floats, dw: Floats) -> None:
    """Add the product of gates and xh over the n steps of a chunk, but for x with the hidden and h with the input part of n."""
    split, size = layout.inputs // LANES, CHUNK * LANES * LANES
    for row in range(0, layout.gates, ROWS):
        begin = split if row < layout.r else 0
        end = split + 1 if row >= layout.nx else layout.xh // LANES
        for column in range(begin, end):
            to = row * layout.xh + column * LANES
            outer_sum(
                gates,
                row * LANES,
                layout.gates * LANES,
                columns,
                column * size,
                n,
                dw,
                to,
                layout.xh,
            )


@njit
def _multiply(
    w: Floats, b: Floats, b_offset: int, n: int, c: Floats, c_offset: int, n_rows: int
) -> None:
    """``c = w b`` for packed w, as many whole blocks as hold n_rows."""
    for block in range((n_rows + ROWS - 1) // ROWS):
        product(w, block * n * ROWS, b, b_offset, n, c, c_offset + block * ROWS * LANES)


def _pack(matrix: Floats) -> Floats:
    n_rows, n_columns = matrix.shape
    padded = np.zeros((_whole(n_rows, ROWS), n_columns), np.float32)
    padded[:n_rows] = matrix
    return np.ascontiguousarray(padded.reshape(-1, ROWS, n_columns).transpose(0, 2, 1)).ravel()


def _whole(n: int, block: int) -> int:
    return -(-n // block) * block
