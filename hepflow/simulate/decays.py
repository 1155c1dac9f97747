"""Decays of heavy hadrons: many tries per event until an isolated lepton comes out.

One QCD event in about 13,000 passes the trigger, nearly all by the semileptonic decay of a heavy
hadron whose other products are soft. So the generator leaves weakly decaying hadrons undecayed, and
each event's are decayed up to ``tries`` times. A decay is drawn from those that Pythia made,
at rest, rotated at random (hadrons are produced unpolarised) and boosted::

    library, at rest       rotated        boosted with the hadron

        D                    l                D   l
        |                    |                |  /
        B -- l        ->     B -- D     ->    B --- nu     isolated, pT > 22 GeV?
        |                    |
        nu                   nu

The first try with a lepton candidate is kept; an event is used at most once. A hadron's decay is
independent of the rest of its event, so this biases only events that are so likely to succeed that
several tries would: about a tenth of those accepted.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hepflow.physics.isolation import CONE
from hepflow.physics.selection import LEPTON_ISOLATION
from hepflow.physics.skim import LEPTON_PT
from hepflow.simulate.particles import Event, offsets_of
from hepflow.system.compiled import cached_njit

# weakly decaying hadrons; antiparticles are drawn by conjugation
BOTTOM = (511, 521, 531, 541, 5122, 5132, 5232, 5332)
CHARM = (411, 421, 431, 4122, 4132, 4232, 4332)
_SELF_CONJUGATE = (22, 111, 130, 310)


class Library(NamedTuple):
    """Decays at rest, species after species, without neutrinos.

    ``species`` (S,) pdg; ``leptonic`` (S,) True if only decays with e or mu are listed;
    ``branching`` (S,) their fraction of all decays; ``first`` (S + 1,) decays of each species;
    ``offsets`` (decays + 1,) particles of each decay; ``pdg``, ``charge`` (n,); ``momentum`` (n, 4)
    GeV; ``vertex`` (n, 4) x y z and ct in mm from where the hadron was produced.
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
    """Cuts of a lepton candidate: momentum in GeV, and isolation by generated particles."""

    min_pt: float = LEPTON_PT - 1.0  # the detector smears by 1-3 %: few below pass the trigger
    max_eta: float = 4.0
    max_isolation: float = LEPTON_ISOLATION
    cone: float = CONE


class _Undecayed(NamedTuple):
    """An event before its decays: ``hadrons`` (H, 4) GeV, other particles (n, 3) pT eta phi."""

    library: Library
    hadrons: np.ndarray
    visible: np.ndarray


def find_species(library: Library, pdg: np.ndarray, leptonic: bool) -> np.ndarray:
    """Return the position in the library of each of (n,) hadrons, -1 if it is not there."""
    available = np.flatnonzero(library.leptonic == leptonic)
    position = {int(library.species[i]): int(i) for i in available}
    return np.array([position.get(abs(int(kind)), -1) for kind in pdg], np.int64)


@cached_njit()
def _transform(
    vector: np.ndarray, rotation: np.ndarray, hadron: np.ndarray
) -> tuple[float, float, float, float]:
    """Rotate a four-vector (space, time) by a unit quaternion, and boost it to the laboratory."""
    w, x, y, z = rotation
    a, b, c, t = vector
    # rotation of v by (w, q): v + 2 w (q x v) + 2 q x (q x v), where (u, v, r) = q x v
    u, v, r = y * c - z * b, z * a - x * c, x * b - y * a
    a, b, c = (
        a + 2 * (w * u + y * r - z * v),
        b + 2 * (w * v + z * u - x * r),
        c + 2 * (w * r + x * v - y * u),
    )
    # boost: along = p . v / m, v' = v + p (along / (gamma + 1) + t) / m, t' = gamma t + along
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
    event: _Undecayed, decay: np.ndarray, rotation: np.ndarray, eta: float, phi: float, cone: float
) -> float:
    """Return the pT sum (GeV) around a direction, over decay products and other particles."""
    library, total = event.library, 0.0
    for i in range(len(event.visible)):
        if _in_cone(eta, phi, event.visible[i, 1], event.visible[i, 2], cone):
            total += event.visible[i, 0]
    for h in range(len(event.hadrons)):
        for i in range(library.offsets[decay[h]], library.offsets[decay[h] + 1]):
            px, py, pz, _ = _transform(library.momentum[i], rotation[h], event.hadrons[h])
            pt = np.hypot(px, py)
            if _in_cone(eta, phi, np.arcsinh(pz / pt), np.arctan2(py, px), cone):
                total += pt
    return total


