"""Differences between models against plain loops, closed formulas and the spread of samples."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from hepflow.statistics.metrics import log_odds
from hepflow.statistics.pairs import (
    accuracy_differences,
    auc_differences,
    delong,
    holm,
    pass_differences,
)
from hepflow.statistics.working_points import Selection
from tests.support.toy_runs import toy_labels, toy_logits, toy_sample

EXACT = 1_000_000


def test_delong_is_the_variance_of_plain_loops() -> None:
    logits, label = toy_sample((40, 50))
    other, _ = toy_sample((40, 50), own=1)
    scores = [log_odds(x, [1], [0]) for x in (logits, other)]
    selection = Selection("b_vs_rest", (1,), (0,))
    values, covariance = delong(scores, label, selection, exact_below=EXACT)
    kernel = np.array(
        [
            [[float(s > b) + 0.5 * float(s == b) for b in x[label == 0]] for s in x[label == 1]]
            for x in scores
        ]
    )
    v10, v01 = kernel.mean(axis=2), kernel.mean(axis=1)
    assert values == pytest.approx(kernel.mean(axis=(1, 2)))
    assert covariance == pytest.approx(np.cov(v10) / 50 + np.cov(v01) / 40)


def test_a_model_does_not_differ_from_itself() -> None:
    logits, label = toy_sample()
    score = log_odds(logits, [1], [0, 2])
    (pair,) = auc_differences(
        ["a", "b"], [score, score], label, Selection("t_vs_rest", (1,), (0, 2)), exact_below=EXACT
    )
    assert (pair.value, pair.p_value) == (0, 1)


def test_pairing_makes_differences_clearer_than_separate_errors() -> None:
    label = toy_labels((800, 800, 800))
    scores = [
        log_odds(toy_logits(label, 3, distance, 0, own), [1], [0, 2])
        for own, distance in enumerate((1.2, 1.3))
    ]
    selection = Selection("t_vs_rest", (1,), (0, 2))
    (pair,) = auc_differences(["a", "b"], scores, label, selection, exact_below=EXACT)
    _, covariance = delong(scores, label, selection, exact_below=EXACT)
    assert pair.error < 0.8 * math.sqrt(np.trace(covariance))


def test_false_differences_are_as_rare_as_stated() -> None:
    selection = Selection("t_vs_rest", (1,), (0, 2))
    p_values = []
    for seed in range(200):
        label = toy_labels((100, 100, 100), seed)
        scores = [log_odds(toy_logits(label, 3, 1.2, seed, own), [1], [0, 2]) for own in (0, 1)]
        p_values += [
            pair.p_value
            for pair in auc_differences(["a", "b"], scores, label, selection, exact_below=EXACT)
        ]
    assert 0.01 < np.mean(np.array(p_values) < 0.05) < 0.11


def test_the_paired_error_of_background_efficiency_is_the_spread_of_samples() -> None:
    selection = Selection("headline", (1, 2), (0,))
    seen, stated = [], []
    for seed in range(80):
        label = toy_labels((500, 500, 500), seed)
        scores = [
            log_odds(toy_logits(label, 3, distance, seed, own), [1, 2], [0])
            for own, distance in enumerate((1.4, 1.6))
        ]
        (pair,) = pass_differences(
            ["a", "b"], scores, label, selection, target=0.9, exact_below=EXACT
        )
        seen.append(pair.value)
        stated.append(pair.error)
    assert np.mean(stated) == pytest.approx(np.std(seen), rel=0.3)


def test_accuracy_differences_count_the_events_that_differ() -> None:
    label = np.array([0, 0, 0, 0, 1, 1])
    first, second = (
        np.array([True, True, False, True, True, False]),
        np.array([True, False, False, False, False, False]),
    )
    (pair,) = accuracy_differences(("a", "b"), (first, second), label, 2)
    assert pair.value == pytest.approx((3 / 4 + 1 / 2) / 2 - (1 / 4 + 0) / 2)
    assert pair.error == pytest.approx(
        math.sqrt(np.var([0, 1, 0, 1]) / 4 / 4 + np.var([1, 0]) / 2 / 4)
    )
    assert (pair.first, pair.second, pair.quantity, pair.n_events) == ("a", "b", "accuracy", 6)


def test_the_accuracy_of_every_class_counts_alike() -> None:
    label = np.repeat([0, 1, 2], [4, 2, 10])
    first, second = np.arange(16) % 4 < 3, np.arange(16) % 3 < 2
    (pair,) = accuracy_differences(("a", "b"), (first, second), label, 3)
    parts = [(first[label == k] * 1.0 - second[label == k]) for k in range(3)]
    assert pair.value == pytest.approx(np.mean([part.mean() for part in parts]))
    variances = [part.var() / len(part) for part in parts]
    assert pair.error == pytest.approx(math.sqrt(sum(variances)) / 3)


def test_holm_corrects_as_in_the_paper() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.6, 0.7]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_multiplies_the_smallest_of_the_remaining_p_values_by_their_number(
    p: list[float],
) -> None:
    expected, least = {}, 0.0
    for done, value in enumerate(sorted(p)):
        least = max(least, min(1.0, (len(p) - done) * value))
        expected.setdefault(value, least)  # equal p-values: the first has the largest factor
    assert holm(p) == pytest.approx([expected[value] for value in p])


def test_a_p_value_is_that_of_a_gaussian_on_both_sides() -> None:
    label = toy_labels((90, 70, 80))
    scores = [log_odds(toy_logits(label, 3, 1.2, 0, own), [1], [0, 2]) for own in range(3)]
    selection = Selection("ttbar_vs_rest", (1,), (0, 2))
    found = auc_differences(["a", "b", "c"], scores, label, selection, exact_below=EXACT)
    assert [(pair.first, pair.second) for pair in found] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert {(pair.quantity, pair.n_events) for pair in found} == {("AUC ttbar", 240)}
    value, covariance = delong(scores, label, selection, exact_below=EXACT)
    contrasts = np.array([[1, -1, 0], [1, 0, -1], [0, 1, -1]])
    assert [pair.value for pair in found] == pytest.approx(contrasts @ value)
    errors = np.sqrt(np.einsum("cm,mn,cn->c", contrasts, covariance, contrasts))
    assert [pair.error for pair in found] == pytest.approx(errors)
    for pair in found:
        assert pair.p_value == pytest.approx(2 * norm.sf(abs(pair.value) / pair.error))


def test_a_difference_without_an_error_is_certain() -> None:
    label, right = np.array([0, 0, 1]), np.ones(3, bool)
    better, worse, same = (
        accuracy_differences(("a", "b"), pair, label, 2)[0]
        for pair in ((right, ~right), (~right, right), (right, right))
    )
    assert (better.value, better.error, better.p_value) == (1, 0, 0)
    assert (worse.value, worse.error, worse.p_value) == (-1, 0, 0)
    assert (same.value, same.error, same.p_value) == (0, 0, 1)


def test_delong_weighs_every_class_of_a_side_alike() -> None:
    rng = np.random.default_rng(7)
    label = np.repeat([0, 1, 2, 3, 4], [12, 20, 9, 2, 1])
    scores = [np.round(rng.normal(label / 3, 1.0), 1) for _ in range(2)]
    signal, background = (2, 3, 4), (0, 1)
    # [model, signal, background] with a weight per event that gives every class the same
    weight = np.array([1 / np.sum(label == k) for k in label])
    s, b = np.isin(label, signal), np.isin(label, background)
    ordered = np.array(
        [np.sign(x[s][:, None] - x[b][None, :]) / 2 + 0.5 for x in scores], dtype=float
    )
    w_s, w_b = weight[s] / 3, weight[b] / 2
    values, covariance = delong(
        scores, label, Selection("headline", signal, background), exact_below=EXACT
    )
    assert values == pytest.approx(np.einsum("msb,s,b->m", ordered, w_s, w_b))
    expected = np.zeros((2, 2))
    for side, placed in ((signal, ordered @ w_b), (background, w_s @ ordered)):
        own_label = label[s] if side is signal else label[b]
        for k in side:
            if k != 4:  # its only event has no spread
                own = placed[:, own_label == k]
                expected += np.cov(own) / own.shape[1] / len(side) ** 2
    assert covariance == pytest.approx(expected)


BEST = Selection("headline", (1,), (0,))


def passing(
    *models: dict[int, np.ndarray],
    selection: Selection = BEST,
    target: float = 0.9,
) -> tuple[float, float]:
    """Return value and error of the difference of two models, each label -> scores."""
    label = np.concatenate([np.full(len(x), k) for k, x in models[0].items()])
    scores = [np.concatenate(list(model.values())) for model in models]
    (pair,) = pass_differences(
        ["a", "b"], scores, label, selection, target=target, exact_below=EXACT
    )
    assert pair.quantity == f"background passing at {round(100 * target)} %"
    assert pair.n_events == len(label)
    return pair.value, pair.error


def perfect(model: dict[int, np.ndarray], signal: tuple[int, ...] = (1,)) -> dict[int, np.ndarray]:
    """Return scores that let no background pass: nothing of it fluctuates."""
    return {k: np.arange(len(x)) + (1e6 if k in signal else -1e6) for k, x in model.items()}


def levels(*parts: tuple[float, int]) -> np.ndarray:
    return np.concatenate([np.full(n, score) for score, n in parts])


def test_with_a_fixed_threshold_the_background_passing_has_a_binomial_error() -> None:
    model = {
        1: np.arange(1000.0),
        0: levels((-1.0, 140), (2000.0, 60)),  # no background near the threshold
        2: levels((-1.0, 150), (2000.0, 250)),
        3: np.arange(100.0),  # on neither side
    }
    selection = Selection("headline", (1,), (0, 2))
    value, error = passing(model, perfect(model), selection=selection)
    assert value == pytest.approx((0.3 + 0.625) / 2)
    assert error == pytest.approx(math.sqrt(0.3 * 0.7 / 200 + 0.625 * 0.375 / 400) / 2)


def test_background_that_passes_both_models_does_not_fluctuate_in_their_difference() -> None:
    signal = np.arange(1000.0)
    first, second = levels((-1.0, 70), (2000.0, 30)), levels((-1.0, 80), (2000.0, 20))
    value, error = passing({1: signal, 0: first}, {1: signal, 0: second})
    assert value == pytest.approx(0.1)
    assert error == pytest.approx(math.sqrt(0.1 * 0.9 / 100))  # ten events pass one model alone


@pytest.mark.parametrize(("rank", "counts"), [(345, False), (346, True), (373, True), (374, False)])
def test_the_threshold_fluctuates_by_the_slope_within_two_standard_deviations(
    rank: int, counts: bool
) -> None:
    """The threshold keeps 360 of 400: one standard deviation is 6, and 2 are added on each side."""
    signal = -np.arange(400.0)  # falling: the threshold is at -359
    background = levels((-1000.0, 500), (0.5 - rank, 100), (1.0, 400))
    model = {1: signal, 0: background}
    value, error = passing(model, perfect(model))
    p = 0.4 + 0.1 * (rank < 360)
    assert value == pytest.approx(p)
    slope = 0.1 / (28 / 400) if counts else 0.0
    assert error == pytest.approx(math.sqrt(p * (1 - p) / 1000 + slope**2 * 0.9 * 0.1 / 400))


def test_the_slope_ends_where_all_signal_is_kept() -> None:
    signal = -np.arange(100.0)
    background = levels((-1000.0, 500), (-98.5, 100), (1.0, 400))
    model = {1: signal, 0: background}
    value, error = passing(model, perfect(model), target=0.99)
    assert value == pytest.approx(0.4)
    slope = 0.1 / (4 / 100)  # from 96 to 100 events
    assert error == pytest.approx(math.sqrt(0.4 * 0.6 / 1000 + slope**2 * 0.99 * 0.01 / 100))


def test_a_threshold_at_a_score_of_much_signal_does_not_fluctuate() -> None:
    model = {
        1: levels((0.0, 50), (1.0, 950)),
        0: levels((-1.0, 100), (0.5, 50), (2.0, 50)),
    }
    value, error = passing(model, perfect(model))
    assert (value, error) == (0.25, pytest.approx(math.sqrt(0.25 * 0.75 / 200)))


@pytest.mark.parametrize("holder", [1, 2])
def test_only_the_signal_class_that_holds_the_threshold_moves_it(holder: int) -> None:
    other = 3 - holder
    model = {
        other: levels((10.0, 30), (-366.25, 1)),  # keeps 97 %
        holder: -np.arange(400.0),
        0: levels((-1000.0, 500), (-359.5, 100), (1.0, 400)),
    }
    selection = Selection("headline", (1, 2), (0,))
    value, error = passing(model, perfect(model, (1, 2)), selection=selection)
    assert value == pytest.approx(0.4)
    slope = 0.1 / (28 / 400)
    assert error == pytest.approx(math.sqrt(0.4 * 0.6 / 1000 + slope**2 * 0.9 * 0.1 / 400))


def test_the_difference_in_background_passing_is_that_of_plain_counting() -> None:
    logits, label = toy_sample((200, 300, 250))
    others, _ = toy_sample((200, 300, 250), own=1)
    scores = [log_odds(x, [1, 2], [0]) for x in (logits, others)]
    selection = Selection("headline", (1, 2), (0,))
    (pair,) = pass_differences(["a", "b"], scores, label, selection, target=0.8, exact_below=EXACT)
    expected = []
    for score in scores:
        cut = min(
            np.sort(score[label == k])[::-1][int(0.8 * n) - 1] for k, n in ((1, 300), (2, 250))
        )
        expected.append(np.mean(score[label == 0] >= cut))
    assert pair.value == pytest.approx(expected[0] - expected[1])
