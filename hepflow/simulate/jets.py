"""Energy flow -> anti-kt jets, corrected for pile-up and b-tagged.

The card removes pile-up with PUPPI. Here jets leave out the tracks of other vertices
(charged-hadron subtraction), and the neutrals' part is subtracted: the event's median pT density
times the jet's area (Cacciari, Salam, Phys. Lett. B 659 (2008) 119).
"""

from collections.abc import Sequence

import awkward as ak
import fastjet
import numpy as np

from hepflow.simulate import card
from hepflow.simulate.card import BinnedTable
from hepflow.simulate.particles import offsets_of

# no banner: every worker would print it, and the README cites FastJet
fastjet._swig.ClusterSequence.set_fastjet_banner_stream(None)  # noqa: SLF001
_ANTI_KT = fastjet.JetDefinition(fastjet.antikt_algorithm, card.JET_RADIUS)
_MIN_PT = 10.0
_AXES = ("px", "py", "pz", "E")
# Grid of the density, within the tracker's reach: beyond it charged pile-up is not removed.
_GRID_ETA, _GRID_ETA_CELLS, _GRID_PHI_CELLS = 4.0, 16, 12


def cluster(momentum: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return anti-kt jets (R = 0.4) above 10 GeV: (jets, 4) px py pz E, and the events' offsets."""
    flat = ak.zip(dict(zip(_AXES, momentum.T, strict=True)), with_name="Momentum4D")
    sequence = fastjet.ClusterSequence(ak.unflatten(flat, np.diff(offsets)), _ANTI_KT)
    jets = sequence.inclusive_jets(min_pt=_MIN_PT)
    columns = [ak.to_numpy(ak.flatten(jets[axis])) for axis in _AXES]
    return np.stack(columns, axis=1), offsets_of(ak.to_numpy(ak.num(jets)))


def median_density(pt: np.ndarray, eta: np.ndarray, phi: np.ndarray) -> float:
    """Return the median pT per unit area, GeV, over a grid in |eta| < 4."""
    row = np.floor((eta + _GRID_ETA) / (2 * _GRID_ETA) * _GRID_ETA_CELLS).astype(np.int64)
    column = np.floor((phi + np.pi) / (2 * np.pi) * _GRID_PHI_CELLS).astype(np.int64)
    column %= _GRID_PHI_CELLS
    inside = (row >= 0) & (row < _GRID_ETA_CELLS)
    n_cells = _GRID_ETA_CELLS * _GRID_PHI_CELLS
    cells = np.bincount((row * _GRID_PHI_CELLS + column)[inside], pt[inside], n_cells)
    return float(np.median(cells) * n_cells / (2 * _GRID_ETA * 2 * np.pi))


def flavours(eta: np.ndarray, phi: np.ndarray, heavy: np.ndarray, cone: float) -> np.ndarray:
    """Return the heaviest quark flavour around each jet, 5, 4, or 0; ``heavy`` as in `Events`."""
    d_phi = (phi[:, None] - heavy[:, 2] + np.pi) % (2 * np.pi) - np.pi
    near = np.hypot(eta[:, None] - heavy[:, 1], d_phi) <= cone
    return np.max(np.where(near, heavy[:, 3], 0.0), axis=1, initial=0.0).astype(np.int64)


def tag(
    rng: np.random.Generator,
    points: Sequence[Sequence[BinnedTable]],
    pt: np.ndarray,
    eta: np.ndarray,
    flavour: np.ndarray,
) -> np.ndarray:
    """Return b-tag bits, (jets,) uint32: 1 loose, 2 medium, 4 tight.

    Each is drawn independently, as by Delphes' BTagging modules, from the efficiencies of light,
    charm and bottom jets at a point.
    """
    bits = np.zeros(len(pt), np.uint32)
    for bit, tables in enumerate(points):
        light, charm, bottom = (table.at(pt, eta) for table in tables)
        efficiency = np.select([flavour == 5, flavour == 4], [bottom, charm], light)
        bits |= (rng.random(len(pt)) < efficiency).astype(np.uint32) << np.uint32(bit)
    return bits
