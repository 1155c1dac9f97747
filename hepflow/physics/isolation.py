"""pT sums in cones of DELTA R < 0.3: around a lepton, or around all candidates of an event at once.

The sum around every candidate is a neighbour search over some 440 points per event. A library is
too slow for so few: SciPy's k-d tree takes 180 us to build and 385 us to list the pairs, the search
here 21 us. The idea is a grid in (eta, phi) with cells wider than the cone, so that all neighbours
of a candidate are in the 3 x 3 cells around its own. Each pair is visited once, from the candidate
that comes first in the order of the cells, and counted for both::

               phi ->                      the candidate i in cell O pairs with
         . . . . . . . . . . . .             - the later ones in O, and all in R
    eta  . . . . . O R . . . . .               (a single range, as the cells are sorted),
     |   . . . . D D D . . . . .             - all in the three cells D of the next row
     v   . . . . . . . . . . . .               (a single range too).

         O R . . . . . . . . . A           If O is the first cell of its row, it also pairs with
         D D . . . . . . . . . B           A and B, a turn of 2 pi away. The last cell pairs with
                                           the first of the next row; A has met O already.

If each candidate scans its full 3 x 3 cells, the search takes 41 us instead of 21. To join both
ranges into one loop gained nothing. A window in eta alone, in vector instructions, was no faster,
and its sums depended on how wide the vectors are.

Sums are 64-bit: they run over hundreds of candidates, and the reference subtracts 1 from them.
"""

from typing import NamedTuple

import numpy as np

from hepflow.physics.definitions import Definitions
from hepflow.physics.kinematics import TWO_PI, Three, delta_phi, delta_r
from hepflow.system.compiled import cached_njit

CONE = 0.3
"""Cone radius (Nguyen et al., Comput. Softw. Big Sci. 3 (2019) 12, and the reference's PFIso)."""
SAME_PLACE = 1e-4
"""Largest DELTA R between a lepton and its own track (the reference's cut)."""
N_KINDS = 3
TRACK, PHOTON, HADRON = range(N_KINDS)

_CELL_ETA = 0.31  # wider than the cone with room for rounding
_N_ETA = 36
_ETA_EDGE = 0.5 * _N_ETA * _CELL_ETA
_N_PHI = 20  # cells of 0.314
_N_CELLS = _N_ETA * _N_PHI


class Scratch(NamedTuple):
    """Arrays for the candidates of one event, reused for the next one.

    The candidates are the selected tracks, photons and neutral hadrons, in this order.
    """

    eta: np.ndarray
    phi: np.ndarray
    pt: np.ndarray
    kind: np.ndarray
    source: np.ndarray  # position in the kind's column
    ranked: np.ndarray  # candidates to list, by decreasing pT
    sums: np.ndarray  # (room, 3) pT in the cone of each candidate by kind, see `around_all`
    wrapped_phi: np.ndarray
    cell: np.ndarray
    starts: np.ndarray  # (cells + 1) first candidate of each cell, in the order of the cells
    order: np.ndarray  # candidates in the order of the cells, as in the four arrays below
    sorted_eta: np.ndarray
    sorted_phi: np.ndarray
    sorted_pt: np.ndarray  # (3, room) pT in the row of the candidate's kind, 0 in the other two
    from_earlier: np.ndarray  # (3, room) pT from earlier candidates, in the row of their kind


@cached_njit()
def scratch(room: int) -> Scratch:
    """Return arrays for events of up to ``room`` candidates."""
    floats, integers = np.empty((5, room)), np.empty((5, room), np.int64)
    return Scratch(
        eta=floats[0],
        phi=floats[1],
        pt=np.empty(room, np.float32),
        kind=integers[0],
        source=integers[1],
        ranked=integers[4],
        sums=np.empty((room, N_KINDS)),
        wrapped_phi=floats[2],
        cell=integers[2],
        starts=np.empty(_N_CELLS + _N_PHI + 1, np.int64),
        order=integers[3],
        sorted_eta=floats[3],
        sorted_phi=floats[4],
        sorted_pt=np.empty((N_KINDS, room)),
        from_earlier=np.empty((N_KINDS, room)),
    )


@cached_njit()
def around(eta: float, phi: float, n: int, s: Scratch, d: Definitions) -> Three:
    """Return the pT sums (GeV) of tracks, photons and neutral hadrons in the cone of a lepton."""
    sums = np.zeros(N_KINDS)
    for j in range(n):
        d_eta = eta - s.eta[j]
        d_phi = delta_phi(phi, s.phi[j]) if d.wrap_phi else phi - s.phi[j]
        near = d_phi * d_phi + d_eta * d_eta < CONE * CONE
        if near and not (d.leave_self_out and is_own(eta, phi, s.kind[j], s.eta[j], s.phi[j])):
            sums[s.kind[j]] += s.pt[j]
    return sums[TRACK], sums[PHOTON], sums[HADRON]


