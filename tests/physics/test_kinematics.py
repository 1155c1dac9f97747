"""Kinematics: identities, and the same numbers as the standard library."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import config

from hepflow.physics.kinematics import delta_phi, delta_r, momentum, sinh, transverse_mass_squared

angles = st.floats(-10, 10)
rapidities = st.floats(-8, 8)


@given(rapidities | st.floats(-1e-3, 1e-3))
def test_sinh_is_the_standard_one(x):
    assert sinh(x) == pytest.approx(math.sinh(x), rel=1e-14, abs=0)


@pytest.mark.parametrize("sign", [-1, 1])
def test_sinh_is_the_standard_one_to_the_last_bits_on_both_sides_of_its_series(sign):
    for i in range(1, 200):
        x = sign * i / 100
        assert sinh(x) == pytest.approx(math.sinh(x), rel=8e-16, abs=0)
    assert sinh(0.0) == 0.0


@pytest.mark.skipif(
    config.DISABLE_JIT, reason="Python's own raises where the compiled one gives infinity"
)
def test_sinh_overflows_to_infinity():
    assert sinh(1000.0) == math.inf
    assert sinh(-1000.0) == -math.inf
    assert math.isnan(sinh(math.nan))


@given(angles, angles)
def test_delta_phi_is_within_half_a_turn_and_keeps_sine_and_cosine(a, b):
    difference = delta_phi(a, b)
    assert abs(difference) <= math.pi + 1e-12
    assert math.cos(difference) == pytest.approx(math.cos(a - b), abs=1e-12)
    assert math.sin(difference) == pytest.approx(math.sin(a - b), abs=1e-12)


@given(rapidities, angles, rapidities, angles)
def test_delta_r_is_a_distance(eta_a, phi_a, eta_b, phi_b):
    assert delta_r(eta_a, phi_a, eta_b, phi_b) == pytest.approx(
        delta_r(eta_b, phi_b, eta_a, phi_a), abs=1e-9
    )
    assert delta_r(eta_a, phi_a, eta_a, phi_a) == 0.0


@given(st.floats(0.1, 1e3), rapidities, st.floats(-3, 3))
def test_a_momentum_is_massless_and_has_its_direction(pt, eta, phi):
    energy, px, py, pz = momentum(pt, eta, phi)
    assert energy**2 == pytest.approx(px**2 + py**2 + pz**2)
    assert math.hypot(px, py) == pytest.approx(pt)
    assert math.atan2(py, px) == pytest.approx(phi, abs=1e-12)
    assert energy == pytest.approx(pt * math.cosh(eta))


@given(st.floats(0.1, 1e3), angles, st.floats(0.1, 1e3), angles)
def test_the_transverse_mass_is_that_of_the_sum_of_the_momenta(pt, phi, met, met_phi):
    energy = pt + met
    px = pt * math.cos(phi) + met * math.cos(met_phi)
    py = pt * math.sin(phi) + met * math.sin(met_phi)
    expected = energy**2 - px**2 - py**2
    found = transverse_mass_squared(pt, phi, met, met_phi)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9 * energy**2)


def test_delta_r_is_pythagorean_across_the_end_of_the_azimuth():
    assert delta_r(1.0, math.pi - 0.2, -2.0, 0.2 - math.pi) == pytest.approx(math.hypot(3.0, 0.4))
    assert delta_r(1.0, 0.5, 1.0, 0.2) == pytest.approx(0.3)


def test_the_transverse_mass_of_back_to_back_momenta_is_their_sum():
    assert math.sqrt(transverse_mass_squared(40.0, 0.0, 40.0, math.pi)) == pytest.approx(80.0)
    assert transverse_mass_squared(40.0, 1.0, 40.0, 1.0) == 0.0
