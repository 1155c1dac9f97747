"""Energy deposits and tracks -> towers, and the energy flow: the energy without a track.

A compartment (ECAL or HCAL) sums the energy of the particles per tower, smears it and applies the
thresholds, and compares it with the tracks that point to the tower. A significant excess becomes a
neutral particle of that tower. Without one, energy and tracks measure the same, and their weighted
average rescales the tracks. This is Delphes' ``Calorimeter`` module, per event in NumPy.
"""

from typing import NamedTuple

import numpy as np

from hepflow.simulate.card import Calorimeter, Towers
from hepflow.simulate.tracking import log_normal


class EnergyFlow(NamedTuple):
    """Neutral excesses, each in a tower, by rising eta, and the scale of the tracks' momenta."""

    et: np.ndarray  # (excesses,) GeV, as eta and phi
    eta: np.ndarray
    phi: np.ndarray
    scale: np.ndarray  # (tracks,)


def tower_index(towers: Towers, eta: np.ndarray, phi: np.ndarray) -> np.ndarray:
    """Return the towers at (n,) eta and phi in [-pi, pi], by rising eta; -1 outside."""
    row = np.searchsorted(towers.eta, eta) - 1  # upper edges belong to a tower
    inside = (row >= 0) & (row < len(towers.n_phi))  # NaN sorts last
    row = np.where(inside, row, 0)
    n_phi = towers.n_phi[row]
    turns = (np.where(inside, phi, 0.0) + np.pi) * n_phi / (2 * np.pi)
    column = np.ceil(turns).astype(np.int64) - 1
    return np.where(inside, towers.first[row] + np.clip(column, 0, n_phi - 1), -1)


def share(calorimeter: Calorimeter, pdg: np.ndarray) -> np.ndarray:
    """Return the fractions of their energy that (n,) particles leave in the compartment."""
    species = calorimeter.species
    i = np.minimum(np.searchsorted(species, np.abs(pdg)), len(species) - 1)
    known = species[i] == np.abs(pdg)
    return np.where(known, calorimeter.shares[i], calorimeter.default_share)


def measure(
    rng: np.random.Generator,
    calorimeter: Calorimeter,
    hits: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    tracks: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray],
) -> EnergyFlow:
    """Return one compartment's energy flow in one event.

    ``hits`` are pdg, energy (GeV), eta and phi of (particles,) at the calorimeter, NaN for one that
    does not reach it; ``tracks`` are pdg, energy, resolution, eta and phi of (tracks,) likewise.
    """
    towers, sigma_of = calorimeter.towers, calorimeter.resolution.sigma

    # Towers with a deposit or a track, numbered 0, 1, ... as cells
    pdg, energy, eta, phi = hits
    left = share(calorimeter, pdg) * energy
    tower = np.where(left > 0, tower_index(towers, eta, phi), -1)
    track_pdg, track_energy, resolution, track_eta, track_phi = tracks
    track_share = share(calorimeter, track_pdg)
    track_tower = np.where(track_share > 0, tower_index(towers, track_eta, track_phi), -1)
    hit, tracked = np.flatnonzero(tower >= 0), np.flatnonzero(track_tower >= 0)
    cells, cell = np.unique(np.concatenate([tower[hit], track_tower[tracked]]), return_inverse=True)
    row = np.searchsorted(towers.first, cells, "right") - 1
    low, high = towers.eta[row], towers.eta[row + 1]
    centre, width_phi = 0.5 * (low + high), 2 * np.pi / towers.n_phi[row]

    # Measured energy: smeared, and 0 below the thresholds
    deposit = np.bincount(cell[: len(hit)], left[hit], len(cells))
    measured = log_normal(rng, deposit, sigma_of(deposit, centre))
    sigma = sigma_of(measured, centre)
    noise = np.maximum(calorimeter.min_energy, calorimeter.min_significance * sigma)
    measured = np.where(measured >= noise, measured, 0.0)

    # Energy of the tracks per cell. Delphes takes a track's whole energy for the variance if the
    # track is measured better than the compartment could, otherwise its share.
    cell = cell[len(hit) :]
    charged = np.bincount(cell, (track_share * track_energy)[tracked], len(cells))
    calorimeter_sigma = sigma_of(track_energy[tracked], centre[cell])
    better = calorimeter_sigma >= (resolution * track_energy)[tracked]
    counted = np.where(better, 1.0, track_share[tracked]) * track_energy[tracked]
    variance = np.bincount(cell, (resolution[tracked] * counted) ** 2, len(cells))

    # Neutral particles, anywhere in their tower (SmearTowerCenter is on)
    excess = measured - charged
    least = calorimeter.min_significance * np.sqrt(variance + sigma**2)
    neutral = excess > np.maximum(calorimeter.min_energy, least)
    u, v = rng.random((2, len(cells)))
    eta = low + u * (high - low)
    phi = -np.pi + width_phi * (cells - towers.first[row]) + v * width_phi

    # Tracks without a neutral: weighted average of both measurements
    averaged = ~neutral & (charged > 0) & (variance > 0) & (sigma > 0)
    by_tracks = 1.0 / np.where(averaged, variance, 1.0)
    by_tower = 1.0 / np.where(averaged, sigma**2, 1.0)
    best = (by_tracks * charged + by_tower * measured) / (by_tracks + by_tower)
    scale = np.ones(len(track_energy))
    scale[tracked] = np.where(averaged, best / np.where(averaged, charged, 1.0), 1.0)[cell]
    return EnergyFlow((excess / np.cosh(eta))[neutral], eta[neutral], phi[neutral], scale)
