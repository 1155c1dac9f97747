"""GRU forward and backward over one tile of lanes, float32, in numba without the interpreter lock.

A lane runs several sequences one after the other, so that all lanes of a tile end at about the same
step and little is spent on padding::

    step    0 1 2 3 4 5 6 7 8 9 ...
    lane 0  A A A A A A A A B B        starts: (0, lane 0, A), (0, lane 1, C), (5, lane 1, D), ...
    lane 1  C C C C C D D D D D        ends:   (4, lane 1, C), (7, lane 0, A), ...
    lane 2  E E E E E E E E E .        rows[9, 2] = -1: idle

One step is three products of packed weights with the states of all lanes
(`hepflow.models.kernels.simd.product`) and the gates of ``torch.nn.GRU``, with the hidden part of
n apart because r scales it::

    r = sigmoid(W_r [x 1 h])    n = tanh(W_nx [x 1] + r * W_nh [1 h])
    z = sigmoid(W_z [x 1 h])    h' = n + z * (h - n)

The hidden state is kept only every CHUNK steps. Backward runs a chunk forward again from there,
with all of it in the L2 cache: storing and reading the gates of every step would cost as much time
and a hundred times the memory.

All arrays are flat float32 with the lanes innermost. In a chunk, step t holds

- ``xh``: the rows ``x (C), 1, h before the step (H)``, so that biases are a column of the weights;
- ``gates``: the rows ``hidden part of n, r, z, input part of n``, each section padded to whole
  blocks of ROWS rows.

Why not a library: see `hepflow.models.kernels.simd`. The measured gain is in `hepflow.models.gru`.
"""

from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

from hepflow.models.kernels import simd
from hepflow.system.compiled import cached_njit

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
LANES, ROWS = simd.LANES, simd.ROWS
CHUNK = 8  # steps; on AVX-512 a chunk of 50 hidden units takes 0.4 MB of the L2 cache
BLOCK = LANES * LANES


class Layout(NamedTuple):
    """Sizes in rows; every function takes them from here."""

    inputs: int
    hidden: int
    xh: int  # rows per step in xh, padded to whole vectors
    r: int  # first row of r in the gates; z follows it, and the hidden part of n starts at 0
    nx: int  # first row of the input part of n
    gates: int  # rows per step in the gates

    @classmethod
    def of(cls, n_inputs: int, n_hidden: int) -> "Layout":
        """Return the layout of a GRU."""
        r = _whole(n_hidden, ROWS)
        nx = r + _whole(2 * n_hidden, ROWS)
        return cls(n_inputs, n_hidden, _whole(n_inputs + 1 + n_hidden, LANES), r, nx, nx + r)


class Weights(NamedTuple):
    """Weights as the products read them: blocks of ROWS outputs, column after column."""

    nh: Floats
    rz: Floats
    nx: Floats
    to_h: Floats
    to_x: Floats


def pack_weights(layout: Layout, w_ih: Floats, w_hh: Floats, b_ih: Floats, b_hh: Floats) -> Weights:
    """Pack the weights (3H, C), (3H, H), (3H), (3H) of a ``torch.nn.GRU`` layer for the kernels."""
    h, r = layout.hidden, layout.r
    rz, n = slice(0, 2 * h), slice(2 * h, 3 * h)
    to_h = np.zeros((h, layout.nx), np.float32)  # transposed, for the gradients of h and x
    to_h[:, :h], to_h[:, r : r + 2 * h] = w_hh[n].T, w_hh[rz].T
    to_x = np.zeros((layout.inputs, layout.gates - r), np.float32)
    to_x[:, : 2 * h], to_x[:, layout.nx - r : layout.nx - r + h] = w_ih[rz].T, w_ih[n].T
    return Weights(
        nh=_pack(np.column_stack([b_hh[n], w_hh[n]])),
        rz=_pack(np.column_stack([w_ih[rz], b_ih[rz] + b_hh[rz], w_hh[rz]])),
        nx=_pack(np.column_stack([w_ih[n], b_ih[n]])),
        to_h=_pack(to_h),
        to_x=_pack(to_x),
    )


