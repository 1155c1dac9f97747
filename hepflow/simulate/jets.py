"""Energy flow -> anti-kt jets, corrected for pile-up and b-tagged.

The card removes pile-up with PUPPI; here the tracks of other vertices are left out (charged-hadron subtraction) and what the neutrals add
is subtracted as the event's median pT density times the jet's area (Cacciari, Salam, Phys. Lett. B 659 (2008) 119).
"""

import awkward as ak
import fastjet
import numpy as np

from hepflow.simulate import card
from hepflow.simulate.card import Table
from hepflow.simulate.particles import offsets_of
from hepflow.simulate.tracking import evaluate

fastjet._swig.ClusterSequence.set_fastjet_banner_stream(None)  # noqa: SLF001 - once a worker is too often; the README cites it
_ANTI_KT = fastjet.JetDefinition(fastjet.antikt_algorithm, card.JET_RADIUS)
# the density is the median over these cells, within the tracker's reach: beyond it charged pile-up is not removed
_GRID_ETA, _GRID_ETA_CELLS, _GRID_PHI_CELLS = 4.0, 16, 12


def cluster(momentum: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Anti-kt jets (R = 0.4) above 10 GeV.

    Parameters
    ----------
    momentum : (n, 4), px py pz E in GeV
    offsets : (events + 1,)

    Returns
    -------
    (jets, 4) px py pz E, and the (events + 1,) offsets of the events in them
    """
    flat = ak.zip(
        {name: momentum[:, i] for i, name in enumerate(("px", "py", "pz", "E"))},
        with_name="Momentum4D",
    )
    jets = fastjet.ClusterSequence(ak.unflatten(flat, np.diff(offsets)), _ANTI_KT).inclusive_jets(
        min_pt=10.0
    )
    columns = [ak.to_numpy(ak.flatten(jets[name])) for name in ("px", "py", "pz", "E")]
    return np.stack(columns, axis=1), offsets_of(ak.to_numpy(ak.num(jets)))


def median_density(pt: np.ndarray, eta: np.ndarray, phi: np.ndarray) -> float:
    """Median transverse momentum per unit area, GeV, over a grid in |eta| < 4.

    Parameters
    ----------
    pt, eta, phi : (particles,)
    """
    row = np.floor((eta + _GRID_ETA) / (2 * _GRID_ETA) * _GRID_ETA_CELLS).astype(np.int64)
    column = (
        np.floor((phi + np.pi) / (2 * np.pi) * _GRID_PHI_CELLS).astype(np.int64) % _GRID_PHI_CELLS
    )
    inside = (row >= 0) & (row < _GRID_ETA_CELLS)
    n_cells = _GRID_ETA_CELLS * _GRID_PHI_CELLS
    cells = np.bincount((row * _GRID_PHI_CELLS + column)[inside], pt[inside], n_cells)
    return float(np.median(cells) * n_cells / (2 * _GRID_ETA * 2 * np.pi))


def flavours(eta: np.ndarray, phi: np.ndarray, heavy: np.ndarray, cone: float) -> np.ndarray:
    """Heaviest quark flavour around each jet: 5, 4, or 0.

    Parameters
    ----------
    eta, phi : (jets,)
    heavy : (hadrons, 4), pT, eta, phi and flavour
    cone : float

    Returns
    -------
    (jets,) int64
    """
    d_phi = (phi[:, None] - heavy[:, 2] + np.pi) % (2 * np.pi) - np.pi
    near = np.hypot(eta[:, None] - heavy[:, 1], d_phi) <= cone
    return np.max(np.where(near, heavy[:, 3], 0.0), axis=1, initial=0.0).astype(np.int64)


def tag(
    rng: np.random.Generator,
    points: tuple[tuple[Table, Table, Table], ...],
    pt: np.ndarray,
    eta: np.ndarray,
    flavour: np.ndarray,
) -> np.ndarray:
    """b-tag bits: 1 loose, 2 medium, 4 tight, each drawn on its own as Delphes' three BTagging modules do.

    Parameters
    ----------
    rng : Generator
    points : three of (light, charm, bottom) efficiencies
    pt, eta, flavour : (jets,), GeV, 1, and 0, 4 or 5

    Returns
    -------
    (jets,) uint32
    """
    bits = np.zeros(len(pt), np.uint32)
    for bit, (light, charm, bottom) in enumerate(points):
        efficiency = [evaluate(table, pt, eta) for table in (light, charm, bottom)]
        chosen = np.select(
            [flavour == 5, flavour == 4], [efficiency[2], efficiency[1]], efficiency[0]
        )
        bits |= (rng.random(len(pt)) < chosen).astype(np.uint32) << np.uint32(bit)
    return bits
