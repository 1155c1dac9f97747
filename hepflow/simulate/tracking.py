"""Particles -> where they reach the calorimeters, and the tracks that the tracker finds with their measured momenta."""

from typing import NamedTuple

import numpy as np

from hepflow.simulate import card
from hepflow.simulate.card import Resolution, Table
from hepflow.simulate.particles import pt_eta_phi
from hepflow.system.compiled import cached_njit

ELECTRON, MUON = 11, 13
# GeV per (tesla mm): pT = 0.299792458e-3 B R for a unit charge
_GEV_PER_TESLA_MM = 0.299792458e-3


class Tracks(NamedTuple):
    """Tracks of one event; every field is (tracks,).

    ``particle`` is the index among the event's particles, ``pt`` is measured (GeV), ``eta`` and ``phi`` are the momentum's at the vertex,
    ``energy`` goes with the measured pT and the true mass, ``resolution`` is sigma(pT) / pT.
    """

    particle: np.ndarray
    pt: np.ndarray
    eta: np.ndarray
    phi: np.ndarray
    energy: np.ndarray
    resolution: np.ndarray


def evaluate(lookup: Table, pt: np.ndarray, eta: np.ndarray) -> np.ndarray:
    """Values of a card table at (n,) pT (GeV) and eta."""
    row = np.searchsorted(lookup.eta, np.abs(eta))
    inside = row < len(lookup.eta)
    row = np.minimum(row, len(lookup.eta) - 1)
    column = np.minimum(np.sum(pt[:, None] > lookup.pt[row], axis=1), lookup.pt.shape[1] - 1)
    return np.where(inside, lookup.const[row, column] + lookup.slope[row, column] * pt, 0.0)


def energy_sigma(resolution: Resolution, energy: np.ndarray, eta: np.ndarray) -> np.ndarray:
    """Energy resolution of a calorimeter, in GeV, at (n,) energies (GeV) and eta; zero beyond its reach."""
    row = np.searchsorted(resolution.eta, np.abs(eta))
    inside = row < len(resolution.eta)
    row = np.minimum(row, len(resolution.eta) - 1)
    variance = (
        (resolution.constant[row] * energy) ** 2
        + resolution.stochastic[row] ** 2 * energy
        + resolution.noise[row] ** 2
    )
    return np.where(inside, (1.0 + resolution.curve[row] * eta * eta) * np.sqrt(variance), 0.0)


def log_normal(rng: np.random.Generator, mean: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """(n,) log-normal numbers of these means and standard deviations; zero where the mean is."""
    width2 = np.log1p((sigma / np.where(mean > 0, mean, 1.0)) ** 2)
    return mean * np.exp(np.sqrt(width2) * rng.standard_normal(len(mean)) - 0.5 * width2)


@cached_njit()
def _path_length(
    x: float, y: float, px: float, py: float, curvature: float, radius: float
) -> float:
    """Transverse path (mm) to the cylinder of this radius along a line or a circle; infinite for a loop that never gets there."""
    pt = np.hypot(px, py)
    if curvature == 0.0:
        along = (x * px + y * py) / pt
        return -along + np.sqrt(max(along * along + radius * radius - x * x - y * y, 0.0))
    centre_x, centre_y = x + py / pt / curvature, y - px / pt / curvature
    turn = 1.0 / abs(curvature)
    distance = np.hypot(centre_x, centre_y)
    if distance + turn <= radius:
        return np.inf
    # the circle and the cylinder meet where the angle around the centre is its direction +- half
    half = np.arccos(
        min(max((radius**2 - distance**2 - turn**2) / (2 * distance * turn), -1.0), 1.0)
    )
    towards = np.arctan2(centre_y, centre_x)
    start = np.arctan2(y - centre_y, x - centre_x)
    sense = 1.0 if curvature > 0 else -1.0
    angle = min(
        (sense * (start - towards - half)) % (2 * np.pi),
        (sense * (start - towards + half)) % (2 * np.pi),
    )
    return angle * turn


@cached_njit()
def propagate(
    charge: np.ndarray,
    momentum: np.ndarray,
    vertex: np.ndarray,
    field: float,
    radius: float,
    half_length: float,
) -> np.ndarray:
    """Where particles leave the tracker: helices in a field along z, from the vertex to the cylinder's wall or end.

    Parameters
    ----------
    charge : (n,) int8, e
    momentum : (n, 4), GeV
    vertex : (n, 3), mm
    field, radius, half_length : float
        Tesla, mm, mm.

    Returns
    -------
    (n, 3) float64, mm
        NaN for particles born outside the cylinder or without transverse momentum.
    """
    out = np.full((len(charge), 3), np.nan)
    for i in range(len(charge)):
        px, py, pz = momentum[i, 0], momentum[i, 1], momentum[i, 2]
        x, y, z = vertex[i, 0], vertex[i, 1], vertex[i, 2]
        pt = np.hypot(px, py)
        if pt < 3e-5 or np.hypot(x, y) > radius or abs(z) > half_length:
            continue
        curvature = charge[i] * field * _GEV_PER_TESLA_MM / pt
        side = _path_length(x, y, px, py, curvature, radius)
        end = np.inf if pz == 0.0 else ((half_length if pz > 0 else -half_length) - z) * pt / pz
        path = min(side, end)
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


def find_tracks(
    rng: np.random.Generator,
    pdg: np.ndarray,
    charge: np.ndarray,
    momentum: np.ndarray,
    outer_eta: np.ndarray,
) -> Tracks:
    """Tracks of one event: charged particles kept with the tracking efficiency, their pT smeared.

    As in Delphes, efficiency and resolution are looked up at the eta of the outer end; a NaN there means that there is none.

    Parameters
    ----------
    rng : Generator
    pdg, charge : (n,)
    momentum : (n, 4), GeV
    outer_eta : (n,), see ``propagate``
    """
    particle = np.flatnonzero((charge != 0) & np.isfinite(outer_eta))
    pt, eta, phi = pt_eta_phi(momentum[particle])
    energy, outer = momentum[particle, 3], outer_eta[particle]
    kind = np.abs(pdg[particle])
    efficiency, resolution = (
        evaluate(card.HADRON_TRACKING, pt, outer),
        evaluate(card.HADRON_RESOLUTION, pt, outer),
    )
    electron, muon = np.flatnonzero(kind == ELECTRON), np.flatnonzero(kind == MUON)
    efficiency[electron] = evaluate(card.ELECTRON_TRACKING, pt[electron], outer[electron])
    resolution[electron] = (
        energy_sigma(card.ELECTRON_RESOLUTION, energy[electron], outer[electron]) / energy[electron]
    )
    efficiency[muon] = evaluate(card.MUON_TRACKING, pt[muon], outer[muon])
    resolution[muon] = evaluate(card.MUON_RESOLUTION, pt[muon], outer[muon])
    resolution = np.minimum(resolution, 1.0)
    measured = log_normal(rng, pt, resolution * pt)
    # EnergySmearing is normal, MomentumSmearing log-normal
    measured[electron] = pt[electron] * (
        1.0 + resolution[electron] * rng.standard_normal(len(electron))
    )
    found = (rng.random(len(pt)) < efficiency) & (measured > 0.0)
    total = pt * np.cosh(eta)
    energy = np.sqrt(np.maximum(energy**2 - total**2, 0.0) + (total * measured / pt) ** 2)
    return Tracks(*(column[found] for column in (particle, measured, eta, phi, energy, resolution)))
