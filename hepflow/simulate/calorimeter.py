"""Energy deposits and tracks -> calorimeter towers, and from both the energy flow: what of a tower no track accounts for."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from hepflow.simulate import card
from hepflow.simulate.card import Resolution, Towers
from hepflow.simulate.tracking import energy_sigma, log_normal


class Calorimeter(NamedTuple):
    """One compartment: its towers, resolution, thresholds (GeV, and in units of the resolution) and the share of a particle it takes."""

    towers: Towers
    resolution: Resolution
    min_energy: float
    min_significance: float
    species: np.ndarray
    shares: np.ndarray
    default_share: float


class EnergyFlow(NamedTuple):
    """Neutral excesses, each in a tower, and what the compartment did to the tracks.

    ``et`` (GeV), ``eta`` and ``phi`` are (excesses,), from -eta to +eta. ``scale`` (tracks,) multiplies the measured momenta: where a
    tower shows no significant excess, its energy and the tracks' are averaged by their resolutions.
    """

    et: np.ndarray
    eta: np.ndarray
    phi: np.ndarray
    scale: np.ndarray


def _calorimeter(
    towers: Towers,
    resolution: Resolution,
    min_energy: float,
    shares: Mapping[int, float],
    default_share: float,
) -> Calorimeter:
    species = np.array(sorted(shares))
    values = np.array([shares[kind] for kind in sorted(shares)])
    return Calorimeter(
        towers, resolution, min_energy, card.MIN_SIGNIFICANCE, species, values, default_share
    )


ECAL = _calorimeter(
    card.ECAL_TOWERS,
    card.ECAL_RESOLUTION,
    card.ECAL_MIN_ENERGY,
    card.ECAL_FRACTION,
    card.ECAL_DEFAULT,
)
HCAL = _calorimeter(
    card.HCAL_TOWERS,
    card.HCAL_RESOLUTION,
    card.HCAL_MIN_ENERGY,
    card.HCAL_FRACTION,
    card.HCAL_DEFAULT,
)


def tower_index(towers: Towers, eta: np.ndarray, phi: np.ndarray) -> np.ndarray:
    """Numbers of the towers at (n,) eta and phi in [-pi, pi], -1 outside; upper edges belong to a tower, and numbers grow with eta."""
    row = np.searchsorted(towers.eta, eta) - 1
    inside = (row >= 0) & (row < len(towers.n_phi))  # NaN sorts last
    row = np.where(inside, row, 0)
    n_phi = towers.n_phi[row]
    column = (
        np.ceil((np.where(inside, phi, 0.0) + np.pi) * n_phi / (2 * np.pi)).astype(np.int64) - 1
    )
    return np.where(inside, towers.first[row] + np.clip(column, 0, n_phi - 1), -1)


def share(calorimeter: Calorimeter, pdg: np.ndarray) -> np.ndarray:
    """The shares of their energy that (n,) particles leave in the compartment."""
    place = np.searchsorted(calorimeter.species, np.abs(pdg))
    place = np.minimum(place, len(calorimeter.species) - 1)
    return np.where(
        calorimeter.species[place] == np.abs(pdg),
        calorimeter.shares[place],
        calorimeter.default_share,
    )


def measure(
    rng: np.random.Generator,
    calorimeter: Calorimeter,
    hits: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    tracks: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray],
) -> EnergyFlow:
    """One compartment's energy flow in one event.

    Parameters
    ----------
    rng : Generator
    calorimeter : Calorimeter
    hits : pdg, energy (GeV), eta, phi, each (particles,)
        Position at the calorimeter; NaN where a particle does not get there.
    tracks : pdg, energy (GeV), resolution, eta, phi, each (tracks,)
        Likewise.
    """
    pdg, energy, eta, phi = hits
    left = share(calorimeter, pdg) * energy
    tower = np.where(left > 0, tower_index(calorimeter.towers, eta, phi), -1)
    track_pdg, track_energy, resolution, track_eta, track_phi = tracks
    track_share = share(calorimeter, track_pdg)
    track_tower = np.where(
        track_share > 0, tower_index(calorimeter.towers, track_eta, track_phi), -1
    )
    hit, tracked = np.flatnonzero(tower >= 0), np.flatnonzero(track_tower >= 0)
    cells, cell = np.unique(np.concatenate([tower[hit], track_tower[tracked]]), return_inverse=True)
    deposit = np.bincount(cell[: len(hit)], left[hit], len(cells))
    geometry = _Cells.of(calorimeter.towers, cells)
    measured, sigma = _smear(rng, calorimeter, deposit, geometry.centre)
    cell = cell[len(hit) :]
    charged = np.bincount(cell, (track_share * track_energy)[tracked], len(cells))
    # Delphes counts the whole energy where the track is measured better than the compartment could
    better = (
        energy_sigma(calorimeter.resolution, track_energy[tracked], geometry.centre[cell])
        >= (resolution * track_energy)[tracked]
    )
    counted = np.where(better, 1.0, track_share[tracked]) * track_energy[tracked]
    variance = np.bincount(cell, (resolution[tracked] * counted) ** 2, len(cells))
    excess = measured - charged
    neutral = (excess > calorimeter.min_energy) & (
        excess > calorimeter.min_significance * np.sqrt(variance + sigma**2)
    )
    eta, phi = geometry.random_place(rng)
    scale = np.ones(len(track_energy))
    scale[tracked] = np.where(neutral, 1.0, _average(charged, variance, measured, sigma))[cell]
    return EnergyFlow((excess / np.cosh(eta))[neutral], eta[neutral], phi[neutral], scale)


class _Cells(NamedTuple):
    """Edges of the towers hit, each (cells,)."""

    low_eta: np.ndarray
    high_eta: np.ndarray
    low_phi: np.ndarray
    width_phi: np.ndarray

    @classmethod
    def of(cls, towers: Towers, cells: np.ndarray) -> "_Cells":
        row = np.searchsorted(towers.first, cells, "right") - 1
        width = 2 * np.pi / towers.n_phi[row]
        return cls(
            towers.eta[row],
            towers.eta[row + 1],
            -np.pi + width * (cells - towers.first[row]),
            width,
        )

    @property
    def centre(self) -> np.ndarray:
        return 0.5 * (self.low_eta + self.high_eta)

    def random_place(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Eta and phi somewhere within: SmearTowerCenter is on."""
        u, v = rng.random((2, len(self.low_eta)))
        return self.low_eta + u * (self.high_eta - self.low_eta), self.low_phi + v * self.width_phi


def _smear(
    rng: np.random.Generator, calorimeter: Calorimeter, deposit: np.ndarray, eta: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Measured energies of towers, zero below the thresholds, and their resolutions; GeV."""
    energy = log_normal(rng, deposit, energy_sigma(calorimeter.resolution, deposit, eta))
    sigma = energy_sigma(calorimeter.resolution, energy, eta)
    seen = (energy >= calorimeter.min_energy) & (energy >= calorimeter.min_significance * sigma)
    return np.where(seen, energy, 0.0), sigma


def _average(
    charged: np.ndarray, variance: np.ndarray, measured: np.ndarray, sigma: np.ndarray
) -> np.ndarray:
    """What the tracks' energy is multiplied by to become its weighted average with the tower's; 1 without tracks."""
    has_tracks = (charged > 0) & (variance > 0) & (sigma > 0)
    weight_track = 1.0 / np.where(has_tracks, variance, 1.0)
    weight_tower = 1.0 / np.where(has_tracks, sigma**2, 1.0)
    best = (weight_track * charged + weight_tower * measured) / (weight_track + weight_tower)
    return np.where(has_tracks, best / np.where(has_tracks, charged, 1.0), 1.0)
