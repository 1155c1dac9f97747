"""Particles -> where they reach the calorimeters, and the tracks with their measured momenta."""

from typing import NamedTuple

import numpy as np

from hepflow.simulate import card
from hepflow.simulate.particles import pt_eta_phi
from hepflow.system.compiled import cached_njit

ELECTRON, MUON = 11, 13
# GeV per (tesla mm): pT = 0.299792458e-3 B R for a unit charge
_GEV_PER_TESLA_MM = 0.299792458e-3


class Tracks(NamedTuple):
    """Tracks of one event; every field is (tracks,)."""

    particle: np.ndarray  # index among the event's particles
    pt: np.ndarray  # measured, GeV
    eta: np.ndarray  # direction at the vertex, as phi
    phi: np.ndarray
    energy: np.ndarray  # of the measured pT and the true mass
    resolution: np.ndarray  # sigma(pT) / pT


def log_normal(rng: np.random.Generator, mean: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Return (n,) log-normal numbers of these means and standard deviations; 0 for a mean of 0."""
    width2 = np.log1p((sigma / np.where(mean > 0, mean, 1.0)) ** 2)
    return mean * np.exp(np.sqrt(width2) * rng.standard_normal(len(mean)) - 0.5 * width2)


@cached_njit()
def _path_length(x: float, y: float, px: float, py: float, curvature: float) -> float:
    """Return the transverse path (mm) along a line or a circle to the tracker's wall, or inf.

    A particle turns around the centre of its circle, clockwise if the charge is positive; circle
    and wall meet at the angles ``towards`` +- ``half``.
    """
    radius = card.RADIUS
    pt = np.hypot(px, py)
    if curvature == 0.0:
        along = (x * px + y * py) / pt
        return -along + np.sqrt(max(along * along + radius * radius - x * x - y * y, 0.0))
    centre_x, centre_y = x + py / pt / curvature, y - px / pt / curvature
    turn = 1.0 / abs(curvature)
    distance = np.hypot(centre_x, centre_y)
    if distance + turn <= radius:
        return np.inf
    cosine = (radius**2 - distance**2 - turn**2) / (2 * distance * turn)
    half = np.arccos(min(max(cosine, -1.0), 1.0))
    towards = np.arctan2(centre_y, centre_x)
    start = np.arctan2(y - centre_y, x - centre_x)
    sense = 1.0 if curvature > 0 else -1.0
    first = (sense * (start - towards - half)) % (2 * np.pi)
    return min(first, (sense * (start - towards + half)) % (2 * np.pi)) * turn


@cached_njit()
def propagate(charge: np.ndarray, momentum: np.ndarray, vertex: np.ndarray) -> np.ndarray:
    """Return where particles, on helices or lines, leave the tracker: (n, 3) mm, on wall or end.

    NaN for particles born outside or without transverse momentum. Arguments as in `Particles`.
    """
    out = np.full((len(charge), 3), np.nan)
    for i in range(len(charge)):
        px, py, pz = momentum[i, 0], momentum[i, 1], momentum[i, 2]
        x, y, z = vertex[i]
        pt = np.hypot(px, py)
        if pt < 3e-5 or np.hypot(x, y) > card.RADIUS or abs(z) > card.HALF_LENGTH:
            continue
        curvature = charge[i] * card.FIELD_TESLA * _GEV_PER_TESLA_MM / pt
        path = _path_length(x, y, px, py, curvature)
        if pz != 0.0:
            path = min(path, ((card.HALF_LENGTH if pz > 0 else -card.HALF_LENGTH) - z) * pt / pz)
        if path == np.inf:  # an endless loop in the plane z = const
            continue
        if curvature == 0.0:
            out[i, 0], out[i, 1] = x + px / pt * path, y + py / pt * path
        else:
            phi = np.arctan2(py, px)
            out[i, 0] = x + (np.sin(phi) - np.sin(phi - curvature * path)) / curvature
            out[i, 1] = y - (np.cos(phi) - np.cos(phi - curvature * path)) / curvature
        out[i, 2] = z + pz / pt * path
    return out


def may_reach(momentum: np.ndarray, vertex: np.ndarray) -> np.ndarray:
    """Return which particles may leave a track or a deposit, wherever they collide; (n,) bool.

    On its way to the end of the tracker, none goes further from the beam than its transverse path
    is long, whatever the field.
    """
    _, eta, _ = pt_eta_phi(momentum)
    x, y, z = vertex.T
    length = card.HALF_LENGTH + card.BEAM_SPOT_LIMIT + np.abs(z)
    furthest = np.hypot(x, y) + length / np.maximum(np.abs(np.sinh(eta)), 1e-9)
    return furthest * np.sinh(card.ECAL.towers.eta[-1]) >= card.HALF_LENGTH


def find_tracks(
    rng: np.random.Generator,
    pdg: np.ndarray,
    charge: np.ndarray,
    momentum: np.ndarray,
    outer_eta: np.ndarray,
) -> Tracks:
    """Return the tracks of one event: found with the card's efficiency, their pT smeared.

    As in Delphes, both are looked up at the eta of the track's outer end, from `propagate`; NaN for
    a particle that leaves no track. The other arguments are as in `Particles`.
    """
    particle = np.flatnonzero((charge != 0) & np.isfinite(outer_eta))
    pt, eta, phi = pt_eta_phi(momentum[particle])
    energy, outer, kind = momentum[particle, 3], outer_eta[particle], np.abs(pdg[particle])
    efficiency = card.HADRON_TRACKING.at(pt, outer)
    resolution = card.HADRON_RESOLUTION.at(pt, outer)
    muon = np.flatnonzero(kind == MUON)
    efficiency[muon] = card.MUON_TRACKING.at(pt[muon], outer[muon])
    resolution[muon] = card.MUON_RESOLUTION.at(pt[muon], outer[muon])
    electron = np.flatnonzero(kind == ELECTRON)
    efficiency[electron] = card.ELECTRON_TRACKING.at(pt[electron], outer[electron])
    sigma = card.ELECTRON_RESOLUTION.sigma(energy[electron], outer[electron])
    resolution[electron] = sigma / energy[electron]
    resolution = np.minimum(resolution, 1.0)
    # Delphes' MomentumSmearing is log-normal, the EnergySmearing of electrons normal.
    measured = log_normal(rng, pt, resolution * pt)
    normal = rng.standard_normal(len(electron))
    measured[electron] = pt[electron] * (1.0 + resolution[electron] * normal)
    found = (rng.random(len(pt)) < efficiency) & (measured > 0.0)
    total = pt * np.cosh(eta)
    energy = np.sqrt(np.maximum(energy**2 - total**2, 0.0) + (total * measured / pt) ** 2)
    return Tracks(*(column[found] for column in (particle, measured, eta, phi, energy, resolution)))