def unpack_gradients(layout: Layout, total: Floats) -> tuple[Floats, ...]:
    """Return the gradients of w_ih, w_hh, b_ih, b_hh from those of the packed (gates, xh)."""
    c, h = layout.inputs, layout.hidden
    nh, nx = total[:h], total[layout.nx : layout.nx + h]
    rz = total[layout.r : layout.r + 2 * h]
    to_input, to_hidden = np.concatenate([rz, nx]), np.concatenate([rz, nh])
    return to_input[:, :c], to_hidden[:, c + 1 : c + 1 + h], to_input[:, c], to_hidden[:, c]


class Tile(NamedTuple):
    """Work of the lanes, by step."""

    rows: Ints  # (T, LANES), the row of x that a lane reads at a step, -1 if it is idle
    starts: Ints  # (n, 3): step, lane and sequence
    ends: Ints  # (n, 3): step, lane and sequence


class Work(NamedTuple):
    """Arrays that stay in the cache while a tile runs."""

    xh: Floats
    gates: Floats
    columns: Floats  # xh of a chunk, transposed: one row per lane and step
    dh: Floats
    dx: Floats

    @classmethod
    def of(cls, layout: Layout) -> "Work":
        """Return arrays for one tile at a time."""
        xh = torch.zeros((CHUNK + 1, layout.xh, LANES))
        xh[:, layout.inputs] = 1
        rows = (CHUNK * layout.gates, CHUNK * layout.xh, layout.r, _whole(layout.inputs, ROWS))
        # torch aligns to 64 bytes, and a vector across two cache lines costs twice
        arrays = (xh, *(torch.zeros(n * LANES) for n in rows))
        return cls(*(array.view(-1).numpy() for array in arrays))


