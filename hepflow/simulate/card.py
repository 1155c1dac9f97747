"""The detector: numbers of Delphes' CMS Phase-II card; the tables are in ``card.yaml``.

The module of the card is named above each number. Lengths are in mm, momenta and energies in GeV.
The mean pile-up is the config's (20), the card's is 200. Other differences are listed in
``docs/physics.md``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

# PileUpMerger: z of the vertices, Gaussian; in the card of 2016, flat within +- FLAT_BEAM_SPOT
BEAM_SPOT_SIGMA, BEAM_SPOT_LIMIT = 53.0, 250.0
FLAT_BEAM_SPOT = 150.0
# TrackPileUpSubtractor.ZVertexResolution: tracks of pile-up this close to the vertex seem its own
VERTEX_RESOLUTION = 0.1
# ParticlePropagator
RADIUS = 1290.0
HALF_LENGTH = 3000.0
FIELD_TESLA = 3.8
# PhotonEnergySmearing: of the photons in jets and missing ET, not of the collection EFlowPhoton
PHOTON_RESOLUTION = 0.01
# RunPUPPIBase: cone, MinPuppiWeight, and the share of vertices that it takes as found
PUPPI_CONE = 0.2
PUPPI_MIN_WEIGHT = 0.05
PUPPI_VERTEX_EFFICIENCY = 0.7
# FastJetFinder, JetFlavorAssociation
JET_RADIUS = 0.4
JET_MIN_PT = 15.0
FLAVOUR_CONE = 0.5
FLAVOUR_MIN_PT = 10.0
FLAVOUR_MAX_ETA = 4.0


class BinnedTable(NamedTuple):
    """A quantity in bins of |eta| and pT, linear in pT within a bin; 0 beyond the last |eta|."""

    eta: np.ndarray  # (E,) upper edges, which belong to their bin, as those of pT
    pt: np.ndarray  # (E, P), as the others
    const: np.ndarray
    slope: np.ndarray

    @classmethod
    def of(cls, rows: Mapping[float, Sequence[Sequence[float]]]) -> "BinnedTable":
        """Return a table from upper |eta| -> bins of (upper pT, value at pT = 0, slope)."""
        cells = np.zeros((len(rows), max(map(len, rows.values())), 3))
        cells[:, :, 0] = np.inf
        for row, bins in zip(cells, rows.values(), strict=True):
            row[: len(bins)] = bins
        return cls(np.array([*rows], float), *np.ascontiguousarray(np.moveaxis(cells, 2, 0)))

    def at(self, pt: np.ndarray, eta: np.ndarray) -> np.ndarray:
        """Return the values at (n,) pT and eta."""
        row = np.searchsorted(self.eta, np.abs(eta))
        inside = row < len(self.eta)
        row = np.minimum(row, len(self.eta) - 1)
        column = np.minimum(np.sum(pt[:, None] > self.pt[row], axis=1), self.pt.shape[1] - 1)
        return np.where(inside, self.const[row, column] + self.slope[row, column] * pt, 0.0)


class Resolution(NamedTuple):
    """Energy resolution of a calorimeter in bins of |eta|, by a formula in ``card.yaml``."""

    eta: np.ndarray
    constant: np.ndarray
    stochastic: np.ndarray
    noise: np.ndarray

    def sigma(self, energy: np.ndarray, eta: np.ndarray) -> np.ndarray:
        """Return the resolution in GeV at (n,) energies and eta; 0 beyond the last |eta|."""
        row = np.searchsorted(self.eta, np.abs(eta))
        inside = row < len(self.eta)
        row = np.minimum(row, len(self.eta) - 1)
        constant, stochastic, noise = self.constant[row], self.stochastic[row], self.noise[row]
        variance = (constant * energy) ** 2 + stochastic**2 * energy + noise**2
        return np.where(inside, np.sqrt(variance), 0.0)


class PuppiBins(NamedTuple):
    """Parameters of PUPPI in bins of |eta|, described in ``card.yaml``."""

    eta: np.ndarray  # upper edges, which belong to their bin
    by_tracks: np.ndarray
    sample_pt: np.ndarray
    min_pt: np.ndarray
    slope: np.ndarray


class Towers(NamedTuple):
    """Edges in eta, towers per slice in eta (equal in phi), and the number of a slice's first."""

    eta: np.ndarray
    n_phi: np.ndarray
    first: np.ndarray


