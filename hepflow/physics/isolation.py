"""Energy in cones of DELTA R < 0.3: around one point, or around every candidate of an event at once.

For all candidates at once an (eta, phi) grid with cells wider than the cone gives each candidate few neighbours to look at. (A window in
eta alone, in vector instructions, was no faster, and its sums depended on how wide the machine's vectors are.) Sums are 64-bit: they run
over hundreds of candidates, and the reference subtracts 1 from them.
"""

from typing import NamedTuple

import numpy as np

from hepflow.physics.definitions import Definitions
from hepflow.physics.kinematics import TWO_PI, delta_phi, delta_r
from hepflow.system.compiled import cached_njit

CONE = 0.3
"""Cone radius (Nguyen et al., Comput. Softw. Big Sci. 3 (2019) 12, and the reference's PFIso)."""
SAME_PLACE = 1e-4
"""A track within this DELTA R of the lepton is the lepton's own (the reference's cut)."""
N_KINDS = 3
TRACK, PHOTON, HADRON = range(N_KINDS)

_CELL_ETA = 0.31  # wider than the cone with room for rounding
_N_ETA = 36
_ETA_EDGE = 0.5 * _N_ETA * _CELL_ETA
_N_PHI = 20  # cells of 0.314
_N_CELLS = _N_ETA * _N_PHI


class Scratch(NamedTuple):
    """Room for one event's candidates, reused over events: selected tracks, photons and neutral hadrons in this order."""

    eta: np.ndarray
    phi: np.ndarray
    pt: np.ndarray
    kind: np.ndarray
    source: np.ndarray
    """Position in the kind's column."""
    sums: np.ndarray
    """(room, 3) pT in the cone of each candidate by kind."""
    bits: np.ndarray
    order: np.ndarray
    cell: np.ndarray
    starts: np.ndarray
    wrapped_phi: np.ndarray
    sorted_eta: np.ndarray
    sorted_phi: np.ndarray
    sorted_pt: np.ndarray
    """(3, room) pT in the row of the candidate's kind, 0 in the other two."""
    from_before: np.ndarray
    """(3, room) what the candidates before each give it, in the row of their kind."""


@cached_njit()
def scratch(room: int) -> Scratch:
    """Room for events of up to ``room`` candidates."""
    return Scratch(
        np.empty(room),
        np.empty(room),
        np.empty(room),
        np.empty(room, np.int64),
        np.empty(room, np.int64),
        np.empty((room, N_KINDS)),
        np.empty(room, np.uint32),
        np.empty(room, np.int64),
        np.empty(room, np.int64),
        np.empty(_N_CELLS + _N_PHI + 1, np.int64),
        np.empty(room),
        np.empty(room),
        np.empty(room),
        np.empty((N_KINDS, room)),
        np.empty((N_KINDS, room)),
    )


@cached_njit()
def around(
    eta: float, phi: float, n: int, s: Scratch, d: Definitions
) -> tuple[float, float, float]:
    """Sums of pT of the tracks, photons and neutral hadrons in the cone around a lepton, GeV.

    Parameters
    ----------
    eta, phi : the lepton
    n : candidates in ``s``
    d : ``wrap_phi`` and ``leave_self_out`` matter: whether tracks on top of the lepton count
    """
    sums = np.zeros(N_KINDS)
    for j in range(n):
        d_eta = eta - s.eta[j]
        d_phi = delta_phi(phi, s.phi[j]) if d.wrap_phi else phi - s.phi[j]
        if d_phi * d_phi + d_eta * d_eta < CONE * CONE:
            if (
                d.leave_self_out
                and s.kind[j] == TRACK
                and delta_r(eta, phi, s.eta[j], s.phi[j]) <= SAME_PLACE
            ):
                continue
            sums[s.kind[j]] += s.pt[j]
    return sums[TRACK], sums[PHOTON], sums[HADRON]


