"""Features of a store -> the inputs of 2019: scaled features, and standardised particles.

The source is 2-FeaturePreparation.ipynb of cerndb/SparkDLTrigger. Each event is padded with zeros
to 801 particles, which are then ordered by falling distance from the lepton, and standardised over
all 801. So the padding is neither last nor zero, and the nets read it like particles.
"""

# B events, T particles and padding, F features

import math
from collections.abc import Mapping

import numpy as np

from hepflow.data.blocks import EventBlock
from hepflow.schema import HLF, MAX_PARTICLES, PARTICLE

_MET = 6350.0
RANGES: Mapping[str, tuple[float, float]] = {
    "HT": (0.0, 4650.0),
    "MET": (0.0, _MET),
    "PhiMET": (-math.pi, math.pi),
    "MT": (0.0, 646.8 * _MET),
    "nJets": (0.0, 15.0),
    "nBJets": (0.0, 8.0),
    "LepPt": (23.0, 1341.4),
    "LepEta": (-4.0, 4.0),
    "LepPhi": (-math.pi, math.pi),
    "LepIsoCh": (-2.2e-16, 0.449998),
    "LepIsoGamma": (0.0, 0.45),
    "LepIsoNeu": (0.0, 0.45),
    "LepCharge": (-1.0, 1.0),
    "LepIsEle": (0.0, 1.0),
}
"""Feature -> minimum and maximum in the training sample of 2019, in the units of the reference
definitions. They were recovered from printed rows of the published notebooks, except the maxima of
HT (4.4 to 4.9 TeV) and MET (5.6 to 7.1 TeV), which are inferred, as are those of LepEta and of the
isolation from neutral particles, which the selection bounds."""

_LOW, _HIGH = np.array([RANGES[feature.name] for feature in HLF]).T
_ETA, _PHI = ([feature.name for feature in PARTICLE].index(name) for name in ("Eta", "Phi"))


def scaled(hlf_BF: np.ndarray) -> np.ndarray:
    """Return the high-level features, each scaled by its range in the training sample of 2019."""
    return ((hlf_BF - _LOW) / (_HIGH - _LOW)).astype(np.float32)


def standardised(block: EventBlock) -> np.ndarray:
    """Return the particles of a block as the nets read them, (B, 801, F) float32.

    The first particle of an event is its lepton; ties of the distance stay in their order.
    """
    lengths = np.diff(block.offsets)
    x_BTF = np.zeros((len(block), MAX_PARTICLES, block.particles.shape[1]))
    x_BTF[np.arange(MAX_PARTICLES) < lengths[:, None]] = block.particles
    eta_BT, phi_BT = x_BTF[:, :, _ETA], x_BTF[:, :, _PHI]
    delta_phi_BT = phi_BT - phi_BT[:, :1]
    delta_phi_BT -= 2 * np.pi * np.rint(delta_phi_BT / (2 * np.pi))
    nearer_BT = -((eta_BT - eta_BT[:, :1]) ** 2 + delta_phi_BT**2)
    order_BT = np.argsort(nearer_BT, axis=1, kind="stable")
    x_BTF = np.take_along_axis(x_BTF, order_BT[:, :, None], axis=1)
    x_BTF -= x_BTF.mean(axis=1, keepdims=True)
    spread_B1F = x_BTF.std(axis=1, keepdims=True)
    x_BTF /= np.where(spread_B1F > 0, spread_B1F, 1.0)
    return x_BTF.astype(np.float32)
