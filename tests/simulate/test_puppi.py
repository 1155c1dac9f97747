"""PUPPI: properties of the weights, a plain version of them, and the jets of real Delphes files."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("fastjet", reason="pip install 'hepflow[simulate]'")


from hepflow.simulate import card
from hepflow.simulate.puppi import NEUTRAL, PILE_UP, VERTEX, centre_and_width, weights

pytestmark = pytest.mark.slow

Columns = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
seeds = st.integers(0, 2**32 - 1)


def event(seed: int, n_own: int = 60, n_pileup: int = 250, n_neutral: int = 300) -> Columns:
    """pT, eta, phi and origin: two jets of the vertex, and soft particles everywhere."""
    rng = np.random.default_rng(seed)
    origin = np.repeat([VERTEX, PILE_UP, NEUTRAL], [n_own, n_pileup, n_neutral])
    pt = 0.2 + rng.exponential(0.8, len(origin))
    eta = rng.uniform(-4.9, 4.9, len(origin))
    eta[origin != NEUTRAL] *= 4.0 / 4.9
    phi = rng.uniform(-np.pi, np.pi, len(origin))
    for centre in ((0.7, 3.1), (-2.2, 0.3)):  # the first lies across the seam of phi
        inside = (origin != PILE_UP) & (rng.random(len(origin)) < 0.15)
        pt[inside] *= 8
        eta[inside] = rng.normal(centre[0], 0.1, inside.sum())
        phi[inside] = (rng.normal(centre[1], 0.1, inside.sum()) + np.pi) % (2 * np.pi) - np.pi
    return pt, eta, phi, origin


def plain(columns: Columns, n_vertices: int) -> list[float]:
    """Return the weights by loops over particles, with probabilities of a chi-squared."""
    pt, eta, phi, origin = (column.tolist() for column in columns)
    n = range(len(pt))
    edges = [0.0, *card.PUPPI.eta.tolist()]
    bins = [next(b for b in range(3) if abs(eta[i]) <= edges[b + 1]) for i in n]

    def alpha(i: int) -> float:
        total = 0.0
        for j in n:
            if card.PUPPI.by_tracks[bins[i]] and origin[j] != VERTEX:
                continue
            turn = abs(phi[i] - phi[j]) % (2 * math.pi)
            squared = (eta[i] - eta[j]) ** 2 + min(turn, 2 * math.pi - turn) ** 2
            if 1e-4 <= squared <= 0.2**2:
                total += pt[j] ** 2 / squared
        return math.log(total) if total else 0.0

    values = [alpha(i) for i in n]
    found = int(0.7 * n_vertices) if PILE_UP in origin else 1
    out = []
    for i in n:
        if origin[i] != NEUTRAL:
            out.append(1.0 if origin[i] == VERTEX else 0.0)
            continue
        b = bins[i]
        there = [j for j in n if bins[j] == b and pt[j] >= card.PUPPI.sample_pt[b]]
        kinds = {PILE_UP} if card.PUPPI.by_tracks[b] else {NEUTRAL, VERTEX, PILE_UP}
        sample = sorted(values[j] for j in there if origin[j] in kinds)
        weight = 1.0
        if sample:
            start = max((k for k, value in enumerate(sample) if value == 0.0), default=0)
            median = sample[start + int(0.5 * (len(sample) - start))]
            squares = [(v - median) ** 2 for v in sample if v != 0.0 and v <= median]
            rms = math.sqrt(sum(squares) / len(squares)) if squares else 0.0
            rms = rms if rms > 0 else math.sqrt(1e-5)
            own = [j for j in there if origin[j] == VERTEX] if card.PUPPI.by_tracks[b] else []
            below = sum(values[j] <= median for j in own)
            quantile = chi_squared_quantile(below / (below + 0.5 * len(sample)))
            centre, width = median - math.sqrt(quantile * rms), rms - math.sqrt(quantile * rms)
            z = (values[i] - centre) / width
            weight = 0.0
            if values[i] != 0.0 and values[i] > centre:
                weight = math.erf(math.sqrt(z * z / 2))  # chi-squared of one degree of freedom
        cut = card.PUPPI.min_pt[b] + found * card.PUPPI.slope[b]
        out.append(weight if weight >= 0.05 and weight * pt[i] >= cut else 0.0)
    return out


def chi_squared_quantile(probability: float) -> float:
    low, high = 0.0, 100.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (
            (middle, high) if math.erf(math.sqrt(middle / 2)) < probability else (low, middle)
        )
    return low


@pytest.mark.parametrize(
    "sizes", [(60, 250, 300), (3, 40, 80), (0, 30, 40), (20, 0, 50), (0, 0, 9)]
)
def test_weights_are_those_of_a_plain_version(sizes: tuple[int, int, int]) -> None:
    for seed in range(3):
        columns = event(seed, *sizes)
        assert weights(*columns, 21) == pytest.approx(plain(columns, 21), abs=1e-9)


@given(seed=seeds)
def test_weights_of_tracks_tell_the_vertex_and_those_of_neutrals_are_probabilities(
    seed: int,
) -> None:
    pt, eta, phi, origin = event(seed)
    weight = weights(pt, eta, phi, origin, 21)
    assert (weight[origin == VERTEX] == 1.0).all()
    assert (weight[origin == PILE_UP] == 0.0).all()
    neutral = weight[origin == NEUTRAL]
    assert ((neutral == 0.0) | (neutral >= card.PUPPI_MIN_WEIGHT)).all()
    assert neutral.max() <= 1.0


@given(seed=seeds, angle=st.floats(-3.0, 3.0))
def test_a_rotated_event_has_the_same_weights(seed: int, angle: float) -> None:
    pt, eta, phi, origin = event(seed)
    turned = (phi + angle + np.pi) % (2 * np.pi) - np.pi
    one, other = weights(pt, eta, phi, origin, 21), weights(pt, -eta, turned, origin, 21)
    assert np.mean(np.abs(one - other) > 1e-6) < 0.01  # but for neighbours just at the cone's edge


@given(seed=seeds)
def test_without_pile_up_only_the_softest_neutrals_are_dropped(seed: int) -> None:
    pt, eta, phi, origin = event(seed, n_pileup=0)
    central = (origin == NEUTRAL) & (np.abs(eta) <= 4.0)
    expected = pt >= np.where(np.abs(eta) <= 1.5, 0.206, 0.213)
    assert (weights(pt, eta, phi, origin, 1) == 1.0)[central].tolist() == expected[central].tolist()


def test_neutrals_near_the_vertex_s_tracks_stay_and_those_near_none_go() -> None:
    pt, eta, phi, origin = event(7)
    extra_pt, extra_eta, extra_phi = [20.0, 5.0, 5.0], [0.0, 0.1, 1.4], [-1.5, -1.5, -1.5]
    near_the_others = (np.abs(eta - 1.4) < 0.25) & (np.abs(phi + 1.5) < 0.25) & (origin == VERTEX)
    keep = ~near_the_others
    weight = weights(
        np.append(pt[keep], extra_pt),
        np.append(eta[keep], extra_eta),
        np.append(phi[keep], extra_phi),
        np.append(origin[keep], [VERTEX, NEUTRAL, NEUTRAL]),
        21,
    )
    assert weight[-2] > 0.95
    assert weight[-1] == 0.0


def test_more_vertices_raise_the_smallest_pt_of_neutrals() -> None:
    pt, eta, phi, origin = event(8)
    few, many = (weights(pt, eta, phi, origin, n) for n in (10, 200))
    least = card.PUPPI.min_pt[0] + card.PUPPI.slope[0] * 140
    soft = (origin == NEUTRAL) & (np.abs(eta) <= 1.5) & (pt < least)
    assert (few[soft] > 0).any()
    assert (many[soft] == 0).all()
    kept = many > 0
    assert many[kept].tolist() == few[kept].tolist()


def test_centre_and_width_of_a_gaussian_are_its_own() -> None:
    """Without tracks of the vertex below the median, nothing is corrected."""
    sample = np.random.default_rng(9).normal(3.0, 0.5, 20_000)
    centre, width = centre_and_width(sample, sample[:0])
    assert (centre, width) == pytest.approx((3.0, 0.5), abs=0.02)
    lower = centre_and_width(sample, np.full(5000, 2.0))
    assert lower[0] < centre
    assert lower[1] < width