@cached_njit(nogil=True)
def forward_tile(
    layout: Layout, weights: Weights, work: Work, tile: Tile, x: Floats, kept: Floats, out: Floats
) -> None:
    """Run a tile of x (B * P * C); fill ``out`` (B * H) with the last h of its sequences.

    ``kept`` (chunks * H * LANES, or empty) is filled with h before each chunk.
    """
    rows, starts, ends = tile
    xh, step, size = work.xh, layout.xh * LANES, layout.hidden * LANES
    first = (layout.inputs + 1) * LANES  # of h in a step
    start, end = 0, 0
    for i in range(size):
        xh[CHUNK * step + first + i] = 0
    for t in range(rows.shape[0]):
        now = (t % CHUNK) * step
        if now == 0:  # a new chunk begins with the h that the one before left in its last place
            simd.copy(size, xh, CHUNK * step + first, 1, xh, first, 1)
            if kept.size:
                simd.copy(size, xh, first, 1, kept, (t // CHUNK) * size, 1)
        while start < len(starts) and starts[start, 0] == t:
            _clear_lane(xh, now + first, layout.hidden, starts[start, 1])
            start += 1
        _step(layout, weights, work, x, rows[t], now, 0)
        while end < len(ends) and ends[end, 0] == t:
            h, to = now + step + first + ends[end, 1], ends[end, 2] * layout.hidden
            simd.copy(layout.hidden, xh, h, LANES, out, to, 1)
            end += 1


@cached_njit(nogil=True)
def backward_tile(
    layout: Layout,
    weights: Weights,
    work: Work,
    tile: Tile,
    x: Floats,
    kept: Floats,
    dout: Floats,
    dw: Floats,
    dx: Floats,
) -> None:
    """Add to ``dw`` (gates * xh) and fill ``dx`` (B * P * C, or empty), given d(out) = ``dout``."""
    rows, starts, ends = tile
    xh, gates, dh = work.xh, work.gates, work.dh
    step, g_step, size = layout.xh * LANES, layout.gates * LANES, layout.hidden * LANES
    start, end = len(starts), len(ends)
    for i in range(dh.size):
        dh[i] = 0
    for chunk in range((rows.shape[0] - 1) // CHUNK, -1, -1):
        t0 = chunk * CHUNK
        n = min(CHUNK, rows.shape[0] - t0)
        begin = start
        while begin > 0 and starts[begin - 1, 0] >= t0:
            begin -= 1
        simd.copy(size, kept, chunk * size, 1, xh, (layout.inputs + 1) * LANES, 1)
        _run_chunk(layout, weights, work, x, rows[t0 : t0 + n], starts[begin:start], t0)
        for i in range(n - 1, -1, -1):
            while end > 0 and ends[end - 1, 0] == t0 + i:  # the gradient enters where a lane ends
                end -= 1
                for j in range(layout.hidden):
                    dh[j * LANES + ends[end, 1]] += dout[ends[end, 2] * layout.hidden + j]
            _step_back(layout, weights, xh, i * step, gates, i * g_step, dh)
            if dx.size:
                _input_gradient(layout, weights, rows[t0 + i], gates, i * g_step, work.dx, dx)
            while start > 0 and starts[start - 1, 0] == t0 + i:  # and goes no further than a start
                start -= 1
                _clear_lane(dh, 0, layout.hidden, starts[start, 1])
            for column in range(layout.xh // LANES):
                to = (column * CHUNK + i) * BLOCK
                simd.transpose(xh, i * step + column * BLOCK, work.columns, to)
        _weight_gradient(layout, n, gates, work.columns, dw)


@njit
def _run_chunk(
    layout: Layout, weights: Weights, work: Work, x: Floats, rows: Ints, starts: Ints, t0: int
) -> None:
    """Run a chunk forward again from the h in its first step; keep the gates and h of each."""
    step, first, start = layout.xh * LANES, (layout.inputs + 1) * LANES, 0
    for i in range(len(rows)):
        while start < len(starts) and starts[start, 0] == t0 + i:
            _clear_lane(work.xh, i * step + first, layout.hidden, starts[start, 1])
            start += 1
        _step(layout, weights, work, x, rows[i], i * step, i * layout.gates * LANES)


@njit
def _clear_lane(array: Floats, offset: int, n: int, lane: int) -> None:
    for j in range(n):
        array[offset + j * LANES + lane] = 0


@njit
def _sections(layout: Layout, g: int) -> tuple[int, int, int, int]:
    """Return where the hidden part of n, r, z and the input part of n begin in a step's gates."""
    r = g + layout.r * LANES
    return g, r, r + layout.hidden * LANES, g + layout.nx * LANES


@njit
def _step(
    layout: Layout, weights: Weights, work: Work, x: Floats, rows: Ints, now: int, g: int
) -> None:
    """Run one step of all lanes: r, z, n, hidden part of n to gates, h to the next step's xh."""
    xh, gates = work.xh, work.gates
    inputs, hidden = layout.inputs, layout.hidden
    for lane in range(LANES):
        if rows[lane] < 0:
            for c in range(inputs):
                xh[now + c * LANES + lane] = 0
        else:
            simd.copy(inputs, x, rows[lane] * inputs, 1, xh, now + lane, LANES)
    bias = now + inputs * LANES
    h, after = bias + LANES, layout.xh * LANES
    at_nh, at_r, at_z, at_nx = _sections(layout, g)
    _multiply(weights.nh, xh, bias, hidden + 1, gates, at_nh, layout.r)
    _multiply(weights.rz, xh, now, inputs + 1 + hidden, gates, at_r, layout.nx - layout.r)
    _multiply(weights.nx, xh, now, inputs + 1, gates, at_nx, layout.r)
    zero, one, two = simd.splat(np.float32(0)), simd.splat(np.float32(1)), simd.splat(np.float32(2))
    for j in range(0, hidden * LANES, LANES):
        r = one / (one + simd.exp(zero - simd.load(gates, at_r + j)))
        z = one / (one + simd.exp(zero - simd.load(gates, at_z + j)))
        a = simd.load(gates, at_nx + j) + r * simd.load(gates, at_nh + j)
        n = one - two / (one + simd.exp(a + a))  # tanh(a)
        simd.store(gates, at_r + j, r)
        simd.store(gates, at_z + j, z)
        simd.store(gates, at_nx + j, n)
        simd.store(xh, h + after + j, n + z * (simd.load(xh, h + j) - n))


@njit
def _step_back(
    layout: Layout, weights: Weights, xh: Floats, now: int, gates: Floats, g: int, dh: Floats
) -> None:
    """Replace the gates of a step by their gradients, and dh after the step by dh before it."""
    one, h = simd.splat(np.float32(1)), now + (layout.inputs + 1) * LANES
    at_nh, at_r, at_z, at_nx = _sections(layout, g)
    for j in range(0, layout.hidden * LANES, LANES):
        r, z = simd.load(gates, at_r + j), simd.load(gates, at_z + j)
        n, d = simd.load(gates, at_nx + j), simd.load(dh, j)
        d_n = d * (one - z) * (one - n * n)
        simd.store(gates, at_z + j, d * (simd.load(xh, h + j) - n) * z * (one - z))
        simd.store(gates, at_r + j, d_n * simd.load(gates, at_nh + j) * r * (one - r))
        simd.store(gates, at_nh + j, d_n * r)
        simd.store(gates, at_nx + j, d_n)
        simd.store(dh, j, d * z)
    for block in range(layout.r // ROWS):
        from_, to = block * layout.nx * ROWS, block * ROWS * LANES
        simd.product_add(weights.to_h, from_, gates, g, layout.nx, dh, to)


@njit
def _input_gradient(
    layout: Layout, weights: Weights, rows: Ints, gates: Floats, g: int, step: Floats, dx: Floats
) -> None:
    at_r, inputs = g + layout.r * LANES, layout.inputs
    _multiply(weights.to_x, gates, at_r, layout.gates - layout.r, step, 0, inputs)
    for lane in range(LANES):
        if rows[lane] >= 0:
            simd.copy(inputs, step, lane, LANES, dx, rows[lane] * inputs, 1)


@njit
def _weight_gradient(layout: Layout, n: int, gates: Floats, columns: Floats, dw: Floats) -> None:
    """Add the products of gates and xh over the n steps of a chunk, in blocks of ROWS x LANES."""
    both = layout.inputs // LANES  # the column of blocks with the bias, between x and h
    g_step = layout.gates * LANES
    for row in range(0, layout.gates, ROWS):
        # no weight needs x with the hidden part of n, or h with its input part
        begin = both if row < layout.r else 0
        end = both + 1 if row >= layout.nx else layout.xh // LANES
        for column in range(begin, end):
            at, to = column * CHUNK * BLOCK, row * layout.xh + column * LANES
            simd.outer_sum(gates, row * LANES, g_step, columns, at, n, dw, to, layout.xh)


@njit
def _multiply(
    w: Floats, b: Floats, b_offset: int, n: int, c: Floats, c_offset: int, n_rows: int
) -> None:
    """Set ``c = w b`` for packed w, in as many whole blocks as hold n_rows."""
    for block in range((n_rows + ROWS - 1) // ROWS):
        simd.product(w, block * n * ROWS, b, b_offset, n, c, c_offset + block * ROWS * LANES)


def _pack(matrix: Floats) -> Floats:
    n_rows, n_columns = matrix.shape
    padded = np.zeros((_whole(n_rows, ROWS), n_columns), np.float32)
    padded[:n_rows] = matrix
    return np.ascontiguousarray(padded.reshape(-1, ROWS, n_columns).transpose(0, 2, 1)).ravel()


def _whole(n: int, block: int) -> int:
    return -(-n // block) * block