@cached_njit()
def _passes(
    cuts: Candidate, event: _Undecayed, decay: np.ndarray, rotation: np.ndarray, only: int
) -> bool:
    """Return whether hadron ``only`` (any, if that is -1) decays to a lepton candidate."""
    library = event.library
    for h in range(len(event.hadrons)):
        if only >= 0 and h != only:
            continue
        for i in range(library.offsets[decay[h]], library.offsets[decay[h] + 1]):
            if abs(library.pdg[i]) != 11 and abs(library.pdg[i]) != 13:
                continue
            px, py, pz, _ = _transform(library.momentum[i], rotation[h], event.hadrons[h])
            pt = np.hypot(px, py)
            if pt <= cuts.min_pt:
                continue
            eta, phi = np.arcsinh(pz / pt), np.arctan2(py, px)
            if abs(eta) < cuts.max_eta:
                around = _cone_sum(event, decay, rotation, eta, phi, cuts.cone) - pt
                if around < cuts.max_isolation * pt:
                    return True
    return False


@cached_njit()
def _count_passing(
    cuts: Candidate, event: _Undecayed, decay: np.ndarray, rotation: np.ndarray, forced: np.ndarray
) -> tuple[int, int]:
    """Return how many tries pass, and the first that does; one row of the arrays per try."""
    passed, first = 0, -1
    for i in range(len(forced)):
        if _passes(cuts, event, decay[i], rotation[i], forced[i]):
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
    """Decay an event's hadrons, (hadrons, 4) px py pz E in GeV, ``tries`` times.

    With ``force``, one hadron per try, drawn by its leptonic branching ratio, decays leptonically;
    the others decay naturally, and their leptons do not count. There are fewer tries by the sum of
    the branching ratios, so an event is as likely to pass. ``visible`` is (n, 3) pT (GeV), eta and
    phi of the event's other particles.

    Return the number of tries with a lepton candidate, an estimate of its probability in nature,
    and the first of those tries: (hadrons,) positions in the library, (hadrons, 4) quaternions.
    """
    n = len(pdg)
    natural, leptonic = find_species(library, pdg, False), find_species(library, pdg, True)
    branching = np.where(leptonic >= 0, library.branching[leptonic], 0.0)
    share = branching.sum() if force else 1.0
    n_tries = int(tries * share + rng.random())
    if n == 0 or n_tries == 0:
        return 0, 0.0, np.zeros(n, np.int64), np.zeros((n, 4))
    forced = np.full(n_tries, -1)
    if force:
        drawn = share * rng.random(n_tries)
        forced = np.searchsorted(np.cumsum(branching), drawn, "right").clip(max=n - 1)
    species = np.where(np.arange(n) == forced[:, None], leptonic, natural)
    low, high = library.first[species], library.first[species + 1]
    decay = low + (rng.random((n_tries, n)) * (high - low)).astype(np.int64)
    rotation = rng.standard_normal((n_tries, n, 4))
    rotation /= np.linalg.norm(rotation, axis=2, keepdims=True)  # uniform over rotations
    event = _Undecayed(library, hadrons, visible)
    passed, first = _count_passing(candidate, event, decay, rotation, forced)
    return passed, passed / tries, decay[first], rotation[first]


@cached_njit()
def products(
    library: Library,
    decay: np.ndarray,
    rotation: np.ndarray,
    pdg: np.ndarray,
    hadrons: np.ndarray,
    born: np.ndarray,
) -> Event:
    """Return the decay products, as an event, of hadrons ``born`` (hadrons, 3) mm."""
    n = 0
    for h in range(len(pdg)):
        n += library.offsets[decay[h] + 1] - library.offsets[decay[h]]
    out_pdg, out_charge = np.empty(n, np.int32), np.empty(n, np.int8)
    momentum, vertex, k = np.empty((n, 4)), np.empty((n, 3)), 0
    for h in range(len(pdg)):
        sign = 1 if pdg[h] > 0 else -1
        for i in range(library.offsets[decay[h]], library.offsets[decay[h] + 1]):
            kind = library.pdg[i]
            out_pdg[k] = kind if kind in _SELF_CONJUGATE else sign * kind
            out_charge[k] = sign * library.charge[i]
            momentum[k] = _transform(library.momentum[i], rotation[h], hadrons[h])
            flight = _transform(library.vertex[i], rotation[h], hadrons[h])
            vertex[k] = born[h] + np.array(flight[:3])
            k += 1
    return out_pdg, out_charge, momentum, vertex


def join(parts: Sequence[Library]) -> Library:
    """Return one library from several."""
    joined = {name: np.concatenate([getattr(p, name) for p in parts]) for name in Library._fields}
    for name in ("first", "offsets"):
        joined[name] = offsets_of(np.concatenate([np.diff(getattr(p, name)) for p in parts]))
    return Library(**joined)
