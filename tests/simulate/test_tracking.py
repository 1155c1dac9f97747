"""Propagation against analytic geometry, efficiencies and smearing against the card."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hepflow.simulate import card
from hepflow.simulate.tracking import find_tracks, log_normal, propagate

RADIUS, HALF_LENGTH, FIELD = card.RADIUS, card.HALF_LENGTH, card.FIELD_TESLA


def reach(
    charge: int, momentum: tuple[float, ...], vertex: tuple[float, ...] = (0.0, 0.0, 0.0)
) -> np.ndarray:
    px, py, pz = momentum
    four = np.array([[px, py, pz, np.sqrt(px * px + py * py + pz * pz)]])
    return propagate(np.array([charge], np.int8), four, np.array([vertex]))[0]


def bending_radius(pt: float) -> float:
    return pt / (0.299792458e-3 * FIELD)


def test_a_neutral_goes_straight_to_the_wall() -> None:
    assert reach(0, (3.0, 4.0, 5.0)) == pytest.approx(
        [RADIUS * 0.6, RADIUS * 0.8, RADIUS], rel=1e-12
    )


def test_a_forward_neutral_leaves_through_the_end() -> None:
    assert reach(0, (0.0, 1.0, -10.0)) == pytest.approx([0.0, 300.0, -HALF_LENGTH], rel=1e-12)


def test_a_neutral_from_a_displaced_vertex_keeps_its_direction() -> None:
    x, y, z = reach(0, (1.0, 0.0, 0.0), (100.0, 200.0, 30.0))
    assert (x, y, z) == pytest.approx((np.sqrt(RADIUS**2 - 200.0**2), 200.0, 30.0), rel=1e-12)


@pytest.mark.parametrize("charge", [-1, 1])
def test_a_charged_particle_turns_by_the_angle_of_its_arc(charge: int) -> None:
    """The chord R of a circle r ends asin(R / 2r) off, clockwise for a positive charge."""
    pt = 2.0
    x, y, z = reach(charge, (pt, 0.0, 0.0))
    half = np.arcsin(RADIUS / (2 * bending_radius(pt)))
    assert np.hypot(x, y) == pytest.approx(RADIUS, rel=1e-12)
    assert np.arctan2(y, x) == pytest.approx(-charge * half, rel=1e-12)
    assert z == 0.0


def test_z_grows_with_the_arc_and_not_with_the_chord() -> None:
    pt, pz = 1.5, 0.9
    turn = bending_radius(pt)
    arc = 2 * turn * np.arcsin(RADIUS / (2 * turn))
    assert reach(1, (pt, 0.0, pz))[2] == pytest.approx(arc * pz / pt, rel=1e-12)


def test_a_looper_spirals_to_the_end() -> None:
    pt, pz = 0.3, 0.2
    x, y, z = reach(1, (pt, 0.0, pz))
    turn = bending_radius(pt)
    angle = HALF_LENGTH * pt / pz / turn
    assert (x, y, z) == pytest.approx(
        (turn * np.sin(angle), -turn * (1 - np.cos(angle)), HALF_LENGTH), abs=1e-6
    )


def test_particles_born_outside_or_along_the_beam_reach_no_wall() -> None:
    assert np.isnan(reach(0, (1.0, 0.0, 0.0), (RADIUS + 1, 0.0, 0.0))).all()
    assert np.isnan(reach(0, (1.0, 0.0, 0.0), (0.0, 0.0, HALF_LENGTH + 1))).all()
    assert np.isnan(reach(1, (0.0, 0.0, 7.0))).all()
    assert np.isnan(reach(1, (0.1, 0.0, 0.0))).all()  # an endless loop


momenta = st.floats(-50, 50).filter(lambda p: abs(p) > 0.05)


@given(
    charge=st.sampled_from([-1, 0, 1]),
    px=momenta,
    py=momenta,
    pz=momenta,
    x=st.floats(-80, 80),
    y=st.floats(-80, 80),
)
def test_everything_ends_on_the_cylinder_on_its_own_circle(
    charge: int, px: float, py: float, pz: float, x: float, y: float
) -> None:
    out = reach(charge, (px, py, pz), (x, y, 10.0))
    on_wall = np.hypot(out[0], out[1]) == pytest.approx(RADIUS, rel=1e-6)
    on_end = abs(out[2]) == pytest.approx(HALF_LENGTH, rel=1e-9)
    assert on_wall or on_end
    assert np.hypot(out[0], out[1]) <= RADIUS * (1 + 1e-6)
    assert abs(out[2]) <= HALF_LENGTH * (1 + 1e-9)
    if charge:
        pt = np.hypot(px, py)
        turn = bending_radius(pt)
        centre = (x + charge * turn * py / pt, y - charge * turn * px / pt)
        assert np.hypot(out[0] - centre[0], out[1] - centre[1]) == pytest.approx(turn, rel=1e-6)


@pytest.mark.parametrize(
    ("table", "pt", "eta", "value"),
    [
        (card.HADRON_TRACKING, 0.2, 0.0, 0.0),
        (card.HADRON_TRACKING, 0.5, -1.2, 0.48),
        (card.HADRON_TRACKING, 5.0, 1.3, 0.87),
        (card.HADRON_TRACKING, 5.0, 4.1, 0.0),
        (card.ELECTRON_TRACKING, 5.0, 2.0, 0.87),
        (card.HADRON_RESOLUTION, 0.5, 0.1, 0.004675),
        (card.HADRON_RESOLUTION, 10.0, 0.1, 0.005179),
        (card.HADRON_RESOLUTION, 200.0, -3.9, 1.97008),
        (card.MUON_RESOLUTION, 30.0, 2.45, 0.0409),
        (card.MUON_RESOLUTION, 30.0, 3.1, 0.130287),
        (card.MUON_ID, 3.0, 3.5, 1.0),
        (card.MUON_ID, 30.0, 3.5, 0.0),
        (card.ELECTRON_ID, 25.0, 1.5, 0.40),
        (card.ELECTRON_ID, 80.0, 1.0, 1.0),
    ],
)
def test_tables_give_the_card_s_values(
    table: card.BinnedTable, pt: float, eta: float, value: float
) -> None:
    assert table.at(np.array([pt]), np.array([eta])) == pytest.approx([value], abs=2e-4)


def digest(*tables: tuple[np.ndarray, ...]) -> str:
    columns = [np.ascontiguousarray(column, float) for table in tables for column in table]
    return hashlib.blake2b(b"".join(map(bytes, columns)), digest_size=8).hexdigest()


def test_the_numbers_of_the_card_are_those_of_every_sample_since_version_2() -> None:
    tracking = (card.HADRON_TRACKING, card.ELECTRON_TRACKING, card.MUON_TRACKING)
    resolution = (card.HADRON_RESOLUTION, card.MUON_RESOLUTION)
    assert digest(*tracking, *resolution, card.ELECTRON_ID, card.MUON_ID) == "3ffb0d95943d7475"
    assert digest(*(table for point in card.BTAG for table in point)) == "5b70cd8ae5d726c2"
    energy = (card.ELECTRON_RESOLUTION, card.ECAL.resolution, card.HCAL.resolution)
    assert digest(*energy, card.ECAL.towers, card.HCAL.towers) == "b832a6dd079d234f"
    assert digest(card.PUPPI) == "735a440e62c543bf"


@pytest.mark.parametrize(
    "table",
    [
        card.HADRON_TRACKING,
        card.ELECTRON_TRACKING,
        card.MUON_TRACKING,
        card.ELECTRON_ID,
        card.MUON_ID,
    ],
)
def test_efficiencies_are_probabilities(table: card.BinnedTable) -> None:
    pt, eta = np.meshgrid(np.geomspace(0.05, 500, 60), np.linspace(-5, 5, 81))
    values = table.at(pt.ravel(), eta.ravel())
    assert values.min() >= 0.0
    assert values.max() <= 1.0


def test_a_log_normal_has_the_mean_and_width_requested() -> None:
    rng = np.random.default_rng(1)
    drawn = log_normal(rng, np.full(20_000, 10.0), np.full(20_000, 3.0))
    assert drawn.mean() == pytest.approx(10.0, abs=0.1)
    assert drawn.std() == pytest.approx(3.0, rel=0.05)
    assert log_normal(rng, np.zeros(3), np.ones(3)).tolist() == [0.0] * 3


def beam(pdg: int, charge: int, pt: float, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mass = {211: 0.13957, 11: 0.000511, 13: 0.10566}[abs(pdg)]
    momentum = np.tile([pt, 0.0, 0.0, np.hypot(pt, mass)], (n, 1))
    return np.full(n, pdg, np.int32), np.full(n, charge, np.int8), momentum


@pytest.mark.parametrize(
    ("pdg", "pt", "eta", "efficiency", "width"),
    [
        (211, 5.0, 0.1, 0.97, 0.0049),
        (-211, 30.0, 2.1, 0.87, 0.02493),
        (11, 40.0, 0.5, 0.97, 0.028),
        (-13, 30.0, 1.1, 1.0, 0.0103),
    ],
)
def test_tracks_are_found_and_smeared_as_in_the_card(
    pdg: int, pt: float, eta: float, efficiency: float, width: float
) -> None:
    n = 20_000
    found = find_tracks(np.random.default_rng(2), *beam(pdg, 1, pt, n), np.full(n, eta))
    assert len(found.pt) / n == pytest.approx(efficiency, abs=0.006)
    assert found.pt.mean() == pytest.approx(pt, rel=0.002)
    assert found.pt.std() / pt == pytest.approx(width, rel=0.03)
    assert found.phi == pytest.approx(0.0)
    assert (
        np.abs(
            found.energy**2
            - found.pt**2
            - (0.13957 if abs(pdg) == 211 else 0.10566 if abs(pdg) == 13 else 0.0) ** 2
        )
        < 1e-6
    ).all()


def test_neutrals_and_lost_particles_leave_no_track() -> None:
    pdg, charge, momentum = beam(211, 1, 5.0, 50)
    assert (
        len(find_tracks(np.random.default_rng(3), pdg, 0 * charge, momentum, np.zeros(50)).pt) == 0
    )
    assert (
        len(find_tracks(np.random.default_rng(3), pdg, charge, momentum, np.full(50, np.nan)).pt)
        == 0
    )
