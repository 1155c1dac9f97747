"""Tracks and towers -> PUPPI weights, which remove pile-up from the jets.

PUPPI (Bertolini, Harris, Low, Tran, arXiv:1407.6013) weighs a neutral particle by the probability
that its surroundings are not those of pile-up. Tracks of other vertices show those of pile-up::

    alpha = log of the sum of (pT / distance)^2 over the neighbours closer than 0.2

    tracks of other vertices   ->   median and RMS of alpha, per bin of |eta|
    neutral particles          ->   z = (alpha - median) / RMS, weight = erf(z / sqrt(2)) or 0
    tracks                     ->   1 from the event's vertex, 0 from others

Neighbours are the tracks of the event's vertex where the tracker finds them, and all particles
further forward. Numbers and details are those of Delphes' module RunPUPPI (see ``card.yaml``).
"""

import math
from statistics import NormalDist

import numpy as np

from hepflow.simulate import card
from hepflow.system.compiled import cached_njit

NEUTRAL, VERTEX, PILE_UP = 0, 1, 2
"""Origin of a particle: a tower, a track of the event's vertex, a track of another one."""
_CONE, _CLOSEST2 = card.PUPPI_CONE, 1e-4  # the second leaves out the particle itself
_MIN_RMS = math.sqrt(1e-5)


def weights(
    pt: np.ndarray, eta: np.ndarray, phi: np.ndarray, origin: np.ndarray, n_vertices: int
) -> np.ndarray:
    """Return the weights, in [0, 1], of (n,) particles.

    ``n_vertices`` counts all collisions: the smallest pT of neutral particles rises with it.
    """
    n_found = int(card.PUPPI_VERTEX_EFFICIENCY * n_vertices) if (origin == PILE_UP).any() else 1
    out = (origin == VERTEX).astype(np.float64)
    row = np.minimum(np.searchsorted(card.PUPPI.eta, np.abs(eta)), len(card.PUPPI.eta) - 1)
    tracks = np.flatnonzero(origin == VERTEX)
    for i, by_tracks in enumerate(card.PUPPI.by_tracks):
        inside = np.flatnonzero(row == i)
        kind, hard = origin[inside], pt[inside] >= card.PUPPI.sample_pt[i]
        near = tracks if by_tracks else np.arange(len(pt))
        near = near[np.argsort(eta[near], kind="stable")]
        alpha = alphas(eta[inside], phi[inside], pt[near], eta[near], phi[near])
        sample = alpha[hard & (kind == PILE_UP)] if by_tracks else alpha[hard]
        own = alpha[hard & (kind == VERTEX)] if by_tracks else alpha[:0]
        weight = _weigh(alpha, *centre_and_width(sample, own)) if len(sample) else alpha**0
        least = card.PUPPI.min_pt[i] + card.PUPPI.slope[i] * n_found
        kept = (weight >= card.PUPPI_MIN_WEIGHT) & (weight * pt[inside] >= least)
        neutral = kind == NEUTRAL
        out[inside[neutral]] = np.where(kept, weight, 0.0)[neutral]
    return out


@cached_njit()
def alphas(
    eta: np.ndarray,
    phi: np.ndarray,
    near_pt: np.ndarray,
    near_eta: np.ndarray,
    near_phi: np.ndarray,
) -> np.ndarray:
    """Return alpha of (n,) particles, 0 without a neighbour; neighbours by rising eta."""
    out = np.zeros(len(eta))
    first = np.searchsorted(near_eta, eta - _CONE)
    for i in range(len(eta)):
        total = 0.0
        for j in range(first[i], len(near_eta)):
            d_eta = near_eta[j] - eta[i]
            if d_eta > _CONE:
                break
            d_phi = abs(near_phi[j] - phi[i])
            d_phi = min(d_phi, 2 * np.pi - d_phi)
            distance2 = d_eta * d_eta + d_phi * d_phi
            if _CLOSEST2 <= distance2 <= _CONE * _CONE:
                total += near_pt[j] ** 2 / distance2
        if total > 0.0:
            out[i] = np.log(total)
    return out


def centre_and_width(sample: np.ndarray, own: np.ndarray) -> tuple[float, float]:
    """Return the median and the RMS below it of pile-up's alpha, corrected for few collisions.

    ``sample`` are the values of pile-up, at least one, and ``own`` those of the event's own tracks.
    The more of the latter are below the median, the more both results are lowered.
    """
    sample = np.sort(sample)
    first = int(np.flatnonzero(sample == 0.0).max(initial=0))  # 0: without a neighbour
    median = float(sample[first + (len(sample) - first) // 2])
    below = sample[(sample != 0.0) & (sample <= median)]
    rms = math.sqrt(np.mean((below - median) ** 2)) if len(below) else 0.0
    rms = rms or _MIN_RMS
    n_own = np.count_nonzero(own <= median)
    share = n_own / (n_own + 0.5 * len(sample))
    shift = NormalDist().inv_cdf(0.5 * (1.0 + share)) * math.sqrt(rms)
    return median - shift, rms - shift


@cached_njit()
def _weigh(alpha: np.ndarray, centre: float, width: float) -> np.ndarray:
    out = np.zeros(len(alpha))
    for i in range(len(alpha)):
        if alpha[i] != 0.0 and alpha[i] > centre:
            out[i] = math.erf((alpha[i] - centre) / max(abs(width), 1e-9) / math.sqrt(2.0))
    return out
