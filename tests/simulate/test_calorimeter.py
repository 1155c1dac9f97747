"""Towers, shares and the energy flow of single particles."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hepflow.simulate.calorimeter import EnergyFlow, measure, share, tower_index
from hepflow.simulate.card import ECAL, HCAL

pytestmark = pytest.mark.slow

NO_TRACKS = (np.zeros(0, np.int32), *(np.zeros(0) for _ in range(4)))


def hits(pdg: int, energy: float, eta: float, phi: float = 0.3) -> tuple[np.ndarray, ...]:
    return np.array([pdg], np.int32), np.array([energy]), np.array([eta]), np.array([phi])


def tracks(
    pdg: int, energy: float, resolution: float, eta: float, phi: float = 0.3
) -> tuple[np.ndarray, ...]:
    return (
        np.array([pdg], np.int32),
        np.array([energy]),
        np.array([resolution]),
        np.array([eta]),
        np.array([phi]),
    )


def look_up(towers: object, eta: float, phi: float) -> int:
    return int(tower_index(towers, np.array([eta]), np.array([phi]))[0])


def repeat(
    compartment: object,
    particle: tuple[np.ndarray, ...],
    track: tuple[np.ndarray, ...],
    n: int = 4000,
) -> list[EnergyFlow]:
    rng = np.random.default_rng(4)
    return [measure(rng, compartment, particle, track) for _ in range(n)]


@pytest.mark.parametrize("compartment", [ECAL, HCAL])
@given(eta=st.floats(-4.999, 4.999), phi=st.floats(-np.pi, np.pi))
def test_a_tower_contains_the_point_that_it_is_found_by(
    compartment: object, eta: float, phi: float
) -> None:
    towers = compartment.towers
    index = look_up(towers, eta, phi)
    row = np.searchsorted(towers.first, index, "right") - 1
    column = index - towers.first[row]
    assert towers.eta[row] < eta <= towers.eta[row + 1]
    assert (
        -np.pi + 2 * np.pi * column / towers.n_phi[row] - 1e-9
        <= phi
        <= -np.pi + 2 * np.pi * (column + 1) / towers.n_phi[row] + 1e-9
    )


@pytest.mark.parametrize("compartment", [ECAL, HCAL])
def test_towers_tile_the_acceptance(compartment: object) -> None:
    towers = compartment.towers
    assert (np.diff(towers.eta) > 0).all()
    assert towers.eta[[0, -1]].tolist() == [-5.0, 5.0]
    assert towers.first[-1] == towers.n_phi.sum()
    assert [look_up(towers, eta, 0.0) for eta in (5.1, -5.0, np.nan)] == [-1, -1, -1]


def test_towers_are_as_fine_as_in_the_card() -> None:
    def size(towers: object, eta: float) -> tuple[float, int]:
        row = np.searchsorted(towers.eta, eta) - 1
        return round(towers.eta[row + 1] - towers.eta[row], 4), int(towers.n_phi[row])

    assert (
        size(ECAL.towers, 0.5) == size(ECAL.towers, -2.5) == size(HCAL.towers, 2.5) == (0.0174, 360)
    )
    assert size(HCAL.towers, -0.5) == (0.087, 72)
    assert size(ECAL.towers, 3.2) == size(HCAL.towers, -3.2) == (0.175, 36)


@pytest.mark.parametrize(
    ("pdg", "ecal", "hcal"),
    [
        (22, 1, 0),
        (-11, 1, 0),
        (13, 0, 0),
        (211, 0, 1),
        (130, 0, 1),
        (310, 0.3, 0.7),
        (-3122, 0.3, 0.7),
    ],
)
def test_particles_share_their_energy_as_in_the_card(pdg: int, ecal: float, hcal: float) -> None:
    assert (*share(ECAL, np.array([pdg])), *share(HCAL, np.array([pdg]))) == (ecal, hcal)


@pytest.mark.parametrize(
    ("compartment", "pdg", "energy", "eta"),
    [(ECAL, 22, 50.0, 0.5), (ECAL, 22, 80.0, -2.0), (HCAL, 130, 200.0, 1.0)],
)
def test_a_lone_neutral_is_measured_with_the_card_s_resolution(
    compartment: object, pdg: int, energy: float, eta: float
) -> None:
    flow = repeat(compartment, hits(pdg, energy, eta), NO_TRACKS)
    assert all(len(one.et) == 1 for one in flow)
    measured = np.array([one.et[0] * np.cosh(one.eta[0]) for one in flow])
    assert measured.mean() == pytest.approx(energy, rel=0.01)
    assert measured.std() == pytest.approx(
        compartment.resolution.sigma(np.array([energy]), np.array([eta]))[0], rel=0.06
    )
    assert max(abs(one.eta[0] - eta) for one in flow) < 0.087
    assert max(abs(one.phi[0] - 0.3) for one in flow) < 2 * np.pi / 72


def test_a_soft_photon_is_mostly_lost_in_the_noise() -> None:
    assert sum(len(one.et) for one in repeat(ECAL, hits(22, 0.2, 0.5), NO_TRACKS, 500)) < 75


def test_a_charged_hadron_is_not_counted_twice() -> None:
    """Only upward fluctuations beyond a standard deviation look like an extra neutral."""
    flow = repeat(HCAL, hits(211, 20.0, 0.5), tracks(211, 20.0, 0.01, 0.5))
    assert np.mean([len(one.et) for one in flow]) == pytest.approx(0.15, abs=0.04)
    scale = np.array([one.scale[0] for one in flow if len(one.et) == 0])
    assert scale == pytest.approx(1.0, abs=0.01)  # the tracker is far better here, and decides


def test_a_neutral_under_a_track_is_the_remaining_energy() -> None:
    both = tuple(
        np.concatenate(pair)
        for pair in zip(hits(211, 20.0, 0.5), hits(130, 100.0, 0.5), strict=True)
    )
    flow = repeat(HCAL, both, tracks(211, 20.0, 0.01, 0.5))
    remains = np.array([one.et.sum() * np.cosh(0.5) for one in flow])
    assert remains.mean() == pytest.approx(100.0, rel=0.03)


def test_a_poorly_measured_electron_takes_the_calorimeter_s_energy() -> None:
    flow = repeat(ECAL, hits(11, 100.0, 0.5), tracks(11, 110.0, 0.10, 0.5))
    corrected = 110.0 * np.array([one.scale[0] for one in flow])
    assert corrected.mean() == pytest.approx(100.0, rel=0.01)


def test_a_muon_crosses_untouched() -> None:
    for compartment in (ECAL, HCAL):
        flow = measure(
            np.random.default_rng(5), compartment, hits(13, 50.0, 0.5), tracks(13, 50.0, 0.01, 0.5)
        )
        assert len(flow.et) == 0
        assert flow.scale.tolist() == [1.0]


def test_excesses_come_from_minus_to_plus_eta() -> None:
    n = 200
    rng = np.random.default_rng(6)
    particles = (
        np.full(n, 22, np.int32),
        np.full(n, 30.0),
        rng.uniform(-2.9, 2.9, n),
        rng.uniform(-np.pi, np.pi, n),
    )
    eta = measure(rng, ECAL, particles, NO_TRACKS).eta
    assert len(eta) > 150
    assert (np.diff(eta) > -0.0175).all()  # within a tower the place is random
