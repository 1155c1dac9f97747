"""The trigger: an isolated electron or muon above 23 GeV, and which one is *the* lepton of the event."""

from typing import NamedTuple

import awkward as ak
import numpy as np

from hepflow.physics import isolation
from hepflow.physics.columns import Columns, Leptons, Neutrals, columns
from hepflow.physics.definitions import Definitions, named
from hepflow.physics.isolation import HADRON, PHOTON, SAME_PLACE, TRACK, Scratch
from hepflow.physics.kinematics import delta_r
from hepflow.schema import MAX_NEUTRALS, MAX_PHOTONS, MAX_TRACKS
from hepflow.system.compiled import cached_njit

LEPTON_PT = 23.0
"""GeV, strict (the reference's selection)."""
LEPTON_ISOLATION = 0.45
"""Largest sum of the three relative isolations, strict (the reference's selection)."""
TRACK_PT = 0.5
"""GeV, strict."""
NEUTRAL_ET = 1.0
"""GeV, strict; for photons and neutral hadrons."""

PASSES, INCOMPLETE, NO_LEPTON, NOT_ISOLATED, NOT_FINITE = range(5)
REASONS = {
    INCOMPLETE: "no track, photon or neutral hadron",
    NO_LEPTON: "no lepton above 23 GeV",
    NOT_ISOLATED: "no isolated lepton",
    NOT_FINITE: "features not finite",
}
"""Status of a rejected event -> the reason, as the ledger has it."""


class Chosen(NamedTuple):
    """The lepton of each event."""

    status: np.ndarray
    """(n,) int8, PASSES or the key of a reason"""
    is_electron: np.ndarray
    """(n,) bool"""
    source: np.ndarray
    """(n,) int64, position in the flavour's column"""
    isolation: np.ndarray
    """(n, 3) charged, gamma and neutral sums over the lepton's pT"""
    n_particles: np.ndarray
    """(n,) int64, the lepton and the candidates to list with it"""


def passes(events: ak.Array, definitions: str | Definitions = "corrected") -> np.ndarray:
    """Which events the trigger accepts.

    Parameters
    ----------
    events : (n,) records with the collections of `hepflow.schema.COLLECTIONS`
    definitions : ``corrected`` or ``reference``

    Returns
    -------
    (n,) bool
    """
    return choose(columns(events), named(definitions)).status == PASSES


def isolations(events: ak.Array, definitions: str | Definitions = "corrected") -> ak.Array:
    """Isolation of every lepton, before any cut on it: what the trigger decides by.

    Parameters
    ----------
    events : (n,) records with the collections of `hepflow.schema.COLLECTIONS`
    definitions : ``corrected`` or ``reference``

    Returns
    -------
    (n,) records ``Electron`` and ``MuonTight``
        Each (leptons) records ``charged``, ``gamma`` and ``neutral``: sum of pT in the lepton's cone over its own pT.
    """
    c, d = columns(events), named(definitions)
    found = {}
    for name, leptons in (("Electron", c.electrons), ("MuonTight", c.muons)):
        relative = np.empty((len(leptons.pt), 3))
        _isolate(c, leptons, d, relative)
        lists = ak.zip(dict(zip(("charged", "gamma", "neutral"), relative.T, strict=True)))
        found[name] = ak.unflatten(lists, np.diff(leptons.offsets))
    return ak.zip(found, depth_limit=1)


def choose(c: Columns, definitions: Definitions) -> Chosen:
    """The lepton of every event, or the reason why it has none."""
    n_events = len(c.tracks.offsets) - 1
    chosen = Chosen(
        np.empty(n_events, np.int8),
        np.empty(n_events, np.bool_),
        np.empty(n_events, np.int64),
        np.empty((n_events, 3)),
        np.zeros(n_events, np.int64),
    )
    _choose(c, definitions, chosen)
    return chosen


@cached_njit()
def largest(c: Columns) -> int:
    """Candidates in the event that has most, before the cuts."""
    most = 0
    for i in range(len(c.tracks.offsets) - 1):
        n = (
            c.tracks.offsets[i + 1]
            - c.tracks.offsets[i]
            + c.photons.offsets[i + 1]
            - c.photons.offsets[i]
        )
        most = max(most, n + c.hadrons.offsets[i + 1] - c.hadrons.offsets[i])
    return most


