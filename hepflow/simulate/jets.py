"""Weighted energy flow -> anti-kt jets, b-tagged by the flavour of the quarks around them.

Their energy is not corrected: the card's JetEnergyScale is 1.
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
_AXES = ("px", "py", "pz", "E")


def cluster(momentum: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return anti-kt jets (R = 0.4) above 15 GeV: (jets, 4) px py pz E, and the events' offsets."""
    flat = ak.zip(dict(zip(_AXES, momentum.T, strict=True)), with_name="Momentum4D")
    sequence = fastjet.ClusterSequence(ak.unflatten(flat, np.diff(offsets)), _ANTI_KT)
    jets = sequence.inclusive_jets(min_pt=card.JET_MIN_PT)
    columns = [ak.to_numpy(ak.flatten(jets[axis])) for axis in _AXES]
    return np.stack(columns, axis=1), offsets_of(ak.to_numpy(ak.num(jets)))


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
