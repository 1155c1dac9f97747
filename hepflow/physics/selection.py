"""The trigger: an isolated electron or muon above 23 GeV, and which one is *the* lepton."""

from typing import NamedTuple

import awkward as ak
import numpy as np

from hepflow.physics import skim
from hepflow.physics.columns import Columns, Leptons, Neutrals, columns
from hepflow.physics.definitions import Definitions, named
from hepflow.physics.isolation import HADRON, PHOTON, TRACK, Scratch, around, scratch
from hepflow.physics.kinematics import Three
from hepflow.physics.skim import LEPTON_PT, NEUTRAL_ET, TRACK_PT
from hepflow.system.compiled import cached_njit

LEPTON_ISOLATION = 0.45
"""Largest sum of the three relative isolations, strict (the reference's selection)."""

PASSES, INCOMPLETE, NO_LEPTON, NOT_ISOLATED, NOT_FINITE = range(5)
REASONS = {
    INCOMPLETE: "no track, photon or neutral hadron",
    NO_LEPTON: skim.NO_LEPTON,
    NOT_ISOLATED: "no isolated lepton",
    NOT_FINITE: "features not finite",
}
"""Status of a rejected event -> the reason, as the ledger has it."""

Counts = tuple[int, int, int]


class Lepton(NamedTuple):
    """The lepton of an event, if its ``status`` is PASSES."""

    status: int
    is_electron: bool
    pt: float
    eta: float
    phi: float
    charge: float
    isolation: Three  # charged, gamma and neutral sums in the cone, over the lepton's pT


def passes(events: ak.Array, definitions: str | Definitions = "corrected") -> np.ndarray:
    """Return which events the trigger accepts; (n,) bool. For ``events`` see `columns`."""
    return statuses(columns(events), definitions) == PASSES


def statuses(c: Columns, definitions: str | Definitions = "corrected") -> np.ndarray:
    """Return PASSES or the key of a reason of each event; (n,) int8."""
    status = np.empty(len(c.tracks.offsets) - 1, np.int8)
    _fill_statuses(c, named(definitions), status)
    return status


def isolations(events: ak.Array, definitions: str | Definitions = "corrected") -> ak.Array:
    """Return the isolation of every lepton, before any cut on it.

    The (n,) records have lists ``Electron`` and ``MuonTight`` of records ``charged``, ``gamma`` and
    ``neutral``: sum of pT in the lepton's cone over its own pT.
    """
    c, d = columns(events), named(definitions)
    found = {}
    for name, leptons in zip(skim.LEPTONS, (c.electrons, c.muons), strict=True):
        relative = np.empty((len(leptons.pt), 3))
        _fill_isolations(c, leptons, d, relative)
        lists = ak.zip(dict(zip(("charged", "gamma", "neutral"), relative.T, strict=True)))
        found[name] = ak.unflatten(lists, np.diff(leptons.offsets))
    return ak.zip(found, depth_limit=1)


@cached_njit()
def largest(c: Columns) -> int:
    """Return the largest number of candidates in an event, before the cuts."""
    most = 0
    for i in range(len(c.tracks.offsets) - 1):
        n = 0
        for offsets in (c.tracks.offsets, c.photons.offsets, c.hadrons.offsets):
            n += offsets[i + 1] - offsets[i]
        most = max(most, n)
    return most


@cached_njit()
def gather(event: int, c: Columns, s: Scratch) -> Counts:
    """Copy an event's selected candidates to ``s``, in file order; return how many of each kind."""
    n_tracks = 0
    for i in range(c.tracks.offsets[event], c.tracks.offsets[event + 1]):
        if c.tracks.pt[i] > TRACK_PT:
            s.eta[n_tracks], s.phi[n_tracks] = c.tracks.eta[i], c.tracks.phi[i]
            s.pt[n_tracks], s.kind[n_tracks], s.source[n_tracks] = c.tracks.pt[i], TRACK, i
            n_tracks += 1
    n_photons = _gather_neutral(event, c.photons, PHOTON, n_tracks, s)
    n_hadrons = _gather_neutral(event, c.hadrons, HADRON, n_tracks + n_photons, s)
    return n_tracks, n_photons, n_hadrons