@cached_njit()
def gather(event: int, c: Columns, s: Scratch) -> tuple[int, int, int]:
    """Put an event's selected tracks, photons and neutral hadrons into ``s``, in file order; how many there are of each."""
    n_tracks = 0
    for i in range(c.tracks.offsets[event], c.tracks.offsets[event + 1]):
        if c.tracks.pt[i] > TRACK_PT:
            s.eta[n_tracks], s.phi[n_tracks], s.pt[n_tracks] = (
                c.tracks.eta[i],
                c.tracks.phi[i],
                c.tracks.pt[i],
            )
            s.kind[n_tracks], s.source[n_tracks] = TRACK, i
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
def mark_own_tracks(n_tracks: int, eta: float, phi: float, s: Scratch, mine: np.ndarray) -> int:
    """Mark the tracks that are the lepton's; how many they are."""
    n_mine = 0
    for j in range(n_tracks):
        mine[j] = (
            abs(eta - s.eta[j]) <= SAME_PLACE
            and delta_r(eta, phi, s.eta[j], s.phi[j]) <= SAME_PLACE
        )
        n_mine += mine[j]
    return n_mine


@cached_njit()
def _choose(c: Columns, d: Definitions, chosen: Chosen) -> None:
    room = largest(c)
    s = isolation.scratch(room)
    mine = np.zeros(room, np.bool_)
    for event in range(len(c.tracks.offsets) - 1):
        n_tracks, n_photons, n_hadrons = gather(event, c, s)
        n = n_tracks + n_photons + n_hadrons
        if not d.keep_incomplete and min(n_tracks, n_photons, n_hadrons) == 0:
            chosen.status[event] = INCOMPLETE
            continue
        ele, ele_iso, any_ele = _best(event, c.electrons, n, s, d)
        mu, mu_iso, any_mu = _best(event, c.muons, n, s, d)
        if ele < 0 and mu < 0:
            chosen.status[event] = NOT_ISOLATED if any_ele or any_mu else NO_LEPTON
            continue
        is_electron = mu < 0
        if ele >= 0 and mu >= 0:
            is_electron = (
                c.electrons.pt[ele] >= c.muons.pt[mu]
                if d.flavour_by_pt
                else c.electrons.eta[ele] > c.muons.eta[mu]
            )
        chosen.status[event] = PASSES
        chosen.is_electron[event] = is_electron
        chosen.source[event] = ele if is_electron else mu
        for kind in range(3):
            chosen.isolation[event, kind] = ele_iso[kind] if is_electron else mu_iso[kind]
        eta = c.electrons.eta[ele] if is_electron else c.muons.eta[mu]
        phi = c.electrons.phi[ele] if is_electron else c.muons.phi[mu]
        n_others = n_tracks - mark_own_tracks(n_tracks, np.float64(eta), np.float64(phi), s, mine)
        chosen.n_particles[event] = (
            1
            + min(n_others, MAX_TRACKS)
            + min(n_photons, MAX_PHOTONS)
            + min(n_hadrons, MAX_NEUTRALS)
        )


@cached_njit()
def _isolate(c: Columns, leptons: Leptons, d: Definitions, relative: np.ndarray) -> None:
    """Fill (leptons, 3) with the relative isolations of a flavour."""
    s = isolation.scratch(largest(c))
    for event in range(len(leptons.offsets) - 1):
        n = sum(gather(event, c, s))
        for i in range(leptons.offsets[event], leptons.offsets[event + 1]):
            relative[i, TRACK], relative[i, PHOTON], relative[i, HADRON] = _isolation(
                leptons, i, n, s, d
            )


@cached_njit()
def _isolation(
    leptons: Leptons, i: int, n: int, s: Scratch, d: Definitions
) -> tuple[float, float, float]:
    """Charged, gamma and neutral sums around a lepton, over its pT."""
    pt = np.float64(leptons.pt[i])
    charged, gamma, neutral = isolation.around(
        np.float64(leptons.eta[i]), np.float64(leptons.phi[i]), n, s, d
    )
    return charged / pt - (0.0 if d.leave_self_out else 1.0), gamma / pt, neutral / pt


@cached_njit()
def _best(
    event: int, leptons: Leptons, n: int, s: Scratch, d: Definitions
) -> tuple[int, tuple[float, float, float], bool]:
    """Position of the flavour's lepton (-1: none isolated), its isolations, and whether any is above the threshold."""
    best, best_iso, any_above = -1, (0.0, 0.0, 0.0), False
    for i in range(leptons.offsets[event], leptons.offsets[event + 1]):
        pt = np.float64(leptons.pt[i])
        if not pt > LEPTON_PT:
            continue
        any_above = True
        if best >= 0 and (not d.leading_in_flavour or pt <= leptons.pt[best]):
            continue
        iso = _isolation(leptons, i, n, s, d)
        if iso[0] + iso[1] + iso[2] < LEPTON_ISOLATION:
            best, best_iso = i, iso
    return best, best_iso, any_above
