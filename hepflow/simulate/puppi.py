"""Tracks and towers -> PUPPI weights, which remove pile-up from the jets.

PUPPI (Bertolini, Harris, Low, Tran, arXiv:1407.6013) weighs a neutral particle by the probability
that its surroundings are not usual ones, as those of pile-up are::

    alpha = log of the sum of (pT / distance)^2 over the neighbours closer than 0.2

    tracks              ->   median and RMS of alpha, per bin of |eta|
    neutral particles   ->   z = (alpha - median) / RMS, weight = erf(z / sqrt(2)), or 0 if z < 0
    tracks              ->   weight 1 from the event's vertex, 0 from others

Neighbours are the tracks of the event's vertex where the tracker finds them; further forward they
are all particles, which then also give median and RMS. Numbers are those of ``card.yaml``. Two
details are not the paper's but those of Delphes' files, whose jets this reproduces one by one:
median and RMS are those of all tracks, not of pile-up's alone, and particles with mass are moved,
since the module takes their pseudorapidity for the rapidity.
"""

import math

import numpy as np

from hepflow.simulate import card
from hepflow.system.compiled import cached_njit

NEUTRAL, VERTEX, PILE_UP, LEPTON = 0, 1, 2, 3
"""Origin of a particle: a tower, a track of the vertex, one of another, a track of a lepton."""
_CONE, _CLOSEST2 = card.PUPPI_CONE, 1e-4  # the second leaves out the particle itself
_MIN_RMS = math.sqrt(1e-5)


def weighted(
    pt: np.ndarray,
    eta: np.ndarray,
    phi: np.ndarray,
    mass: np.ndarray,
    origin: np.ndarray,
    n_vertices: int,
) -> np.ndarray:
    """Return the momenta, (m, 4) px py pz E in GeV, of (n,) particles times their weights.

    Those of weight 0 are left out. Leptons of all vertices have weight 1, as in the card.
    """
    transverse = np.hypot(pt, mass)  # pT and mass are kept, the pseudorapidity is the rapidity
    along = transverse * np.sinh(eta)
    moved = np.stack([pt, np.arcsinh(along / pt), phi], axis=1)
    weight, others = np.ones(len(pt)), np.flatnonzero(origin != LEPTON)
    weight[others] = weights(moved[others], eta[others], origin[others], n_vertices)
    axes = pt * np.cos(phi), pt * np.sin(phi), along, transverse * np.cosh(eta)
    return (weight * np.stack(axes)).T[weight > 0]


def weights(
    momentum: np.ndarray, rapidity: np.ndarray, origin: np.ndarray, n_vertices: int
) -> np.ndarray:
    """Return the weights, in [0, 1], of (n,) particles.

    ``momentum`` is (n, 3) pT in GeV, pseudorapidity and azimuth. ``n_vertices`` counts all
    collisions: the smallest pT of neutral particles rises with it.
    """
    pt, eta, _ = momentum.T
    n_found = int(card.PUPPI_VERTEX_EFFICIENCY * n_vertices) if (origin == PILE_UP).any() else 1
    out = (origin == VERTEX).astype(np.float64)
    row = np.minimum(np.searchsorted(card.PUPPI.eta, np.abs(eta)), len(card.PUPPI.eta) - 1)
    is_track, tracks = origin != NEUTRAL, np.flatnonzero(origin == VERTEX)
    for i, by_tracks in enumerate(card.PUPPI.by_tracks):
        inside = np.flatnonzero(row == i)
        near = tracks if by_tracks else np.arange(len(pt))
        near = near[np.argsort(rapidity[near], kind="stable")]
        alpha = alphas(momentum[inside], rapidity[inside], momentum[near], rapidity[near])
        counted = pt[inside] >= card.PUPPI.sample_pt[i]
        sample = alpha[counted & is_track[inside]] if by_tracks else alpha[counted]
        weight = _weigh(alpha, *centre_and_width(sample)) if len(sample) else np.ones(len(alpha))
        least = card.PUPPI.min_pt[i] + card.PUPPI.slope[i] * n_found
        kept = (weight >= card.PUPPI_MIN_WEIGHT) & (weight * pt[inside] >= least)
        neutral = ~is_track[inside]
        out[inside[neutral]] = np.where(kept, weight, 0.0)[neutral]
    return out


@cached_njit()
def alphas(
    momentum: np.ndarray, rapidity: np.ndarray, near: np.ndarray, near_rapidity: np.ndarray
) -> np.ndarray:
    """Return alpha of (n,) particles, 0 without a neighbour; neighbours by rising rapidity.

    Neighbours are found by their rapidity, and their distance is that in pseudorapidity.
    """
    out = np.zeros(len(rapidity))
    first = np.searchsorted(near_rapidity, rapidity - _CONE)
    for i in range(len(rapidity)):
        total = 0.0
        for j in range(first[i], len(near_rapidity)):
            apart = near_rapidity[j] - rapidity[i]
            if apart > _CONE:
                break
            d_phi = abs(near[j, 2] - momentum[i, 2])
            d_phi = min(d_phi, 2 * np.pi - d_phi)
            distance2 = (near[j, 1] - momentum[i, 1]) ** 2 + d_phi * d_phi
            if apart * apart + d_phi * d_phi <= _CONE * _CONE and distance2 >= _CLOSEST2:
                total += near[j, 0] ** 2 / distance2
        if total > 0.0:
            out[i] = np.log(total)
    return out


def centre_and_width(sample: np.ndarray) -> tuple[float, float]:
    """Return the median of (n,) alphas, and the RMS of those below it, without any that are 0."""
    sample = np.sort(sample)
    first = int(np.flatnonzero(sample == 0.0).max(initial=0))  # 0: no neighbour
    median = float(sample[first + (len(sample) - first) // 2])
    below = sample[(sample != 0.0) & (sample <= median)]
    rms = math.sqrt(np.mean((below - median) ** 2)) if len(below) else 0.0
    return median, rms or _MIN_RMS


@cached_njit()
def _weigh(alpha: np.ndarray, centre: float, width: float) -> np.ndarray:
    out = np.zeros(len(alpha))
    for i in range(len(alpha)):
        if alpha[i] != 0.0 and alpha[i] > centre:
            out[i] = math.erf((alpha[i] - centre) / width / math.sqrt(2.0))
    return out