@cached_njit()
def _gather_neutral(event: int, column: Neutrals, kind: int, start: int, s: Scratch) -> int:
    n = start
    for i in range(column.offsets[event], column.offsets[event + 1]):
        if column.pt[i] > NEUTRAL_ET:
            s.eta[n], s.phi[n], s.pt[n] = column.eta[i], column.phi[i], column.pt[i]
            s.kind[n], s.source[n] = kind, i
            n += 1
    return n - start


@cached_njit()
def choose(event: int, counts: Counts, c: Columns, s: Scratch, d: Definitions) -> Lepton:
    """Return the lepton of an event, or the status of a rejected one, after `gather`."""
    if not d.keep_incomplete and min(counts) == 0:
        return _rejected(INCOMPLETE)
    n = sum(counts)
    ele, ele_isolation, any_ele = _best(event, c.electrons, n, s, d)
    mu, mu_isolation, any_mu = _best(event, c.muons, n, s, d)
    if ele < 0 and mu < 0:
        return _rejected(NOT_ISOLATED if any_ele or any_mu else NO_LEPTON)
    if ele < 0 or mu < 0:
        is_electron = mu < 0
    elif d.flavour_by_pt:
        is_electron = c.electrons.pt[ele] >= c.muons.pt[mu]
    else:
        is_electron = c.electrons.eta[ele] > c.muons.eta[mu]
    flavour, i = (c.electrons, ele) if is_electron else (c.muons, mu)
    return Lepton(
        PASSES,
        is_electron,
        np.float64(flavour.pt[i]),
        np.float64(flavour.eta[i]),
        np.float64(flavour.phi[i]),
        np.float64(flavour.charge[i]),
        ele_isolation if is_electron else mu_isolation,
    )


@cached_njit()
def _rejected(status: int) -> Lepton:
    return Lepton(status, False, 0.0, 0.0, 0.0, 0.0, (0.0, 0.0, 0.0))


@cached_njit()
def _best(
    event: int, leptons: Leptons, n: int, s: Scratch, d: Definitions
) -> tuple[int, Three, bool]:
    """Return a flavour's isolated lepton (-1: none), its isolations, and if any is hard enough."""
    best, best_isolation, any_above = -1, (0.0, 0.0, 0.0), False
    for i in range(leptons.offsets[event], leptons.offsets[event + 1]):
        pt = np.float64(leptons.pt[i])
        if not pt > LEPTON_PT:
            continue
        any_above = True
        if best >= 0 and (not d.leading_in_flavour or pt <= leptons.pt[best]):
            continue
        isolation = _isolation(leptons, i, n, s, d)
        if isolation[0] + isolation[1] + isolation[2] < LEPTON_ISOLATION:
            best, best_isolation = i, isolation
    return best, best_isolation, any_above


@cached_njit()
def _isolation(leptons: Leptons, i: int, n: int, s: Scratch, d: Definitions) -> Three:
    """Return the charged, gamma and neutral sums around a lepton, over its pT."""
    pt, eta, phi = np.float64(leptons.pt[i]), np.float64(leptons.eta[i]), np.float64(leptons.phi[i])
    charged, gamma, neutral = around(eta, phi, n, s, d)
    return charged / pt - (0.0 if d.leave_self_out else 1.0), gamma / pt, neutral / pt


@cached_njit()
def _fill_statuses(c: Columns, d: Definitions, status: np.ndarray) -> None:
    s = scratch(largest(c))
    for event in range(len(status)):
        status[event] = choose(event, gather(event, c, s), c, s, d).status


@cached_njit()
def _fill_isolations(c: Columns, leptons: Leptons, d: Definitions, relative: np.ndarray) -> None:
    s = scratch(largest(c))
    for event in range(len(leptons.offsets) - 1):
        n = sum(gather(event, c, s))
        for i in range(leptons.offsets[event], leptons.offsets[event + 1]):
            relative[i, TRACK], relative[i, PHOTON], relative[i, HADRON] = _isolation(
                leptons, i, n, s, d
            )
