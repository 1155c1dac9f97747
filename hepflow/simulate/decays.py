"""A library of heavy-hadron decays, and many tries at decaying one event's hadrons until an isolated lepton comes out.

One QCD event in about 13,000 passes the trigger, nearly all by the semileptonic decay of a heavy hadron whose other products are soft. So
the hadrons that decay weakly are left undecayed by the generator, and each event's are decayed up to ``tries`` times by drawing from decays
that Pythia made at rest, each turned at random (hadrons are produced unpolarised) and boosted. The first try with a lepton candidate is
kept; an event is used once at most. A hadron's decay is independent of the rest of its event, so this changes no distribution but that of
events so likely to succeed that several tries would: about a tenth of those accepted.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hepflow.simulate.particles import offsets_of
from hepflow.system.compiled import cached_njit

# weakly decaying hadrons; antiparticles are drawn by conjugation
BOTTOM = (511, 521, 531, 541, 5122, 5132, 5232, 5332)
CHARM = (411, 421, 431, 4122, 4132, 4232, 4332)
_SELF_CONJUGATE = (22, 111, 130, 310)


class Library(NamedTuple):
    """Decays at rest, species after species; particles without their neutrinos.

    ``species`` (S,) pdg; ``leptonic`` (S,) whether only decays straight to e or mu are in; ``branching`` (S,) the share of all decays that
    those are; ``first`` (S + 1,) decays of each; ``offsets`` (decays + 1,) particles of each; ``pdg``, ``charge`` (n,); ``momentum`` (n, 4)
    GeV; ``vertex`` (n, 4) x y z and ct in mm from where the hadron was born.
    """

    species: np.ndarray
    leptonic: np.ndarray
    branching: np.ndarray
    first: np.ndarray
    offsets: np.ndarray
    pdg: np.ndarray
    charge: np.ndarray
    momentum: np.ndarray
    vertex: np.ndarray


class Candidate(NamedTuple):
    """What counts as a lepton candidate: pT above ``min_pt`` (GeV), |eta| below ``max_eta``, relative isolation below ``max_isolation``."""

    min_pt: float = 22.0
    max_eta: float = 4.0
    max_isolation: float = 0.45
    cone: float = 0.3


def find_species(library: Library, pdg: np.ndarray, leptonic: bool) -> np.ndarray:
    """Places of (n,) hadrons in the library, -1 where it has none."""
    matches = (np.abs(pdg)[:, None] == library.species) & (library.leptonic == leptonic)
    return np.where(matches.any(axis=1), matches.argmax(axis=1), -1)


@cached_njit()
def _transform(
    vector: np.ndarray, rotation: np.ndarray, hadron: np.ndarray
) -> tuple[float, float, float, float]:
    """Turn a four-vector (space, time) by a unit quaternion and boost it from the hadron's rest frame."""
    w, x, y, z = rotation
    a, b, c, t = vector
    # v + 2 w (q x v) + 2 q x (q x v)
    u, v, r = y * c - z * b, z * a - x * c, x * b - y * a
    a, b, c = (
        a + 2 * (w * u + y * r - z * v),
        b + 2 * (w * v + z * u - x * r),
        c + 2 * (w * r + x * v - y * u),
    )
    px, py, pz, energy = hadron
    mass = np.sqrt(energy * energy - px * px - py * py - pz * pz)
    along = (a * px + b * py + c * pz) / mass
    factor = (along / (energy / mass + 1.0) + t) / mass
    return a + factor * px, b + factor * py, c + factor * pz, energy / mass * t + along


@cached_njit()
def _in_cone(eta: float, phi: float, other_eta: float, other_phi: float, cone: float) -> bool:
    d_phi = (phi - other_phi + np.pi) % (2 * np.pi) - np.pi
    return (eta - other_eta) ** 2 + d_phi * d_phi < cone * cone


@cached_njit()
def _cone_sum(
    library: Library,
    hadrons: np.ndarray,
    decay: np.ndarray,
    rotation: np.ndarray,
    visible: np.ndarray,
    eta: float,
    phi: float,
    cone: float,
) -> float:
    """Sum of pT around a direction, over the stable particles (n, 3: pT, eta, phi) and the decays chosen; GeV."""
    total = 0.0
    for i in range(len(visible)):
        if _in_cone(eta, phi, visible[i, 1], visible[i, 2], cone):
            total += visible[i, 0]
    for h in range(len(hadrons)):
        for i in range(library.offsets[decay[h]], library.offsets[decay[h] + 1]):
            px, py, pz, _ = _transform(library.momentum[i], rotation[h], hadrons[h])
            pt = np.hypot(px, py)
            if _in_cone(eta, phi, np.arcsinh(pz / pt), np.arctan2(py, px), cone):
                total += pt
    return total


@cached_njit()
def _passes(
    candidate: Candidate,
    library: Library,
    hadrons: np.ndarray,
    decay: np.ndarray,
    rotation: np.ndarray,
    visible: np.ndarray,
    only: int,
) -> bool:
    """Whether the decays chosen hold a lepton candidate; of hadron ``only``, or of any where that is -1."""
    for h in range(len(hadrons)):
        if only >= 0 and h != only:
            continue
        for i in range(library.offsets[decay[h]], library.offsets[decay[h] + 1]):
            if abs(library.pdg[i]) != 11 and abs(library.pdg[i]) != 13:
                continue
            px, py, pz, _ = _transform(library.momentum[i], rotation[h], hadrons[h])
            pt = np.hypot(px, py)
            if pt <= candidate.min_pt:
                continue
            eta, phi = np.arcsinh(pz / pt), np.arctan2(py, px)
            if abs(eta) < candidate.max_eta:
                around = (
                    _cone_sum(library, hadrons, decay, rotation, visible, eta, phi, candidate.cone)
                    - pt
                )
                if around < candidate.max_isolation * pt:
                    return True
    return False


