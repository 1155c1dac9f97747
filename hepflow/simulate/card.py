"""The detector's numbers: Delphes' CMS Phase-II card, as data.

Everything here comes from ``cards/CMS_PhaseII/CMS_PhaseII_200PU.tcl`` of https://github.com/delphes/delphes at commit 0e11b5ca,
and from the tables that it sources (``trackMomentumResolution.tcl`` f7f33af5, ``muonMomentumResolution.tcl`` f7f33af5,
``muonTightId.tcl`` 1cefce32); the module of the card is named above each number. Momenta and energies are in GeV, lengths in mm.
The b-tagging tables are in ``btag_card.py``. What is not as in the card:

- PUPPI is replaced by charged-hadron subtraction and a median-density correction of the jets (see ``jets.py``);
- where the card's HCAL tower lists overlap, at 1.48 < |eta| < 1.65, the finer towers win;
- the mean pile-up is the config's (20), the card's is 200.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

INF = float("inf")


class Table(NamedTuple):
    """A quantity in bins of |eta| and pT, linear in pT within a bin; zero beyond the last |eta|.

    ``eta`` (E,) and ``pt`` (E, P) are upper edges, which belong to their bin; ``const`` and ``slope`` are (E, P).
    """

    eta: np.ndarray
    pt: np.ndarray
    const: np.ndarray
    slope: np.ndarray


class Resolution(NamedTuple):
    """Energy resolution of a calorimeter in bins of |eta|: (1 + curve eta^2) sqrt((constant E)^2 + stochastic^2 E + noise^2)."""

    eta: np.ndarray
    constant: np.ndarray
    stochastic: np.ndarray
    noise: np.ndarray
    curve: np.ndarray


class Towers(NamedTuple):
    """Tower edges in eta, and for each eta slice the number of equal phi towers and the number of the first of them."""

    eta: np.ndarray
    n_phi: np.ndarray
    first: np.ndarray


def table(rows: Sequence[tuple[float, Sequence[tuple[float, float, float]]]]) -> Table:
    """A table from rows of (upper |eta|, ((upper pT, value at pT = 0, slope), ...))."""
    width = max(len(bins) for _, bins in rows)
    cells = np.zeros((len(rows), width, 3))
    cells[:, :, 0] = INF
    for i, (_, bins) in enumerate(rows):
        cells[i, : len(bins)] = bins
    pt, const, slope = np.ascontiguousarray(np.moveaxis(cells, 2, 0))
    return Table(np.array([eta for eta, _ in rows], float), pt, const, slope)


def flat(pt: Sequence[float], rows: Sequence[tuple[float, Sequence[float]]]) -> Table:
    """A table of constants: the upper edges in pT, then rows of (upper |eta|, values)."""
    return table(
        [
            (eta, [(edge, value, 0.0) for edge, value in zip(pt, values, strict=True)])
            for eta, values in rows
        ]
    )


# --- PileUpMerger: vertices are flat in |z| <= 0.15 m ------------------------------------------------------------------------------
VERTEX_HALF_RANGE = 150.0
# TrackPileUpSubtractor.ZVertexResolution, 0.0001 m: pile-up tracks further from the primary vertex are left out of jets
VERTEX_RESOLUTION = 0.1

# --- ParticlePropagator ------------------------------------------------------------------------------------------------------------
RADIUS = 1290.0
HALF_LENGTH = 3000.0
FIELD_TESLA = 3.8

# --- ChargedHadronTrackingEfficiency, ElectronTrackingEfficiency, MuonTrackingEfficiency ---------------------------------------------
NO_TRACK = (0.2, 0.0, 0.0)
HADRON_TRACKING = table(
    [
        (1.2, [NO_TRACK, (1.0, 0.0, 0.96), (INF, 0.97, 0.0)]),
        (2.5, [NO_TRACK, (1.0, 0.0, 0.85), (INF, 0.87, 0.0)]),
        (4.0, [NO_TRACK, (1.0, 0.0, 0.80), (INF, 0.82, 0.0)]),
    ]
)
ELECTRON_TRACKING = table(
    [
        (1.2, [NO_TRACK, (1.0, 0.0, 0.96), (INF, 0.97, 0.0)]),
        (2.5, [NO_TRACK, (1.0, 0.0, 0.85), (10.0, 0.82, 0.01), (INF, 0.90, 0.0)]),
        (4.0, [NO_TRACK, (1.0, 0.0, 0.80), (10.0, 0.80, 0.01), (INF, 0.85, 0.0)]),
    ]
)
MUON_TRACKING = table(
    [
        (2.8, [NO_TRACK, (1.0, 0.0, 1.00), (INF, 1.00, 0.0)]),
        (4.0, [NO_TRACK, (1.0, 0.0, 0.95), (INF, 0.95, 0.0)]),
    ]
)

# --- ChargedHadronMomentumSmearing (trackMomentumResolution.tcl): sigma(pT) / pT ---------------------------------------------------
# upper |eta|: value below 1 GeV and its slope from there to 10, value at 10 GeV and its slope from there to 100, value at 100 (then ~ pT)
_TRACK_RESOLUTION = (
    (0.2, 0.004675, 0.000056, 0.005179, 0.000064, 0.010955),
    (0.4, 0.005159, 0.000049, 0.005600, 0.000062, 0.011149),
    (0.6, 0.005098, 0.000055, 0.005590, 0.000063, 0.011251),
    (0.8, 0.005688, 0.000061, 0.006237, 0.000059, 0.011563),
    (1.0, 0.006683, 0.000065, 0.007263, 0.000067, 0.013251),
    (1.2, 0.010477, 0.000059, 0.011005, 0.000098, 0.019785),
    (1.4, 0.014307, 0.000038, 0.014647, 0.000087, 0.022499),
    (1.6, 0.017192, 0.000020, 0.017372, 0.000080, 0.024604),
    (1.8, 0.017839, 0.000045, 0.018244, 0.000073, 0.024839),
    (2.0, 0.017878, 0.000154, 0.019265, 0.000141, 0.031979),
    (2.2, 0.018255, 0.000270, 0.020690, 0.000212, 0.039811),
    (2.4, 0.018033, 0.000220, 0.020013, 0.000247, 0.042262),
    (2.6, 0.021562, 0.000225, 0.023591, 0.000361, 0.056075),
    (2.8, 0.026913, 0.000357, 0.030127, 0.000483, 0.073578),
    (3.0, 0.032532, 0.000382, 0.035969, 0.000673, 0.096568),
    (3.2, 0.045517, 0.002188, 0.065207, 0.003254, 0.358089),
    (3.4, 0.047248, 0.003322, 0.077142, 0.004516, 0.483608),
    (3.6, 0.044930, 0.002917, 0.071183, 0.004186, 0.447915),
    (3.8, 0.054642, 0.003456, 0.085748, 0.004995, 0.535262),
    (4.0, 0.065512, 0.006574, 0.124674, 0.009560, 0.985040),
)


def _track_bins(
    at1: float, slope1: float, at10: float, slope10: float, at100: float
) -> list[tuple[float, float, float]]:
    return [
        (1.0, at1, 0.0),
        (10.0, at1 - slope1, slope1),
        (100.0, at10 - 10 * slope10, slope10),
        (INF, 0.0, at100 / 100),
    ]


HADRON_RESOLUTION = table([(eta, _track_bins(*values)) for eta, *values in _TRACK_RESOLUTION])

# --- MuonMomentumSmearing (muonMomentumResolution.tcl): as tracks below 5 GeV and beyond |eta| 2.8, else 5-10, 10-20, 20-40, >40 GeV -
_MUON_RESOLUTION = (
    (0.2, 0.00519, 0.00533, 0.00559, 0.00656),
    (0.4, 0.00575, 0.00592, 0.00586, 0.00700),
    (0.6, 0.00629, 0.00602, 0.00614, 0.00733),
    (0.8, 0.00626, 0.00614, 0.00654, 0.00752),
    (1.0, 0.00722, 0.00736, 0.00759, 0.00851),
    (1.2, 0.00968, 0.0104, 0.0103, 0.0105),
    (1.4, 0.00983, 0.00968, 0.00963, 0.0105),
    (1.6, 0.0102, 0.00991, 0.0102, 0.0111),
    (1.8, 0.0126, 0.0106, 0.0110, 0.0119),
    (2.0, 0.0178, 0.0158, 0.0142, 0.0165),
    (2.2, 0.0248, 0.0207, 0.0197, 0.0242),
    (2.4, 0.0347, 0.0327, 0.0315, 0.0359),
    (2.5, 0.0359, 0.0369, 0.0409, 0.0474),
    (2.6, 0.0412, 0.0390, 0.0471, 0.0520),
    (2.7, 0.0422, 0.0488, 0.0579, 0.0639),
    (2.8, 0.0496, 0.0543, 0.0679, 0.0763),
)


def _muon_bins(eta: float, values: Sequence[float]) -> list[tuple[float, float, float]]:
    at1, slope1 = next(row[1:3] for row in _TRACK_RESOLUTION if eta <= row[0])
    soft = [(1.0, at1, 0.0), (5.0, at1 - slope1, slope1)]
    return soft + [
        (edge, value, 0.0) for edge, value in zip((10.0, 20.0, 40.0, INF), values, strict=True)
    ]


MUON_RESOLUTION = table(
    [(eta, _muon_bins(eta, values)) for eta, *values in _MUON_RESOLUTION]
    + [(eta, _track_bins(*values)) for eta, *values in _TRACK_RESOLUTION if eta > 2.8]
)

# --- ElectronEnergySmearing: sigma(E) / E; below |eta| 1.5 it is 0.028 (1 + 0.64 eta^2) ----------------------------------------------
ELECTRON_RESOLUTION = Resolution(
    eta=np.array([1.5, 1.75, 2.15, 3.0, 4.0]),
    constant=np.array([0.028, 0.037, 0.038, 0.044, 0.10]),
    stochastic=np.zeros(5),
    noise=np.zeros(5),
    curve=np.array([0.64, 0.0, 0.0, 0.0, 0.0]),
)

# --- ElectronEfficiency, MuonTightIdEfficiency -------------------------------------------------------------------------------------
ELECTRON_ID = flat(
    (4.0, 6.0, 8.0, 10.0, 30.0, 50.0, 70.0, INF),
    [
        (1.45, (0.0, 0.50, 0.70, 0.85, 0.94, 0.97, 0.98, 1.00)),
        (1.55, (0.0, 0.35, 0.35, 0.35, 0.40, 0.45, 0.45, 0.55)),
        (2.0, (0.0, 0.75, 0.75, 0.75, 0.85, 0.95, 0.95, 1.00)),
        (4.0, (0.0, 0.65, 0.65, 0.65, 0.75, 0.90, 0.90, 0.90)),
    ],
)
MUON_ID = flat(
    (5.0, 10.0, 20.0, 40.0, INF),
    [
        (0.2, (1.0, 0.949, 0.975, 0.965, 0.975)),
        (0.4, (1.0, 0.894, 0.935, 0.938, 0.935)),
        (0.6, (1.0, 0.966, 0.986, 0.990, 0.991)),
        (0.8, (1.0, 0.964, 0.976, 0.977, 0.983)),
        (1.0, (1.0, 0.923, 0.954, 0.959, 0.957)),
        (1.2, (1.0, 0.940, 0.978, 0.976, 0.979)),
        (1.4, (1.0, 0.959, 0.975, 0.984, 0.981)),
        (1.6, (1.0, 0.972, 0.980, 0.981, 0.983)),
        (1.8, (1.0, 0.962, 0.982, 0.978, 0.981)),
        (2.0, (1.0, 0.972, 0.985, 0.985, 0.984)),
        (2.2, (1.0, 0.947, 0.962, 0.969, 0.964)),
        (2.4, (1.0, 0.911, 0.946, 0.964, 0.956)),
        (2.5, (1.0, 0.825, 0.839, 0.863, 0.855)),
        (2.6, (1.0, 0.821, 0.844, 0.828, 0.817)),
        (2.7, (1.0, 0.783, 0.803, 0.807, 0.764)),
        (2.8, (1.0, 0.746, 0.791, 0.764, 0.752)),
        (INF, (1.0, 0.0, 0.0, 0.0, 0.0)),
    ],
)

# --- ECal, HCal: EnergyMin, EnergySignificanceMin, EnergyFraction, ResolutionFormula, EtaPhiBins ---------------------------------------
ECAL_MIN_ENERGY, HCAL_MIN_ENERGY = 0.5, 1.0
MIN_SIGNIFICANCE = 1.0
ECAL_FRACTION = {11: 1.0, 22: 1.0, 111: 1.0, 310: 0.3, 3122: 0.3}
HCAL_FRACTION = {
    11: 0.0,
    22: 0.0,
    111: 0.0,
    12: 0.0,
    13: 0.0,
    14: 0.0,
    16: 0.0,
    310: 0.7,
    3122: 0.7,
}
ECAL_DEFAULT, HCAL_DEFAULT = 0.0, 1.0

ECAL_RESOLUTION = Resolution(
    eta=np.array([1.5, 1.75, 2.15, 3.0, 5.0]),
    constant=np.array([0.009, 0.006, 0.007, 0.008, 0.08]),
    stochastic=np.array([0.12, 0.20, 0.21, 0.24, 1.98]),
    noise=np.array([0.45, 0.0, 0.0, 0.0, 0.0]),
    curve=np.array([0.64, 0.0, 0.0, 0.0, 0.0]),
)
HCAL_RESOLUTION = Resolution(
    eta=np.array([3.0, 5.0]),
    constant=np.array([0.05, 0.11]),
    stochastic=np.array([1.00, 2.80]),
    noise=np.zeros(2),
    curve=np.zeros(2),
)

_FORWARD = np.array([2.958, 3.125, 3.3, 3.475, 3.65, 3.825, 4.0, 4.175, 4.35, 4.525, 4.7, 5.0])
_ENDCAP = 1.4964 + 0.0174 * np.arange(85)


def _towers(positive: np.ndarray, slices: np.ndarray) -> Towers:
    """Mirror eta edges (from 0 upwards) and phi divisions (one a slice between them) to negative eta."""
    eta = np.concatenate([-positive[:0:-1], positive])
    n_phi = np.concatenate([slices[::-1], slices]).astype(np.int64)
    return Towers(eta, n_phi, np.concatenate([[0], np.cumsum(n_phi)]))


ECAL_TOWERS = _towers(
    np.concatenate([0.0174 * np.arange(86), _ENDCAP, _FORWARD[1:]]), np.repeat([360, 36], [170, 11])
)
HCAL_TOWERS = _towers(
    np.concatenate([0.087 * np.arange(18), _ENDCAP, _FORWARD[1:]]),
    np.repeat([72, 360, 36], [17, 85, 11]),
)

# --- FastJetFinder, JetFlavorAssociation -------------------------------------------------------------------------------------------
JET_RADIUS = 0.4
JET_MIN_PT = 15.0
FLAVOUR_CONE = 0.5
FLAVOUR_MIN_PT = 10.0
FLAVOUR_MAX_ETA = 4.0