class Calorimeter(NamedTuple):
    """A compartment: its thresholds, and the shares of energy that particles leave in it."""

    towers: Towers
    resolution: Resolution
    min_energy: float  # GeV
    min_significance: float  # in units of the resolution
    species: np.ndarray  # sorted, with their shares
    shares: np.ndarray
    default_share: float  # of other species


_Rows = Mapping[float, Sequence[float]]


def _steps(pt: Sequence[float], values: Sequence[float]) -> list[tuple[float, float, float]]:
    """Return the bins of a quantity that is constant in each."""
    return [(edge, value, 0.0) for edge, value in zip(pt, values, strict=True)]


def _constants(pt: Sequence[float], eta: _Rows) -> BinnedTable:
    return BinnedTable.of({edge: _steps(pt, row) for edge, row in eta.items()})


def _track_bins(
    at1: float, slope1: float, at10: float, slope10: float, at100: float
) -> list[tuple[float, float, float]]:
    hard = [(100.0, at10 - 10 * slope10, slope10), (np.inf, 0.0, at100 / 100)]
    return [(1.0, at1, 0.0), (10.0, at1 - slope1, slope1), *hard]


def _muon_resolution(tracks: _Rows, pt: Sequence[float], eta: _Rows) -> BinnedTable:
    rows = {edge: _track_bins(*row) for edge, row in tracks.items() if edge > max(eta)}
    for edge, values in eta.items():
        at1, slope1, *_ = next(row for upper, row in tracks.items() if edge <= upper)
        rows[edge] = [(1.0, at1, 0.0), (5.0, at1 - slope1, slope1), *_steps(pt, values)]
    return BinnedTable.of(dict(sorted(rows.items())))


def _resolution(columns: Mapping[str, Sequence[float]]) -> Resolution:
    return Resolution(**{name: np.array(column, float) for name, column in columns.items()})


def _calorimeter(
    towers: Mapping[str, Any],
    resolution: Mapping[str, Sequence[float]],
    shares: Mapping[int, float],
    **numbers: float,
) -> Calorimeter:
    regular = [first + step * np.arange(number) for first, step, number in towers["regular"]]
    positive = np.concatenate([*regular, towers["forward"]])
    eta = np.concatenate([-positive[:0:-1], positive])
    slices = np.repeat(*np.transpose(towers["phi"]))
    n_phi = np.concatenate([slices[::-1], slices])
    return Calorimeter(
        Towers(eta, n_phi, np.concatenate([[0], np.cumsum(n_phi)])),
        _resolution(resolution),
        species=np.array([*shares]),
        shares=np.array([*shares.values()]),
        **numbers,
    )


def _tagging(edges: _Rows, light: float, **heavy: _Rows) -> tuple[BinnedTable, ...]:
    rates = [
        {eta: _steps((20.0, *edges[eta]), (0.0, *row)) for eta, row in rows.items()}
        for rows in heavy.values()
    ]
    anywhere = {max(edges): _steps((20.0, np.inf), (0.0, light))}
    return tuple(BinnedTable.of(rows) for rows in (anywhere, *rates))


_T = yaml.safe_load(Path(__file__).with_name("card.yaml").read_text())
HADRON_TRACKING = BinnedTable.of(_T["hadron_tracking"])
ELECTRON_TRACKING = BinnedTable.of(_T["electron_tracking"])
MUON_TRACKING = BinnedTable.of(_T["muon_tracking"])
HADRON_RESOLUTION = BinnedTable.of({eta: _track_bins(*row) for eta, row in _T["tracks"].items()})
ELECTRON_RESOLUTION = _resolution(_T["electron_resolution"])
MUON_RESOLUTION = _muon_resolution(_T["tracks"], **_T["muon_resolution"])
ELECTRON_ID, MUON_ID = _constants(**_T["electron_id"]), _constants(**_T["muon_id"])
ECAL, HCAL = _calorimeter(**_T["ecal"]), _calorimeter(**_T["hcal"])
PUPPI = PuppiBins(**{name: np.array(column) for name, column in _T["puppi"].items()})
BTAG = tuple(_tagging(_T["btag"]["edges"], **point) for point in _T["btag"]["points"].values())
"""Bit of ``Jet.BTag`` -> tables for jets of light, charm and bottom flavour."""