@cached_njit()
def around_all(n: int, s: Scratch, wrap: bool) -> None:
    """Fill ``s.sums``: the pT by kind in the cone around each of the ``n`` candidates, itself left out, GeV.

    Each pair is met once: a candidate looks at the later ones of its cell and of the cell beside it, and at the three cells of the next
    row. Those are one loop over two ranges, since the end of a short loop costs as much as several pairs; what lies across phi = +-pi is
    a second one.
    """
    _sort_into_cells(n, s, wrap)
    # arrays by name, and no call in the loops: taking them out of the tuple or passing it costs more than a pair does
    all_eta, all_phi, all_pt, all_kind = s.sorted_eta, s.sorted_phi, s.pt, s.kind
    starts, cells, order, sums = s.starts, s.cell, s.order, s.sums
    tracks, photons, hadrons, before = (
        s.sorted_pt[TRACK],
        s.sorted_pt[PHOTON],
        s.sorted_pt[HADRON],
        s.from_before,
    )
    before[:, :n] = 0.0
    for i in range(n):
        own = order[i]
        eta, phi, pt, kind = all_eta[i], all_phi[i], all_pt[own], all_kind[own]
        charged, gamma, neutral = before[TRACK, i], before[PHOTON, i], before[HADRON, i]
        row = cells[own] // _N_PHI * _N_PHI
        column = cells[own] - row
        left, right = max(column - 1, 0), min(column + 1, _N_PHI - 1)
        here, n_here = i + 1, starts[row + right + 1] - i - 1
        below, stop = starts[row + _N_PHI + left], starts[row + _N_PHI + right + 1]
        for _ in range(2 if wrap and (column == 0 or column == _N_PHI - 1) else 1):
            to_below = np.uint64(below - n_here)
            for k in range(np.uint64(n_here + stop - below)):
                j = k + (np.uint64(here) if k < np.uint64(n_here) else to_below)
                d_eta = eta - all_eta[j]
                d_phi = phi - all_phi[j]
                # a factor of 0 costs less than a branch that goes either way, and a sum in a register less than one in memory
                near = 1.0 if d_phi * d_phi + d_eta * d_eta < CONE * CONE else 0.0
                charged += near * tracks[j]
                gamma += near * photons[j]
                neutral += near * hadrons[j]
                before[kind, j] += near * pt
            # a turn further on: the first cell of the row meets the last one, and both those of the next row
            phi += TWO_PI if column == 0 else -TWO_PI
            across = row if column else row + _N_PHI - 1
            here, n_here = starts[across], (0 if column else starts[across + 1] - starts[across])
            below, stop = starts[across + _N_PHI], starts[across + _N_PHI + 1]
        sums[own, TRACK], sums[own, PHOTON], sums[own, HADRON] = charged, gamma, neutral


@cached_njit()
def _sort_into_cells(n: int, s: Scratch, wrap: bool) -> None:
    """Counting sort of the candidates by cell; their azimuths in [-pi, pi] if they are to wrap."""
    cell, starts, order, phi = s.cell, s.starts, s.order, s.wrapped_phi
    starts[:] = 0
    for j in range(n):
        phi[j] = delta_phi(s.phi[j], 0.0) if wrap else s.phi[j]
        cell[j] = _cell((s.eta[j] + _ETA_EDGE) / _CELL_ETA, _N_ETA) * _N_PHI + _cell(
            (phi[j] / TWO_PI + 0.5) * _N_PHI, _N_PHI
        )
        starts[cell[j] + 1] += 1
    for c in range(_N_CELLS):
        starts[c + 1] += starts[c]
    for j in range(
        n - 1, -1, -1
    ):  # fills each cell from its end: what was the end of a cell becomes its start
        starts[cell[j] + 1] -= 1
        order[starts[cell[j] + 1]] = j
    for c in range(_N_CELLS):
        starts[c] = starts[c + 1]
    starts[_N_CELLS:] = n  # as if there were one more row, of empty cells
    sorted_eta, sorted_phi, sorted_pt = s.sorted_eta, s.sorted_phi, s.sorted_pt
    for i in range(n):
        j = order[i]
        sorted_eta[i], sorted_phi[i] = s.eta[j], phi[j]
        for kind in range(N_KINDS):
            sorted_pt[kind, i] = s.pt[j] if s.kind[j] == kind else 0.0


@cached_njit()
def _cell(x: float, n: int) -> int:
    """Cell of ``x``, the outer ones taking in all beyond (neighbours stay neighbours), and the first what is not a number."""
    return int(x) if 0.0 < x < n else (n - 1 if x >= n else 0)
