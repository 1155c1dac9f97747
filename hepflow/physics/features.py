"""Events -> the 14 high-level features of an event and the 19 of each of its particles: a pure function over chunks of events."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import awkward as ak
import numpy as np

from hepflow.physics import isolation
from hepflow.physics.columns import Columns, columns
from hepflow.physics.definitions import Definitions, named
from hepflow.physics.isolation import HADRON, PHOTON, TRACK, Scratch
from hepflow.physics.kinematics import momentum, transverse_mass_squared
from hepflow.physics.selection import (
    NOT_FINITE,
    PASSES,
    REASONS,
    Chosen,
    choose,
    gather,
    largest,
    mark_own_tracks,
)
from hepflow.schema import HLF, MAX_NEUTRALS, MAX_PHOTONS, MAX_TRACKS, PARTICLE, Feature
from hepflow.system.compiled import cached_njit

JET_PT = 30.0
"""GeV, strict, for HT and the numbers of jets and b-jets alike (the reference's convert)."""
JET_ETA = 2.6
"""Largest absolute pseudorapidity, strict."""
_N_HLF, _N_PARTICLE = len(HLF), len(PARTICLE)
_RADIX_BITS = 8
_RADIX = 1 << _RADIX_BITS
_VERTEX, _ISO, _KIND, _CHARGE = 7, 10, 13, 18  # first columns of groups of particle features


@dataclass(frozen=True)
class FeatureSet:
    """Features of the events of a chunk that pass, jagged, in the order of the chunk. A user's own physics returns one too."""

    hlf: np.ndarray
    """(kept, n_hlf) float32"""
    particles: np.ndarray
    """(particles of all kept events, n_particle_features) float32"""
    offsets: np.ndarray
    """(kept + 1) int64, from 0: the particles of event ``i`` are ``offsets[i]:offsets[i + 1]``"""
    index: np.ndarray
    """(kept) int64, positions in the chunk, increasing"""
    rejected: Mapping[str, int]
    """Reason -> number of events; together with the kept ones they are the chunk."""
    hlf_features: tuple[Feature, ...] = HLF
    particle_features: tuple[Feature, ...] = PARTICLE
    status: np.ndarray | None = None
    """(events of the chunk) int8, `hepflow.physics.selection.PASSES` or the key of a reason; None where a user's own does not tell"""


def compute(events: ak.Array, definitions: str | Definitions = "corrected") -> FeatureSet:
    """Select events and compute their features.

    Particles: the lepton, then by decreasing pT (ties: tracks, photons, neutral hadrons, each in file order) at most 450 tracks that are
    not the lepton's own, 150 photons and 200 neutral hadrons. A missing MissingET counts as 0 GeV at phi = 0.

    Parameters
    ----------
    events : (n,) records with the collections of `hepflow.schema.COLLECTIONS`, each a list of records
    definitions : ``corrected`` or ``reference``, or the choices one by one

    Returns
    -------
    FeatureSet
        With the features of `hepflow.schema.HLF` and `hepflow.schema.PARTICLE` (under ``reference`` MT is in GeV^2).
    """
    return compute_columns(columns(events), definitions)


compute_features = compute


def compute_columns(
    c: Columns, definitions: str | Definitions = "corrected", *, particles: bool = True
) -> FeatureSet:
    """`compute` for events that are flat arrays already: for a few events at a time, most of its time goes into making these.

    Without ``particles`` the same events have the same high-level features and no rows of particles, in a fraction of the time.
    """
    d = named(definitions)
    chosen = choose(c, d)
    index = np.flatnonzero(chosen.status == PASSES)
    listed = particles or not _within_bounds(c)
    counts = chosen.n_particles[index] if listed else np.zeros(len(index), np.int64)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    rows = np.empty((offsets[-1], _N_PARTICLE), np.float32)
    hlf = np.empty((len(index), _N_HLF), np.float32)
    finite = np.ones(len(index), np.bool_)
    if listed:
        _fill_particles(index, c, chosen, d, offsets, rows, finite)
    _fill_hlf(index, c, chosen, d, hlf)
    finite &= np.isfinite(hlf).all(axis=1)
    if not finite.all():
        chosen.status[index[~finite]] = NOT_FINITE
        rows = rows[np.repeat(finite, counts)]
        hlf, index, counts = hlf[finite], index[finite], counts[finite]
    if not particles:
        rows, counts = rows[:0], np.zeros(len(index), np.int64)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    statuses, numbers = np.unique(chosen.status[chosen.status != PASSES], return_counts=True)
    rejected = {
        REASONS[int(status)]: int(number) for status, number in zip(statuses, numbers, strict=True)
    }
    return FeatureSet(hlf, rows, offsets, index, rejected, hlf_features(d), status=chosen.status)


def _within_bounds(c: Columns) -> bool:
    """Whether no feature of a particle can overflow, so that none needs to be made to know it."""
    flat = (c.tracks, c.photons, c.hadrons, c.electrons, c.muons)
    sizes = [*(group.pt for group in flat), c.tracks.x, c.tracks.y, c.tracks.z]
    return all(_below(values, 1e15) for values in sizes) and all(
        _below(group.eta, 50.0) for group in flat
    )


def _below(values: np.ndarray, bound: float) -> bool:
    return bool(np.abs(values).max(initial=0.0) < bound)


def hlf_features(definitions: str | Definitions) -> tuple[Feature, ...]:
    """The high-level features with their units, which MT's definition decides."""
    unit = "GeV" if named(definitions).mt_is_mass else "GeV^2"
    return tuple(
        Feature(feature.name, unit) if feature.name == "MT" else feature for feature in HLF
    )


@cached_njit()
def _lepton(event: int, c: Columns, chosen: Chosen) -> tuple[float, float, float, float]:
    """pT, eta, phi and charge of the event's lepton."""
    leptons = c.electrons if chosen.is_electron[event] else c.muons
    i = chosen.source[event]
    return (
        np.float64(leptons.pt[i]),
        np.float64(leptons.eta[i]),
        np.float64(leptons.phi[i]),
        np.float64(leptons.charge[i]),
    )


@cached_njit()
def _rank(
    n: int, n_tracks: int, s: Scratch, mine: np.ndarray, cap_by_pt: bool, listed: np.ndarray
) -> int:
    """Fill ``listed`` with the candidates to list, by decreasing pT, ties in the order of the scratch; how many they are."""
    room = np.array([MAX_TRACKS, MAX_PHOTONS, MAX_NEUTRALS])
    kind = s.kind
    n_in = 0
    for j in range(n):
        if j < n_tracks and mine[j]:
            continue
        if not cap_by_pt:
            if room[kind[j]] == 0:
                continue
            room[kind[j]] -= 1
        listed[n_in] = j
        n_in += 1
    _sort_by_falling_pt(listed, n_in, s)
    if not cap_by_pt:
        return n_in
    n_listed = 0
    for k in range(n_in):
        j = listed[k]
        if room[kind[j]] > 0:
            room[kind[j]] -= 1
            listed[n_listed] = j
            n_listed += 1
    return n_listed


@cached_njit()
def _sort_by_falling_pt(listed: np.ndarray, n: int, s: Scratch) -> None:
    """Stable sort of the candidates in ``listed[:n]``: a radix sort by the bits of the 32-bit pT, which order as positive floats do.

    A comparison sort of keys of momentum and position took twice the time.
    """
    bits, other = s.bits, s.order
    digits = np.empty(_RADIX + 1, np.int64)
    for k in range(n):
        bits[listed[k]] = ~np.float32(s.pt[listed[k]]).view(np.uint32)
    for shift in range(0, 32, _RADIX_BITS):
        digits[:] = 0
        for k in range(n):
            digits[((bits[listed[k]] >> shift) & (_RADIX - 1)) + 1] += 1
        for digit in range(_RADIX):
            digits[digit + 1] += digits[digit]
        for k in range(n):
            digit = (bits[listed[k]] >> shift) & (_RADIX - 1)
            other[digits[digit]] = listed[k]
            digits[digit] += 1
        for k in range(n):
            listed[k] = other[k]


@cached_njit()
def _fill_particles(
    index: np.ndarray,
    c: Columns,
    chosen: Chosen,
    d: Definitions,
    offsets: np.ndarray,
    particles: np.ndarray,
    finite: np.ndarray,
) -> None:
    room = largest(c)
    s = isolation.scratch(room)
    mine = np.zeros(room, np.bool_)
    listed = np.empty(room, np.int64)
    track_charge = c.tracks.charge if d.charge_of_track else np.sign(c.tracks.pid)
    for k in range(len(index)):
        event = index[k]
        n_tracks, n_photons, n_hadrons = gather(event, c, s)
        n = n_tracks + n_photons + n_hadrons
        isolation.around_all(n, s, d.wrap_phi)
        pt, eta, phi, charge = _lepton(event, c, chosen)
        mark_own_tracks(n_tracks, eta, phi, s, mine)
        iso = chosen.isolation[event]
        kind = 3 if chosen.is_electron[event] else 4
        first = offsets[k]
        finite[k] = _write_row(particles, first, pt, eta, phi, iso[0], iso[1], iso[2], kind, charge)
        n_listed = _rank(n, n_tracks, s, mine, d.cap_by_pt, listed)
        finite[k] &= _write_candidates(particles, first + 1, listed[:n_listed], s, d.leave_self_out)
        finite[k] &= _write_track_fields(
            particles,
            first + 1,
            listed[:n_listed],
            s.kind,
            s.source,
            c.tracks.x,
            c.tracks.y,
            c.tracks.z,
            track_charge,
        )


@cached_njit()
def _write_candidates(
    particles: np.ndarray, first: int, listed: np.ndarray, s: Scratch, leave_self_out: bool
) -> bool:
    """The rows of the listed candidates, but for what tracks alone have; whether all are finite."""
    all_eta, all_phi, all_pt, all_kind, all_sums = s.eta, s.phi, s.pt, s.kind, s.sums
    good = True
    for rank in range(len(listed)):
        j = listed[rank]
        pt, kind = all_pt[j], all_kind[j]
        charged, gamma, neutral = all_sums[j, TRACK], all_sums[j, PHOTON], all_sums[j, HADRON]
        if leave_self_out:
            charged /= pt
        else:
            charged = (charged + (pt if kind == TRACK else 0.0)) / pt - 1.0
            gamma += pt if kind == PHOTON else 0.0
            neutral += pt if kind == HADRON else 0.0
        column = (
            0 if kind == TRACK else (2 if kind == PHOTON else 1)
        )  # isChHad, isNeuHad, isGamma stand in this order
        good &= _write_row(
            particles,
            first + rank,
            pt,
            all_eta[j],
            all_phi[j],
            charged,
            gamma / pt,
            neutral / pt,
            column,
            0.0,
        )
    return good


@cached_njit()
def _write_track_fields(
    particles: np.ndarray,
    first: int,
    listed: np.ndarray,
    kind: np.ndarray,
    source: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    z: np.ndarray,
    charge: np.ndarray,
) -> bool:
    """Vertex and charge of the listed tracks; whether all are finite."""
    good = True
    for rank in range(len(listed)):
        j = listed[rank]
        if kind[j] == TRACK:
            i, row = source[j], first + rank
            particles[row, _VERTEX], particles[row, _VERTEX + 1], particles[row, _VERTEX + 2] = (
                x[i],
                y[i],
                z[i],
            )
            particles[row, _CHARGE] = charge[i]
            good &= math.isfinite(x[i] + y[i] + z[i])
    return good


@cached_njit()
def _write_row(
    particles: np.ndarray,
    row: int,
    pt: float,
    eta: float,
    phi: float,
    charged: float,
    gamma: float,
    neutral: float,
    kind: int,
    charge: float,
) -> bool:
    """A particle's features, at the vertex (0, 0, 0); whether they are finite."""
    for column in range(_VERTEX, _N_PARTICLE):
        particles[row, column] = 0.0
    energy, px, py, pz = momentum(pt, eta, phi)
    particles[row, 0], particles[row, 1], particles[row, 2], particles[row, 3] = energy, px, py, pz
    particles[row, 4], particles[row, 5], particles[row, 6] = pt, eta, phi
    particles[row, _ISO], particles[row, _ISO + 1], particles[row, _ISO + 2] = (
        charged,
        gamma,
        neutral,
    )
    particles[row, _KIND + kind] = 1.0
    particles[row, _CHARGE] = charge
    return math.isfinite(particles[row, 0]) and math.isfinite(charged + gamma + neutral)


@cached_njit()
def _fill_hlf(
    index: np.ndarray, c: Columns, chosen: Chosen, d: Definitions, hlf: np.ndarray
) -> None:
    for k in range(len(index)):
        event = index[k]
        ht, n_jets, n_b_jets = 0.0, 0, 0
        for i in range(c.jets.offsets[event], c.jets.offsets[event + 1]):
            if c.jets.pt[i] > JET_PT and abs(np.float64(c.jets.eta[i])) < JET_ETA:
                ht += c.jets.pt[i]
                n_jets += 1
                n_b_jets += c.jets.btag[i] > 0
        met, met_phi = 0.0, 0.0
        if c.met.offsets[event + 1] > c.met.offsets[event]:
            met, met_phi = (
                np.float64(c.met.met[c.met.offsets[event]]),
                np.float64(c.met.phi[c.met.offsets[event]]),
            )
        pt, eta, phi, charge = _lepton(event, c, chosen)
        mt = transverse_mass_squared(pt, phi, met, met_phi)
        iso = chosen.isolation[event]
        row = hlf[k]
        row[0], row[1], row[2], row[3] = ht, met, met_phi, math.sqrt(mt) if d.mt_is_mass else mt
        row[4], row[5] = n_jets, n_b_jets
        row[6], row[7], row[8] = pt, eta, phi
        row[9], row[10], row[11] = iso[0], iso[1], iso[2]
        row[12], row[13] = charge, chosen.is_electron[event]
