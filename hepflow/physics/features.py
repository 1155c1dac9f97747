"""Events -> 14 high-level features per event and 19 per particle: a pure function of a chunk."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import awkward as ak
import numpy as np

from hepflow.physics.columns import Columns, columns
from hepflow.physics.definitions import Definitions, named
from hepflow.physics.isolation import HADRON, PHOTON, TRACK, Scratch, around_all, is_own, scratch
from hepflow.physics.kinematics import Three, momentum, transverse_mass_squared
from hepflow.physics.selection import NOT_FINITE, PASSES, REASONS, Lepton, choose, gather, largest
from hepflow.schema import HLF, MAX_NEUTRALS, MAX_PHOTONS, MAX_TRACKS, PARTICLE, Feature
from hepflow.system.compiled import cached_njit

JET_PT = 30.0
"""GeV, strict, for HT and the numbers of jets and b-jets alike (the reference's convert)."""
JET_ETA = 2.6
"""Largest absolute pseudorapidity, strict."""
_N_HLF, _N_PARTICLE = len(HLF), len(PARTICLE)
_NAMES = [feature.name for feature in PARTICLE]
_VERTEX, _ISOLATION, _CHARGE = (_NAMES.index(name) for name in ("vtxX", "ChPFIso", "Charge"))
# Columns by kind: TRACK, PHOTON, HADRON, electron, muon
_FLAGS = tuple(map(_NAMES.index, ("isChHad", "isGamma", "isNeuHad", "isEle", "isMu")))
_RADIX_BITS = 8
_RADIX = 1 << _RADIX_BITS


@dataclass(frozen=True)
class FeatureSet:
    """Features of the events that pass, jagged, in order; a user's own physics returns one too."""

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
    """(events of the chunk) int8, `hepflow.physics.selection.PASSES` or the key of a reason;
    optional for a user's own physics"""


def compute_features(events: ak.Array, definitions: str | Definitions = "corrected") -> FeatureSet:
    """Select events and compute their features.

    Particles: the lepton, then by decreasing pT (ties: tracks, photons, neutral hadrons, each in
    file order) at most 450 tracks that are not the lepton's own, 150 photons and 200 neutral
    hadrons. A missing MissingET counts as 0 GeV at phi = 0.

    Parameters
    ----------
    events : (n,) records with the collections of `hepflow.schema.COLLECTIONS`, lists of records
    definitions : ``corrected`` or ``reference`` (where MT is in GeV^2), or the single choices
    """
    return compute_columns(columns(events), definitions)


def compute_columns(
    c: Columns, definitions: str | Definitions = "corrected", *, particles: bool = True
) -> FeatureSet:
    """Do the same for flat arrays, which take most of the time if the events are few.

    Without ``particles`` the same events have the same high-level features and no rows of
    particles, in a fraction of the time.
    """
    d = named(definitions)
    n_events = len(c.tracks.offsets) - 1
    most = np.ones(n_events, np.int64)  # particles per event: the lepton, candidates up to the caps
    caps = ((c.tracks, MAX_TRACKS), (c.photons, MAX_PHOTONS), (c.hadrons, MAX_NEUTRALS))
    for group, cap in caps:
        most += np.minimum(np.diff(group.offsets), cap)
    listed = particles or not _within_bounds(c)
    # More rows than needed are reserved: pages of memory that are never written take no room.
    room = most.sum() if particles else most.max(initial=0) if listed else 0
    rows = np.empty((room, _N_PARTICLE), np.float32)
    hlf = np.empty((n_events, _N_HLF), np.float32)
    index = np.empty(n_events, np.int64)
    offsets = np.zeros(n_events + 1, np.int64)
    status = np.empty(n_events, np.int8)
    n = _fill(c, d, listed, particles, status, index, hlf, offsets, rows)
    rejected = {REASONS[key]: int(np.sum(status == key)) for key in REASONS if key in status}
    kept = (hlf[:n], rows[: offsets[n]], offsets[: n + 1], index[:n])
    return FeatureSet(*kept, rejected, hlf_features(d), status=status)


def hlf_features(definitions: str | Definitions) -> tuple[Feature, ...]:
    """Return the high-level features with their units, which MT's definition decides."""
    unit = "GeV" if named(definitions).mt_is_mass else "GeV^2"
    return tuple(Feature(f.name, unit) if f.name == "MT" else f for f in HLF)


def _within_bounds(c: Columns) -> bool:
    """Return whether no feature of a particle can overflow, so that none must be computed."""
    flat = (c.tracks, c.photons, c.hadrons, c.electrons, c.muons)
    sizes = [*(group.pt for group in flat), c.tracks.x, c.tracks.y, c.tracks.z]
    bounds = [(values, 1e15) for values in sizes] + [(group.eta, 50.0) for group in flat]
    return all(np.abs(values).max(initial=0.0) < bound for values, bound in bounds)


@cached_njit()
def _fill(
    c: Columns,
    d: Definitions,
    listed: bool,
    kept: bool,
    status: np.ndarray,
    index: np.ndarray,
    hlf: np.ndarray,
    offsets: np.ndarray,
    rows: np.ndarray,
) -> int:
    """Fill the arrays, and return how many events pass.

    Rows of particles are computed if ``listed``, as one that is not finite rejects its event;
    unless ``kept``, each event overwrites those of the last one.
    """
    s = scratch(largest(c))
    n_events = np.int64(0)
    for event in range(len(status)):
        counts = gather(event, c, s)
        lepton = choose(event, counts, c, s, d)
        status[event] = lepton.status
        if lepton.status != PASSES:
            continue
        finite = _write_hlf(hlf, n_events, event, lepton, c, d)
        end = offsets[n_events]
        if listed:
            end, finite_rows = _write_particles(rows, end, sum(counts), lepton, c, s, d)
            finite &= finite_rows
        if not finite:
            status[event] = NOT_FINITE
            continue
        index[n_events] = event
        n_events += 1
        offsets[n_events] = end if kept else 0
    return int(n_events)


@cached_njit()
def _write_hlf(
    hlf: np.ndarray, k: int, event: int, lepton: Lepton, c: Columns, d: Definitions
) -> bool:
    """Write the high-level features of an event; return whether they are finite."""
    ht, n_jets, n_b_jets = 0.0, 0, 0
    for i in range(c.jets.offsets[event], c.jets.offsets[event + 1]):
        if c.jets.pt[i] > JET_PT and abs(np.float64(c.jets.eta[i])) < JET_ETA:
            ht += c.jets.pt[i]
            n_jets += 1
            n_b_jets += c.jets.btag[i] > 0
    met, met_phi = 0.0, 0.0
    i = c.met.offsets[event]
    if c.met.offsets[event + 1] > i:
        met, met_phi = np.float64(c.met.met[i]), np.float64(c.met.phi[i])
    mt = transverse_mass_squared(lepton.pt, lepton.phi, met, met_phi)
    row = hlf[k]
    row[0], row[1], row[2], row[3] = ht, met, met_phi, math.sqrt(mt) if d.mt_is_mass else mt
    row[4], row[5] = n_jets, n_b_jets
    row[6], row[7], row[8] = lepton.pt, lepton.eta, lepton.phi
    row[9], row[10], row[11] = lepton.isolation
    row[12], row[13] = lepton.charge, lepton.is_electron
    finite = True
    for value in row:
        finite &= math.isfinite(value)
    return finite


@cached_njit()
def _write_particles(
    rows: np.ndarray, k: int, n: int, lepton: Lepton, c: Columns, s: Scratch, d: Definitions
) -> tuple[int, bool]:
    """Write the lepton and the ranked candidates; return the next row, and if all are finite."""
    around_all(n, s, d.wrap_phi)
    place, flag = (lepton.pt, lepton.eta, lepton.phi), _FLAGS[3 if lepton.is_electron else 4]
    origin = (np.float32(0.0), np.float32(0.0), np.float32(0.0))
    finite = _write_row(rows, k, place, origin, lepton.isolation, flag, lepton.charge)
    all_eta, all_phi, all_pt, all_kind, all_sums = s.eta, s.phi, s.pt, s.kind, s.sums
    x, y, z = c.tracks.x, c.tracks.y, c.tracks.z
    for j in s.ranked[: _rank(n, lepton, s, d.cap_by_pt)]:
        k += 1
        pt, kind, i = np.float64(all_pt[j]), all_kind[j], s.source[j]
        charged, gamma, neutral = all_sums[j, TRACK], all_sums[j, PHOTON], all_sums[j, HADRON]
        if d.leave_self_out:
            charged /= pt
        else:  # the reference counts the candidate itself, and takes 1 off every charged sum
            charged = (charged + (pt if kind == TRACK else 0.0)) / pt - 1.0
            gamma += pt if kind == PHOTON else 0.0
            neutral += pt if kind == HADRON else 0.0
        vertex, charge = origin, 0.0
        if kind == TRACK:
            vertex = (x[i], y[i], z[i])
            charge = 1.0 * (c.tracks.charge[i] if d.charge_of_track else np.sign(c.tracks.pid[i]))
        place, relative = (pt, all_eta[j], all_phi[j]), (charged, gamma / pt, neutral / pt)
        finite &= _write_row(rows, k, place, vertex, relative, _FLAGS[kind], charge)
    return k + 1, finite


@cached_njit()
def _write_row(
    rows: np.ndarray, k: int, at: Three, vertex: Three, isolation: Three, flag: int, charge: float
) -> bool:
    """Write a particle ``at`` (pT, eta, phi); return whether its features are finite."""
    rows[k, 0], rows[k, 1], rows[k, 2], rows[k, 3] = momentum(at[0], at[1], at[2])
    rows[k, 4], rows[k, 5], rows[k, 6] = at
    for axis in range(3):
        rows[k, _VERTEX + axis] = vertex[axis]
        rows[k, _ISOLATION + axis] = isolation[axis]
    for column in _FLAGS:
        rows[k, column] = 0.0
    rows[k, flag] = 1.0
    rows[k, _CHARGE] = charge
    return (
        math.isfinite(rows[k, 0])
        and math.isfinite(isolation[0] + isolation[1] + isolation[2])
        and math.isfinite(vertex[0] + vertex[1] + vertex[2])
    )


@cached_njit()
def _rank(n: int, lepton: Lepton, s: Scratch, cap_by_pt: bool) -> int:
    """Fill ``s.ranked`` with the candidates to list, by decreasing pT, and return how many.

    The lepton's own tracks are left out. The reference caps before it sorts, in file order.
    """
    n_ranked, ranked, kind, eta, phi = 0, s.ranked, s.kind, s.eta, s.phi
    for j in range(n):
        if not is_own(lepton.eta, lepton.phi, kind[j], eta[j], phi[j]):
            ranked[n_ranked] = j
            n_ranked += 1
    if cap_by_pt:
        _sort_by_falling_pt(n_ranked, s)
        return _capped(n_ranked, s)
    n_ranked = _capped(n_ranked, s)
    _sort_by_falling_pt(n_ranked, s)
    return n_ranked


@cached_njit()
def _capped(n: int, s: Scratch) -> int:
    """Keep the first candidates of each kind in ``s.ranked``, and return how many."""
    room = np.array([MAX_TRACKS, MAX_PHOTONS, MAX_NEUTRALS])
    n_kept = 0
    for k in range(n):
        j = s.ranked[k]
        if room[s.kind[j]] > 0:
            room[s.kind[j]] -= 1
            s.ranked[n_kept] = j
            n_kept += 1
    return n_kept


@cached_njit()
def _sort_by_falling_pt(n: int, s: Scratch) -> None:
    """Sort ``s.ranked[:n]`` by falling pT, stably: a radix sort by the bits of the 32-bit pT.

    The bits of positive floats have the order of the floats. A comparison sort of keys of pT and
    position took twice the time.
    """
    ranked, other, bits = s.ranked, s.order, s.pt.view(np.uint32)
    ends = np.empty(_RADIX + 1, np.int64)
    for shift in range(0, 32, _RADIX_BITS):  # from the lowest digit to the highest
        for digit in range(_RADIX + 1):
            ends[digit] = 0
        for k in range(n):
            ends[((~bits[ranked[k]] >> shift) & (_RADIX - 1)) + 1] += 1
        for digit in range(_RADIX):
            ends[digit + 1] += ends[digit]
        for k in range(n):
            digit = (~bits[ranked[k]] >> shift) & (_RADIX - 1)
            other[ends[digit]] = ranked[k]
            ends[digit] += 1
        for k in range(n):
            ranked[k] = other[k]