@cached_njit()
def _count_passing(
    candidate: Candidate,
    library: Library,
    hadrons: np.ndarray,
    decay: np.ndarray,
    rotation: np.ndarray,
    visible: np.ndarray,
    forced: np.ndarray,
) -> tuple[int, int]:
    """How many of the tries pass, and the first that does; the arguments are those of ``_passes``, one a try."""
    passed, first = 0, -1
    for i in range(len(forced)):
        if _passes(candidate, library, hadrons, decay[i], rotation[i], visible, forced[i]):
            if passed == 0:
                first = i
            passed += 1
    return passed, first


def try_decays(
    rng: np.random.Generator,
    candidate: Candidate,
    library: Library,
    tries: int,
    force: bool,
    pdg: np.ndarray,
    hadrons: np.ndarray,
    visible: np.ndarray,
) -> tuple[int, float, np.ndarray, np.ndarray]:
    """Decay an event's hadrons ``tries`` times.

    Parameters
    ----------
    rng : Generator
    candidate : Candidate
    library : Library
        Natural decays of every hadron here, and leptonic ones of those that may be forced.
    tries : int
    force : bool
        Whether in each try one hadron, drawn by its leptonic branching ratio, takes a leptonic decay; the others decay naturally and
        their leptons do not count.
    pdg : (hadrons,)
    hadrons : (hadrons, 4), px py pz E in GeV
    visible : (n, 3), pT (GeV), eta and phi of the event's other particles

    Returns
    -------
    passed : int
        The tries with a lepton candidate.
    probability : float
        Estimate of the chance that the event has one in nature.
    decay, rotation : (hadrons,), (hadrons, 4)
        The first of them: places in the library, and quaternions.
    """
    n = len(pdg)
    natural, leptonic = find_species(library, pdg, False), find_species(library, pdg, True)
    branching = np.where(leptonic >= 0, library.branching[leptonic], 0.0)
    share = branching.sum() if force else 1.0
    if n == 0 or share == 0.0:
        return 0, 0.0, np.zeros(n, np.int64), np.zeros((n, 4))
    forced = np.full(tries, -1)
    if force:
        forced = np.searchsorted(np.cumsum(branching), share * rng.random(tries), "right").clip(
            max=n - 1
        )
    species = np.where(np.arange(n) == forced[:, None], leptonic, natural)
    low, high = library.first[species], library.first[species + 1]
    decay = low + (rng.random((tries, n)) * (high - low)).astype(np.int64)
    rotation = rng.standard_normal((tries, n, 4))
    rotation /= np.linalg.norm(rotation, axis=2, keepdims=True)  # uniform over rotations
    passed, first = _count_passing(candidate, library, hadrons, decay, rotation, visible, forced)
    return passed, share * passed / tries, decay[first], rotation[first]


@cached_njit()
def products(
    library: Library,
    decay: np.ndarray,
    rotation: np.ndarray,
    pdg: np.ndarray,
    hadrons: np.ndarray,
    born: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The particles of the decays chosen: pdg, charge, momentum (n, 4) GeV and vertex (n, 3) mm.

    ``born`` (hadrons, 3) is where the hadrons were made, mm; the other arguments are as in ``try_decays``.
    """
    n = 0
    for h in range(len(pdg)):
        n += library.offsets[decay[h] + 1] - library.offsets[decay[h]]
    out_pdg, out_charge = np.empty(n, np.int32), np.empty(n, np.int8)
    momentum, vertex, at = np.empty((n, 4)), np.empty((n, 3)), 0
    for h in range(len(pdg)):
        sign = 1 if pdg[h] > 0 else -1
        for i in range(library.offsets[decay[h]], library.offsets[decay[h] + 1]):
            own = library.pdg[i]
            out_pdg[at] = own if own in _SELF_CONJUGATE else sign * own
            out_charge[at] = sign * library.charge[i]
            px, py, pz, energy = _transform(library.momentum[i], rotation[h], hadrons[h])
            momentum[at, 0], momentum[at, 1], momentum[at, 2], momentum[at, 3] = px, py, pz, energy
            x, y, z, _ = _transform(library.vertex[i], rotation[h], hadrons[h])
            vertex[at, 0], vertex[at, 1], vertex[at, 2] = (
                born[h, 0] + x,
                born[h, 1] + y,
                born[h, 2] + z,
            )
            at += 1
    return out_pdg, out_charge, momentum, vertex


def join(parts: Sequence[Library]) -> Library:
    """One library from several."""
    columns = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in Library._fields
        if name not in ("first", "offsets")
    }
    n_decays = np.concatenate([np.diff(part.first) for part in parts])
    n_particles = np.concatenate([np.diff(part.offsets) for part in parts])
    return Library(first=offsets_of(n_decays), offsets=offsets_of(n_particles), **columns)