@cached_njit()
def is_own(eta: float, phi: float, kind: int, at_eta: float, at_phi: float) -> bool:
    """Return whether a candidate is the track of the lepton at (eta, phi).

    It takes numbers: a call with the tuple of arrays for every candidate costs 50 us per event.
    """
    near = kind == TRACK and abs(eta - at_eta) <= SAME_PLACE
    return near and delta_r(eta, phi, at_eta, at_phi) <= SAME_PLACE


@cached_njit()
def around_all(n: int, s: Scratch, wrap: bool) -> None:
    """Fill ``s.sums`` for ``n`` candidates: pT (GeV) by kind in the cone, without the candidate."""
    _sort_into_cells(n, s, wrap)
    # Arrays by name: to take them out of the tuple in the inner loop costs more than a pair does.
    all_eta, all_phi, sums = s.sorted_eta, s.sorted_phi, s.sums
    tracks, photons, hadrons = s.sorted_pt[TRACK], s.sorted_pt[PHOTON], s.sorted_pt[HADRON]
    from_earlier = s.from_earlier
    from_earlier[:, :n] = 0.0
    for i in range(n):
        own = s.order[i]
        eta, pt, kind = all_eta[i], np.float64(s.pt[own]), s.kind[own]
        charged, gamma, neutral = from_earlier[:, i]
        for start, stop, turn in _later_neighbours(i, s.cell[own], s.starts, wrap):
            phi = all_phi[i] + turn
            for j in range(np.uint64(start), np.uint64(stop)):  # signed indices are 15 % slower
                d_eta = eta - all_eta[j]
                d_phi = phi - all_phi[j]
                # A factor of 0 costs less than a branch that goes either way, and a sum in a
                # register less than one in memory.
                near = 1.0 if d_phi * d_phi + d_eta * d_eta < CONE * CONE else 0.0
                charged += near * tracks[j]
                gamma += near * photons[j]
                neutral += near * hadrons[j]
                from_earlier[kind, j] += near * pt
        sums[own, TRACK], sums[own, PHOTON], sums[own, HADRON] = charged, gamma, neutral


@cached_njit()
def _later_neighbours(
    i: int, cell: int, starts: np.ndarray, wrap: bool
) -> tuple[tuple[int, int, float], ...]:
    """Return four ranges (start, stop, turn of phi) with which candidate ``i`` pairs."""
    first = cell // _N_PHI * _N_PHI  # cell of this row
    last = first + _N_PHI - 1
    left, right = max(cell - 1, first), min(cell + 1, last)
    here = (i + 1, starts[right + 1], 0.0)
    below = (starts[left + _N_PHI], starts[right + _N_PHI + 1], 0.0)
    nothing = (0, 0, 0.0)
    if wrap and cell == first:
        across = (starts[last], starts[last + 1], TWO_PI)
        return here, below, across, (starts[last + _N_PHI], starts[last + _N_PHI + 1], TWO_PI)
    if wrap and cell == last:  # the first cell of this row has met this one already
        return here, below, nothing, (starts[last + 1], starts[last + 2], -TWO_PI)
    return here, below, nothing, nothing


@cached_njit()
def _sort_into_cells(n: int, s: Scratch, wrap: bool) -> None:
    """Sort the candidates by cell (counting sort), with azimuths in [-pi, pi] if they wrap."""
    cell, starts, order, phi = s.cell, s.starts, s.order, s.wrapped_phi
    starts[:] = 0
    for j in range(n):
        phi[j] = delta_phi(s.phi[j], 0.0) if wrap else s.phi[j]
        row = _clipped((s.eta[j] + _ETA_EDGE) / _CELL_ETA, _N_ETA)
        cell[j] = row * _N_PHI + _clipped((phi[j] / TWO_PI + 0.5) * _N_PHI, _N_PHI)
        starts[cell[j]] += 1
    for c in range(1, _N_CELLS):
        starts[c] += starts[c - 1]
    starts[_N_CELLS:] = n  # as if there were one more row, of empty cells
    for j in range(n - 1, -1, -1):  # fills each cell from its end, which becomes its start
        starts[cell[j]] -= 1
        i = starts[cell[j]]
        order[i] = j
        s.sorted_eta[i] = s.eta[j]
        s.sorted_phi[i] = phi[j]
        for kind in range(N_KINDS):
            s.sorted_pt[kind, i] = np.float64(s.pt[j]) if s.kind[j] == kind else 0.0


@cached_njit()
def _clipped(x: float, n: int) -> int:
    """Return the cell of ``x``: the outermost ones reach to infinity, and the first takes NaN."""
    return int(x) if 0.0 < x < n else (n - 1 if x >= n else 0)
