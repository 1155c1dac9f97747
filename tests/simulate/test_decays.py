"""Decays of heavy hadrons: kinematics, branching ratios, and the probabilities of many tries."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("pythia8mc", reason="pip install 'hepflow[simulate]'")

from hepflow.simulate import decays
from hepflow.simulate.decays import (
    BOTTOM,
    CHARM,
    Candidate,
    Library,
    find_species,
    join,
    products,
    try_decays,
)
from hepflow.simulate.pythia import decay_library

pytestmark = [pytest.mark.slow, pytest.mark.pythia]

B_MASS = 5.27963
ANY_LEPTON = Candidate(0.0, 99.0, np.inf)


@pytest.fixture(scope="module")
def library() -> Library:
    return join(
        [
            decay_library((*BOTTOM[:2], *CHARM[:2]), 1000, 1, False),
            decay_library(BOTTOM[:2], 1000, 2, True),
        ]
    )


def hadron(pt: float, mass: float = B_MASS) -> np.ndarray:
    return np.array([[pt, 0.0, 0.0, np.hypot(pt, mass)]])


def one_decay(
    library: Library, pdg: int, decay: int, momentum: np.ndarray
) -> tuple[np.ndarray, ...]:
    rotation = np.random.default_rng(decay).normal(size=(1, 4))
    rotation /= np.linalg.norm(rotation)
    return products(
        library, np.array([decay]), rotation, np.array([pdg]), momentum, np.zeros((1, 3))
    )


def test_the_library_finds_species_and_kinds(library: Library) -> None:
    assert find_species(library, np.array([511, -521, 411, 541]), False).tolist() == [0, 1, 2, -1]
    assert find_species(library, np.array([-511, 521, 411]), True).tolist() == [4, 5, -1]
    assert np.diff(library.first).tolist()[:4] == [1000] * 4
    assert library.offsets[-1] == len(library.pdg)


def test_leptonic_decays_have_the_branching_ratios_of_nature() -> None:
    """PDG, to e and mu: D+ 34 %, D0 13 %, B 21 % straight, and nearly as much by charm."""
    species = (411, 421, *BOTTOM[:2])
    library = decay_library(species, 4000, 3, True)
    d_plus, d_zero, b_zero, b_plus = library.branching
    assert d_plus == pytest.approx(0.34, abs=0.05)
    assert d_zero == pytest.approx(0.14, abs=0.03)
    assert b_zero == pytest.approx(0.44, abs=0.06)  # more D+ than from the B+
    assert b_plus == pytest.approx(0.39, abs=0.06)
    assert np.diff(library.first) == pytest.approx(4000 * library.branching, rel=0.01)


def test_every_forced_decay_has_a_lepton(library: Library) -> None:
    for decay in range(library.first[4], library.first[6]):
        assert np.isin(
            np.abs(library.pdg[library.offsets[decay] : library.offsets[decay + 1]]), (11, 13)
        ).any()


def test_no_decay_at_rest_makes_more_energy_than_the_mass(library: Library) -> None:
    visible = np.add.reduceat(library.momentum, library.offsets[:-1][np.diff(library.offsets) > 0])
    energy, momentum = visible[:, 3], np.linalg.norm(visible[:, :3], axis=1)
    assert (energy < 5.3).all()
    # neutrinos carry away the rest: their energy is at least the momentum missing
    assert (energy[:1000] + momentum[:1000] <= B_MASS * (1 + 1e-6)).all()
    charge = np.add.reduceat(
        library.charge.astype(int), library.offsets[:-1][np.diff(library.offsets) > 0]
    )
    assert set(charge[:1000]) == {0}


@given(pt=st.floats(0.1, 500.0), decay=st.integers(0, 999))
def test_a_boost_keeps_invariant_masses(library: Library, pt: float, decay: int) -> None:
    rest = library.momentum[library.offsets[decay] : library.offsets[decay + 1]].sum(axis=0)
    _, _, momentum, _ = one_decay(library, 511, decay, hadron(pt))
    total = momentum.sum(axis=0)
    assert total[3] ** 2 - total[:3] @ total[:3] == pytest.approx(
        rest[3] ** 2 - rest[:3] @ rest[:3], rel=1e-6, abs=1e-5 * pt
    )


def test_antiparticles_decay_to_antiparticles(library: Library) -> None:
    pdg, charge, momentum, vertex = one_decay(library, 521, 1500, hadron(30.0))
    anti_pdg, anti_charge, anti_momentum, anti_vertex = one_decay(library, -521, 1500, hadron(30.0))
    own = np.isin(pdg, (22, 111, 130, 310))
    assert np.array_equal(anti_pdg, np.where(own, pdg, -pdg))
    assert np.array_equal(anti_charge, -charge)
    assert charge.sum() == 1
    assert np.array_equal(momentum, anti_momentum)
    assert np.array_equal(vertex, anti_vertex)


def test_the_flight_is_the_lifetime_stretched_by_the_boost(library: Library) -> None:
    """c tau of the B0 is 0.455 mm; a hadron of momentum p flies p / m times as far."""
    flights = [one_decay(library, 511, decay, hadron(50.0))[3][:, 0].min() for decay in range(1000)]
    assert np.mean(flights) == pytest.approx(0.455 * 50.0 / B_MASS, rel=0.1)


def test_rotations_leave_no_direction_preferred(library: Library) -> None:
    rng = np.random.default_rng(3)
    at_rest, nothing = hadron(0.0), np.zeros((0, 3))
    leptons = []
    for _ in range(1500):
        _, _, decay, rotation = try_decays(
            rng, ANY_LEPTON, library, 20, True, np.array([511]), at_rest, nothing
        )
        pdg, _, momentum, _ = products(
            library, decay, rotation, np.array([511]), at_rest, np.zeros((1, 3))
        )
        hardest = momentum[np.argmax(np.where(np.isin(np.abs(pdg), (11, 13)), momentum[:, 3], 0))]
        leptons.append(hardest[:3] / np.linalg.norm(hardest[:3]))
    mean = np.mean(leptons, axis=0)
    assert np.abs(mean).max() < 4 / np.sqrt(3 * len(leptons))
    assert np.mean(np.square(leptons), axis=0) == pytest.approx([1 / 3] * 3, abs=0.04)


def test_compiled_and_plain_python_agree(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    pdg, hadrons = np.array([511, -521]), np.vstack([hadron(50.0), hadron(30.0)[:, [1, 0, 2, 3]]])
    visible = np.array([[3.0, 0.1, 0.1], [40.0, 0.0, 2.0]])
    arguments = [
        (Candidate(15.0), library, 300, force, pdg, hadrons, visible) for force in (True, False)
    ]
    compiled = [try_decays(np.random.default_rng(7), *rest) for rest in arguments]
    for name in ("_count_passing", "_passes", "_cone_sum", "_transform", "_in_cone"):
        monkeypatch.setattr(decays, name, getattr(decays, name).py_func)
    for rest, (passed, probability, decay, rotation) in zip(arguments, compiled, strict=True):
        plain = try_decays(np.random.default_rng(7), *rest)
        assert passed == plain[0] > 0
        assert probability == pytest.approx(plain[1])
        assert np.array_equal(decay, plain[2])
        assert np.allclose(rotation, plain[3])


def test_forced_and_natural_decays_give_the_same_probability() -> None:
    """Forcing is a way to look where the leptons are, not a way to make more."""
    library = join(
        [decay_library((511, 521), 12_000, 4, False), decay_library((511, 521), 24_000, 5, True)]
    )
    candidate, nothing = Candidate(20.0, 4.0, 0.45), np.zeros((0, 3))
    rng, pdg = np.random.default_rng(8), np.array([521, -511])
    hadrons = np.vstack([hadron(50.0), -hadron(40.0)])
    hadrons[1, 3] = -hadrons[1, 3]
    _, forced, _, _ = try_decays(rng, candidate, library, 50_000, True, pdg, hadrons, nothing)
    _, natural, _, _ = try_decays(rng, candidate, library, 200_000, False, pdg, hadrons, nothing)
    assert forced == pytest.approx(natural, rel=0.15)


def test_a_lepton_in_a_crowd_is_not_a_candidate(library: Library) -> None:
    rng, pdg = np.random.default_rng(9), np.array([511])
    crowd = np.array([[500.0, 0.0, 0.0]])
    alone, _, _, _ = try_decays(
        rng, Candidate(), library, 10_000, True, pdg, hadron(80.0), np.zeros((0, 3))
    )
    crowded, _, _, _ = try_decays(rng, Candidate(), library, 10_000, True, pdg, hadron(80.0), crowd)
    assert alone > 50
    assert crowded <= alone * 0.1
