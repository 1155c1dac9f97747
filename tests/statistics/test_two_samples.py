"""Distances, thresholds and ratios of two samples against scipy, numpy and chance."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats
from sklearn.metrics import roc_auc_score

from hepflow.statistics import two_samples
from hepflow.statistics.metrics import Measurement
from hepflow.statistics.two_samples import (
    EXACT_BELOW,
    LEVEL,
    bin_ratios,
    count,
    edges,
    histogram,
    ks_distance,
    ks_threshold,
    over,
)


def samples(**elements: float) -> st.SearchStrategy[np.ndarray]:
    numbers = st.floats(-9, 9, width=32, **elements) | st.integers(-3, 3).map(float)
    return arrays.arrays(np.float32, st.integers(2, 40), elements=numbers)


@given(first=samples(), second=samples())
def test_distance_and_auc_are_those_of_scipy_and_scikit_learn(
    first: np.ndarray, second: np.ndarray
) -> None:
    counts = count(first, second)
    assert ks_distance(counts) == pytest.approx(stats.ks_2samp(first, second).statistic, abs=1e-12)
    label = np.repeat([1, 0], [len(first), len(second)])
    expected = roc_auc_score(label, np.concatenate([first, second]))
    assert two_samples.auc(counts).value == pytest.approx(expected, abs=1e-12)


@given(n=st.integers(2, 60), m=st.integers(2, 60), level=st.sampled_from([0.01, 0.05, 0.3]))
def test_the_threshold_is_the_smallest_distance_whose_exact_probability_is_below_the_level(
    n: int, m: int, level: float
) -> None:
    threshold = ks_threshold(n, m, level)
    rng = np.random.default_rng([n, m])
    for shift in np.linspace(0, 2, 12):  # samples of many distances
        first, second = rng.normal(size=n), rng.normal(shift, size=m)
        exact = stats.ks_2samp(first, second, method="exact")
        reaches = ks_distance(count(first, second)) >= threshold
        assert reaches == (exact.pvalue <= level)


@pytest.mark.parametrize("n", [50, 300, 1000, EXACT_BELOW // 2])
def test_the_threshold_of_equal_sizes_is_that_of_gnedenko_and_korolyuk(n: int) -> None:
    def log_ways(k: int) -> float:
        return math.lgamma(2 * n + 1) - math.lgamma(n - k + 1) - math.lgamma(n + k + 1)

    def reached(k: int) -> float:
        signs = (((-1) ** (j + 1), log_ways(j * k)) for j in range(1, n // k + 1))
        return 2 * sum(sign * math.exp(ways - log_ways(0)) for sign, ways in signs)

    smallest = next(k for k in range(1, n) if reached(k) <= LEVEL)
    assert ks_threshold(n, n) == pytest.approx(smallest / n, abs=1e-12)


def test_the_exact_threshold_goes_over_into_the_limit() -> None:
    for n, m in ((EXACT_BELOW // 2, EXACT_BELOW // 2), (2_000, 7_000)):
        limit = ks_threshold(n * 10, m * 10) * np.sqrt(10)
        assert ks_threshold(n, m) == pytest.approx(limit, rel=5e-3)


def test_equal_distributions_reach_the_threshold_as_often_as_stated() -> None:
    n, m, repeats = 60, 85, 4000
    rng = np.random.default_rng(5)
    first, second = rng.normal(size=(repeats, n)), rng.normal(size=(repeats, m))
    threshold = ks_threshold(n, m)
    pairs = zip(first, second, strict=True)
    rate = np.mean([ks_distance(count(a, b)) >= threshold for a, b in pairs])
    assert rate == pytest.approx(LEVEL, abs=4 * np.sqrt(LEVEL / repeats))
    whole = zip(np.round(2 * first), np.round(2 * second), strict=True)
    assert np.mean([ks_distance(count(a, b)) >= threshold for a, b in whole]) < rate


def test_errors_of_ratios_are_their_spread() -> None:
    rng, shares, repeats = np.random.default_rng(2), np.array([0.5, 0.3, 0.15, 0.05]), 2000
    first, second = rng.multinomial(600, shares, repeats), rng.multinomial(900, shares, repeats)
    ratio, error = np.array(
        [bin_ratios(*both) for both in zip(first, second, strict=True)]
    ).swapaxes(0, 1)
    np.testing.assert_allclose(ratio.mean(axis=0), 1, rtol=0.03)
    np.testing.assert_allclose(ratio.std(axis=0), error.mean(axis=0), rtol=0.1)
    a, b = (two_samples.mean(rng.normal(5, 2, size=(n))) for n in (400, 300))
    quotient = over(a, b)
    assert quotient is not None
    assert quotient.error == pytest.approx(2 / 5 * np.sqrt(1 / 400 + 1 / 300), rel=0.1)
    assert over(a, Measurement(0.1, 0.06)) is None


def test_an_empty_bin_has_no_ratio() -> None:
    ratio, error = bin_ratios(np.array([3, 0, 2]), np.array([0, 4, 2]))
    assert np.isnan(ratio).tolist() == np.isnan(error).tolist() == [True, True, False]


@given(values=samples(), bins=st.integers(1, 30))
def test_bins_are_equal_and_hold_every_event(values: np.ndarray, bins: int) -> None:
    found = edges(values, bins)
    assert 2 <= len(found) <= bins + 1
    np.testing.assert_allclose(np.diff(found), np.diff(found)[0], rtol=1e-6)
    assert histogram(values, found).sum() == len(values)


def test_counts_have_bins_of_whole_numbers() -> None:
    jets = np.random.default_rng(1).poisson(3, 2000).astype(np.float32)
    assert (edges(jets) % 1 == 0.5).all()
    tracks = np.random.default_rng(1).poisson(280, 2000).astype(np.float32)
    assert (np.diff(edges(tracks)) % 1 == 0).all()
    assert edges(np.full(9, 2.5)).tolist()[0] == 2.5
