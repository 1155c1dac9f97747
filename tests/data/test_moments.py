"""Moments: those of NumPy, of any number of rows, in any number of pieces."""

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hepflow.data.moments import Moments

ROWS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 20), st.integers(1, 4)),
    elements=st.floats(-1e6, 1e6, width=32),
)


def assert_moments_of(found: Moments, x: np.ndarray) -> None:
    wide = x.astype(np.float64)
    assert found.count == len(x)
    np.testing.assert_allclose(found.mean, wide.mean(axis=0), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.m2, wide.var(axis=0) * len(x), rtol=1e-6, atol=1e-3)
    assert found.min.tolist() == x.min(axis=0).tolist()
    assert found.max.tolist() == x.max(axis=0).tolist()


@given(ROWS, st.integers(0, 20))
def test_moments_add_up(x, cut):
    assert_moments_of(Moments.of(x), x)
    assert_moments_of(Moments.of(x[:cut]) + Moments.of(x[cut:]), x)


@given(ROWS, st.lists(st.integers(0, 20), max_size=4))
def test_a_total_takes_rows_and_moments(x, cuts):
    pieces = np.split(x, sorted(cuts))
    samples = [Moments.of(one) if i % 2 else one for i, one in enumerate(pieces)]
    assert_moments_of(Moments.total(samples, x.shape[1]), x)


def test_moments_of_many_rows_far_from_zero_lose_no_digits():
    x = np.random.default_rng(0).normal([1e6, -3, 0], [1, 1e-3, 0], (10_000, 3)).astype(np.float32)
    found = Moments.of(x)
    assert (found.mean.dtype, found.min.dtype) == (np.float64, np.float64)
    assert_moments_of(found, x)
    np.testing.assert_allclose(found.m2, x.astype(np.float64).var(axis=0) * len(x), rtol=1e-9)


@given(ROWS)
def test_moments_survive_json(x):
    one = Moments.of(x)
    found = Moments.from_dict(json.loads(json.dumps(one.to_dict())))
    assert found.count == one.count
    for name in ("mean", "m2", "min", "max"):
        np.testing.assert_array_equal(getattr(found, name), getattr(one, name))


def test_whole_numbers_in_json_become_floats():
    written = {"count": 2, "mean": [1], "m2": [2], "min": [0], "max": [2]}
    assert Moments.from_dict(written).mean.dtype == np.float64


def test_statistics_are_those_of_the_population():
    statistics = Moments.of(np.array([[1.0, 5.0], [3.0, 5.0]], np.float32)).statistics()
    assert statistics == {
        "count": 2,
        "mean": [2.0, 5.0],
        "std": [1.0, 0.0],
        "min": [1.0, 5.0],
        "max": [3.0, 5.0],
    }


def test_no_rows_change_no_moments_and_have_statistics_of_zeros():
    x = np.array([[1.0, -2.0], [4.0, -5.0]], np.float32)
    assert_moments_of(Moments.none(2) + Moments.of(x) + Moments.of(x[:0]), x)
    nothing = Moments.total([], 2)
    assert nothing.count == (nothing + nothing).count == 0
    zeros = {name: [0.0, 0.0] for name in ("mean", "std", "min", "max")}
    assert nothing.statistics() == {"count": 0, **zeros}
    with np.errstate(all="raise"):
        assert (nothing + nothing).mean.tolist() == [0.0, 0.0]


def test_a_nan_shows_in_the_moments():
    x = np.array([[1.0], [np.nan]], np.float32)
    with np.errstate(invalid="ignore"):
        found = Moments.of(x)
    assert np.isnan([found.mean[0], found.min[0], found.max[0]]).all()
