"""Numbers of the report against scikit-learn, plain loops and each other."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, roc_auc_score, roc_curve

from hepflow.data.predictions import softmax
from hepflow.statistics.metrics import (
    CHUNK,
    Spectrum,
    auc,
    auc_error,
    balanced_accuracy,
    binomial_error,
    bootstrap,
    confusion,
    confusion_shares,
    density,
    efficiencies,
    log_odds,
    placements,
    predicted,
    roc_points,
    spectrum,
    wilson,
)
from hepflow.statistics.pairs import delong
from hepflow.statistics.working_points import Selection, evaluate_selection, threshold_bin
from tests.support.toy_runs import toy_sample

EXACT = 1_000_000


def balanced_weights(label: np.ndarray) -> np.ndarray:
    return (1 / np.bincount(label))[label]


@pytest.mark.parametrize("per_class", [(300, 200, 400), (50, 90), (40, 60, 80, 20)])
def test_auc_is_that_of_scikit_learn_with_each_class_of_equal_weight(
    per_class: tuple[int, ...],
) -> None:
    logits, label = toy_sample(per_class)
    k = len(per_class)
    weight = balanced_weights(label)
    for own in range(k):
        rest = [other for other in range(k) if other != own]
        # the rest has k - 1 classes of equal weight, which is what weights of 1 / n give
        expected = roc_auc_score(label == own, softmax(logits)[:, own], sample_weight=weight)
        binned, _ = spectrum(log_odds(logits, [own], rest), label, k, exact_below=EXACT)
        assert auc(binned.counts, [own], rest) == pytest.approx(expected, abs=1e-12)


def test_auc_counts_ties_half_like_a_plain_loop() -> None:
    rng = np.random.default_rng(3)
    score, label = rng.integers(0, 6, size=60).astype(float), rng.integers(0, 2, size=60)
    wins = [
        1.0 if s > b else 0.5 if s == b else 0.0
        for s in score[label == 1]
        for b in score[label == 0]
    ]
    binned, _ = spectrum(score, label, 2, exact_below=EXACT)
    assert auc(binned.counts, [1], [0]) == pytest.approx(np.mean(wins), abs=1e-12)


@given(
    st.lists(st.tuples(st.integers(-20, 20), st.booleans()), min_size=4, max_size=60).filter(
        lambda rows: len({b for _, b in rows}) == 2
    )
)
def test_aucs_of_both_directions_add_up_to_one(rows: list[tuple[int, bool]]) -> None:
    score, label = np.array([s for s, _ in rows], dtype=float), np.array([int(b) for _, b in rows])
    forward, _ = spectrum(score, label, 2, exact_below=EXACT)
    backward, _ = spectrum(-score, label, 2, exact_below=EXACT)
    assert auc(forward.counts, [1], [0]) + auc(backward.counts, [1], [0]) == pytest.approx(1)
    assert 0 <= auc(forward.counts, [1], [0]) <= 1


def test_log_odds_order_events_as_the_probability_does() -> None:
    logits, _ = toy_sample()
    p = softmax(logits)
    assert log_odds(logits, [1], [0, 2]) == pytest.approx(np.log(p[:, 1] / (p[:, 0] + p[:, 2])))
    assert log_odds(logits, [1, 2], [0]) == pytest.approx(np.log((p[:, 1] + p[:, 2]) / p[:, 0]))


def test_log_odds_do_not_saturate_where_a_probability_does() -> None:
    logits = np.array([[800.0, 0.0, 1.0], [801.0, 0.0, 1.0]], dtype=np.float32)
    assert softmax(logits)[0, 0] == softmax(logits)[1, 0] == 1.0
    scores = log_odds(logits, [0], [1, 2])
    assert np.isfinite(scores).all()
    assert scores[1] > scores[0]


def test_binned_scores_agree_with_exact_ones() -> None:
    logits, label = toy_sample((20_000, 15_000, 30_000), 1.8)
    score = log_odds(logits, [1, 2], [0])
    exact, _ = spectrum(score, label, 3, exact_below=EXACT)
    binned, index = spectrum(score, label, 3, exact_below=10)
    assert index.dtype == np.uint16
    assert binned.counts.shape[1] == 65536
    assert auc(binned.counts, [1, 2], [0]) == pytest.approx(
        auc(exact.counts, [1, 2], [0]), abs=1e-6
    )
    for target in (0.9, 0.99):
        kept = [
            efficiencies(s.counts)[0, threshold_bin(efficiencies(s.counts), [1, 2], target)]
            for s in (exact, binned)
        ]
        assert kept[1] == pytest.approx(kept[0], rel=0.01)
        assert kept[1] >= kept[0]  # the threshold is never tighter than allowed


def test_one_extreme_score_does_not_spoil_the_bins() -> None:
    logits, label = toy_sample((3000, 3000), 1.8)
    score = log_odds(logits, [1], [0])
    score[0] = 1e30
    exact, _ = spectrum(score, label, 2, exact_below=EXACT)
    binned, _ = spectrum(score, label, 2, exact_below=10)
    assert auc(binned.counts, [1], [0]) == pytest.approx(auc(exact.counts, [1], [0]), abs=1e-4)


def test_the_lowest_bin_holds_scores_beyond_the_limit_of_the_bins() -> None:
    score = np.array([-1000.0, -70.0, 0.0, 1.0])
    binned, _ = spectrum(score, np.zeros(4, int), 1, exact_below=0)
    assert (score >= binned.threshold(0)).sum() == binned.counts.sum() == 4


def test_a_constant_score_has_an_auc_of_one_half() -> None:
    for exact_below in (EXACT, 10):
        binned, _ = spectrum(np.full(100, 0.3), np.repeat([0, 1], 50), 2, exact_below=exact_below)
        assert auc(binned.counts, [1], [0]) == pytest.approx(0.5)


def test_a_threshold_selects_the_same_events_after_other_rounding() -> None:
    """Also for two scores that are closer than the usual margin of a threshold."""
    score = np.array([-3.0, 1.0, 1.00003, 2.0])
    exact, _ = spectrum(score, np.zeros(4, int), 1, exact_below=EXACT)
    for chosen in range(4):
        for rounding in (-1e-5, 0, 1e-5):
            assert (score + rounding >= exact.threshold(chosen)).sum() == 4 - chosen
        assert exact.floor[chosen] - 3.001e-4 <= exact.threshold(chosen) < exact.floor[chosen]
    binned, _ = spectrum(score, np.zeros(4, int), 1, exact_below=0)
    assert binned.threshold(7) == binned.floor[7]


def test_joining_bins_keeps_all_events_and_thresholds() -> None:
    logits, label = toy_sample((5000, 4000, 6000))
    fine, _ = spectrum(log_odds(logits, [0], [1, 2]), label, 3, exact_below=EXACT)
    coarse = fine.coarse(100)
    assert coarse.counts.shape[1] <= 101
    assert (coarse.counts.sum(axis=1) == fine.counts.sum(axis=1)).all()
    assert set(coarse.floor) <= set(fine.floor)
    assert auc(coarse.counts, [0], [1, 2]) == pytest.approx(auc(fine.counts, [0], [1, 2]), abs=1e-3)


def test_efficiencies_are_counted() -> None:
    logits, label = toy_sample()
    score = log_odds(logits, [1], [0, 2])
    binned, _ = spectrum(score, label, 3, exact_below=EXACT)
    table = efficiencies(binned.counts)
    for column in (0, 10, 500, len(binned.floor) - 1):
        for k in range(3):
            assert table[k, column] == pytest.approx(
                np.mean(score[label == k] >= binned.floor[column])
            )


@pytest.mark.parametrize("exact_below", [EXACT, 10])
def test_the_histogram_of_a_discriminant_has_every_event_in_its_bin(
    exact_below: int,
) -> None:
    logits, label = toy_sample((3000, 2000, 4000))
    score = log_odds(logits, [1, 2], [0])
    binned, _ = spectrum(score, label, 3, exact_below=exact_below)
    edges, counts = binned.histogram(20)
    assert (counts.sum(axis=1) == np.bincount(label)).all()
    inside = np.histogram(score[label == 1], bins=edges)[0]
    assert counts[1, 1:-1] == pytest.approx(
        inside[1:-1], abs=2
    )  # a fine bin across an edge counts on one side of it
    assert np.mean((score < edges[0]) | (score > edges[-1])) < 0.004


def test_bootstrap_errors_are_those_of_delong() -> None:
    logits, label = toy_sample((900, 600, 1200))
    score = log_odds(logits, [1], [0, 2])
    selection = Selection("ttbar_vs_rest", (1,), (0, 2))
    binned, _ = spectrum(score, label, 3, exact_below=EXACT)
    drawn = bootstrap(
        binned.counts,
        lambda c: np.array(auc(c, [1], [0, 2])),
        replicas=400,
        rng=np.random.default_rng(5),
    )
    result = evaluate_selection(
        binned, selection, targets=[0.9], mix_K=None, replicas=2, rng=np.random.default_rng(5)
    )
    value, covariance = delong([score], label, selection, exact_below=EXACT)
    assert value[0] == pytest.approx(result["auc"]["value"], abs=1e-12)
    assert result["auc"]["error"] == pytest.approx(math.sqrt(covariance[0, 0]))
    assert drawn.std() == pytest.approx(result["auc"]["error"], rel=0.12)


def test_bootstrap_of_counts_is_that_of_events_with_poisson_weights() -> None:
    logits, label = toy_sample((400, 500))
    score = log_odds(logits, [1], [0])
    binned, index = spectrum(score, label, 2, exact_below=EXACT)
    rng = np.random.default_rng(8)
    by_event = []
    for _ in range(300):
        weight = rng.poisson(1.0, size=len(score))
        counts = np.stack(
            [
                np.bincount(
                    index[label == k], weights=weight[label == k], minlength=len(binned.floor)
                )
                for k in (0, 1)
            ]
        )
        by_event.append(auc(counts, [1], [0]))
    by_count = bootstrap(
        binned.counts,
        lambda c: np.array(auc(c, [1], [0])),
        replicas=300,
        rng=np.random.default_rng(9),
    )
    assert by_count.std() == pytest.approx(np.std(by_event), rel=0.15)
    assert by_count.mean() == pytest.approx(np.mean(by_event), abs=0.3 * np.std(by_event))


def test_confusion_and_accuracy_are_counted() -> None:
    logits, label = toy_sample()
    table = confusion(predicted(logits), label, 3)
    guess = logits.argmax(axis=1)
    for i in range(3):
        for j in range(3):
            assert table[i, j] == sum(
                1 for a, b in zip(label, guess, strict=True) if (a, b) == (i, j)
            )
    assert confusion_shares(table)[0].sum(axis=1) == pytest.approx(1)
    accuracy = balanced_accuracy(table)
    assert accuracy.value == pytest.approx(balanced_accuracy_score(label, guess))
    p = np.diag(table) / table.sum(axis=1)
    assert accuracy.error == pytest.approx(
        math.sqrt((p * (1 - p) / table.sum(axis=1)).sum()) / 3, rel=0.02
    )


def test_equal_logits_go_to_the_first_class() -> None:
    assert predicted(np.zeros((4, 3), dtype=np.float32)).tolist() == [0, 0, 0, 0]
    assert predicted(np.array([[1, 2, 2], [0, 3, 4], [5, 5, 1]], dtype=np.float32)).tolist() == [
        1,
        2,
        0,
    ]


def test_an_efficiency_of_zero_has_an_error() -> None:
    assert binomial_error(np.array([0]), np.array([100]))[0] == pytest.approx(0.5 / 101)
    assert binomial_error(np.array([500]), np.array([1000]))[0] == pytest.approx(
        math.sqrt(0.25 / 1000), rel=1e-3
    )


def test_wilsons_interval_ends_one_standard_deviation_from_the_count() -> None:
    for n in (1, 3, 1000):
        for k in {0, 1, n // 2, n}:
            # the definition: (k - n p)^2 = n p (1 - p), a quadratic equation in p
            low, high = sorted(np.roots([n * n + n, -(2 * k * n + n), k * k]).real)
            assert wilson(np.array(k), np.array(n)) == pytest.approx([low, high], abs=1e-7)
            assert (
                0
                <= wilson(np.array(k), np.array(n))[0]
                <= k / n
                <= wilson(np.array(k), np.array(n))[1]
                <= 1
            )
    assert wilson(np.array([3, 0]), np.array([3, 3])).tolist() == pytest.approx(
        np.array([[0.75, 0], [1, 0.25]])
    )


def test_roc_points_are_on_scikit_learns_curve() -> None:
    logits, label = toy_sample((4000, 5000), 1.8)
    score = log_odds(logits, [1], [0])
    binned, _ = spectrum(score, label, 2, exact_below=EXACT)
    signal, background = roc_points(binned.counts, [1], [0])
    assert (signal[0], background[0], signal[-1], background[-1]) == (0, 0, 1, 1)
    assert all(a <= b for a, b in pairwise(signal))
    assert len(signal) <= 310
    fpr, tpr, _ = roc_curve(label == 1, score, drop_intermediate=False)
    for x, y in zip(signal, background, strict=True):
        assert np.min(np.abs(fpr - y) + np.abs(tpr - x)) < 1e-9


def kernel(score: np.ndarray, own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return (own, other) 1 where an event of the first mask scores above the second, ties half."""
    above = score[own][:, None] - score[other][None, :]
    return (above > 0) + 0.5 * (above == 0)


def few_scores_with_ties() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    label = np.repeat([0, 1, 2, 3], [9, 14, 11, 7])
    return np.round(rng.normal(label / 2.0)), label


def test_the_placement_of_an_event_is_the_share_of_the_other_side_ordered_correctly() -> None:
    score, label = few_scores_with_ties()
    binned, bin_N = spectrum(score, label, 4, exact_below=EXACT)
    table = placements(binned.counts, [1, 2], [0])
    for event in np.flatnonzero(label < 3):
        mine = np.arange(len(label)) == event
        if label[event] == 0:
            expected = np.mean([kernel(score, label == s, mine).mean() for s in (1, 2)])
        else:
            expected = kernel(score, mine, label == 0).mean()
        assert table[label[event], bin_N[event]] == pytest.approx(expected)
    assert not table[3].any()  # on neither side


def test_the_error_of_an_auc_with_ties_is_that_of_plain_loops() -> None:
    score, label = few_scores_with_ties()
    binned, _ = spectrum(score, label, 4, exact_below=EXACT)
    variance = 0.0
    for side, other, axis in (((1, 3), (0, 2), 1), ((0, 2), (1, 3), 0)):
        for k in side:
            parts = []
            for j in other:
                pair = (label == k, label == j) if axis else (label == j, label == k)
                parts.append(kernel(score, *pair).mean(axis=axis))
            variance += np.mean(parts, axis=0).var(ddof=1) / (label == k).sum() / 4
    assert auc_error(binned.counts, [1, 3], [0, 2]) == pytest.approx(math.sqrt(variance))


def test_a_class_of_one_event_adds_nothing_to_the_error_of_an_auc() -> None:
    score, label = np.array([0.0, 1.0, 2.0, 3.0, 1.5]), np.array([0, 0, 0, 0, 1])
    binned, _ = spectrum(score, label, 2, exact_below=EXACT)
    # two of four background events are below the only signal event
    assert auc_error(binned.counts, [1], [0]) == pytest.approx(math.sqrt((1 / 3) / 4))


def test_the_auc_of_a_perfect_discriminant_is_one_and_not_above() -> None:
    rng = np.random.default_rng(0)
    for n in range(2, 40):
        counts = np.zeros((4, 2 * n), dtype=np.int64)
        counts[0, :n] = rng.integers(1, 9, size=n)
        counts[1:, n:] = rng.integers(1, 5, size=(3, n))
        assert 1 - 1e-12 < auc(counts, [1, 2, 3], [0]) <= 1
        assert auc_error(counts, [1, 2, 3], [0]) < 1e-12


def test_a_class_without_events_has_no_efficiency_and_no_density() -> None:
    counts = np.array([[0, 0, 0], [1, 2, 1]])
    assert efficiencies(counts).tolist() == [[0, 0, 0], [1, 0.75, 0.25]]
    assert efficiencies(np.array([[0, 1, 0]])).tolist() == [[1, 1, 0]]
    assert density(counts, [0, 1]).tolist() == [0.125, 0.25, 0.125]


@pytest.mark.parametrize("exact_below", [EXACT, 10])
def test_more_events_than_fit_one_step_are_all_counted_once(exact_below: int) -> None:
    n = CHUNK + 1000
    rng = np.random.default_rng(6)
    label = rng.integers(0, 2, size=n).astype(np.int8)
    logits = np.stack([np.zeros(n), rng.integers(-3, 4, size=n) + label], axis=1)
    score = log_odds(logits.astype(np.float32), [1], [0])
    assert (score == logits[:, 1]).all()
    binned, bin_N = spectrum(score, label, 2, exact_below=exact_below)
    for value in np.unique(score):
        (column,) = np.unique(bin_N[score == value])
        own = np.bincount(label[score == value], minlength=2)
        assert binned.counts[:, column].tolist() == own.tolist()
    assert binned.counts.sum() == n


def test_bins_of_equal_width_span_the_scores() -> None:
    score = np.linspace(-3.0, 5.0, 1000)
    binned, bin_N = spectrum(score, np.zeros(1000, int), 1, exact_below=999)
    assert (binned.floor[0], bin_N[0], bin_N[-1]) == (-3.0, 0, 65535)
    assert np.diff(binned.floor) == pytest.approx(8 / 65536)
    assert (binned.floor[bin_N] <= score + 1e-9).all()
    assert (score - binned.floor[bin_N] <= 8 / 65536 + 1e-9).all()
    assert not binned.exact
    assert spectrum(score, np.zeros(1000, int), 1, exact_below=1000)[0].exact


def test_scores_beyond_log_odds_of_60_share_the_outermost_bins() -> None:
    score = np.array([-900.0, -61.0, -59.9, 59.9, 60.0, 61.0, 900.0])
    binned, bin_N = spectrum(score, np.zeros(7, int), 1, exact_below=0)
    assert bin_N[[0, 1, 4, 5, 6]].tolist() == [0, 0, 65535, 65535, 65535]
    assert 0 < bin_N[2] < bin_N[3] < 65535
    assert binned.floor[[1, -1]] == pytest.approx([-60 + 120 / 65536, 60 - 120 / 65536])


def test_joined_bins_are_equally_populated() -> None:
    fine = Spectrum(np.ones((2, 1000), dtype=np.int64), np.arange(1000.0))
    coarse = fine.coarse(10)
    assert coarse.counts.shape == (2, 10)
    assert coarse.counts == pytest.approx(np.full((2, 10), 100), abs=1)
    for column, floor in enumerate(coarse.floor):
        assert coarse.counts[0, column:].sum() == (fine.floor >= floor).sum()
    assert fine.coarse(1000) is fine
    assert fine.coarse(999).counts.shape[1] < 1000
    assert fine.coarse() is fine


@pytest.mark.parametrize("first", [150, 250, 5000])
def test_joining_bins_keeps_a_first_bin_with_more_events_than_its_share(first: int) -> None:
    counts = np.ones((1, 850), dtype=np.int64)
    counts[0, 0] = first
    coarse = Spectrum(counts, np.arange(850.0)).coarse(10)
    assert coarse.counts.sum() == first + 849
    assert coarse.counts[0, 0] >= first
    assert coarse.floor[0] == 0.0


def test_a_histogram_of_a_discriminant_is_that_of_numpy() -> None:
    rng = np.random.default_rng(2)
    score, label = rng.integers(0, 11, size=500).astype(float), rng.integers(0, 2, size=500)
    binned, _ = spectrum(score, label, 2, exact_below=EXACT)
    edges, counts = binned.histogram(10, tail=0)
    for k in (0, 1):
        expected, at = np.histogram(score[label == k], bins=10, range=(0, 10))
        assert counts[k].tolist() == expected.tolist()
        assert edges == pytest.approx(at)


def test_a_histogram_leaves_a_thousandth_on_either_side_to_the_outermost_bins() -> None:
    score = np.concatenate([[-1e6], np.linspace(0, 1, 9998), [1e6]])
    binned, _ = spectrum(score, np.zeros(10_000, int), 1, exact_below=EXACT)
    edges, counts = binned.histogram()
    assert (len(edges), counts.shape) == (51, (1, 50))
    assert edges[[0, -1]] == pytest.approx([0.001, 0.999], abs=2e-4)
    assert counts.sum() == 10_000
    assert counts[0] == pytest.approx(np.full(50, 200), abs=12)


def test_a_histogram_of_one_score_has_it_in_its_first_bin() -> None:
    binned, _ = spectrum(np.full(7, 2.5), np.zeros(7, int), 1, exact_below=EXACT)
    edges, counts = binned.histogram(4)
    assert edges == pytest.approx([2.5, 2.75, 3.0, 3.25, 3.5])
    assert counts.tolist() == [[7, 0, 0, 0]]


def test_replicas_are_poisson_draws_of_every_bin() -> None:
    counts = np.array([[0, 1, 4], [100, 2, 0]])
    drawn = bootstrap(counts, np.copy, replicas=4000, rng=np.random.default_rng(3))
    assert drawn.shape == (4000, 2, 3)
    assert drawn.mean(axis=0) == pytest.approx(counts, abs=0.6, rel=0.06)
    assert drawn.var(axis=0) == pytest.approx(counts, rel=0.1)


def test_confusion_has_a_row_and_a_column_for_a_class_without_events() -> None:
    table = confusion(np.array([0, 1, 1], np.int8), np.array([0, 0, 1], np.int8), 3)
    assert table.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]


def test_the_error_of_the_balanced_accuracy_is_that_of_independent_efficiencies() -> None:
    table = np.array([[80, 20], [30, 270]])
    shares, errors = confusion_shares(table)
    assert shares == pytest.approx(np.array([[0.8, 0.2], [0.1, 0.9]]))
    for share, error, n in zip(shares, errors, (100, 300), strict=True):
        plain = np.sqrt(share * (1 - share) / n + 1 / (4 * n**2)) / (1 + 1 / n)  # Wilson 1927
        assert error == pytest.approx(plain)
    found = balanced_accuracy(table)
    assert found.value == pytest.approx(0.85)
    assert found.error == pytest.approx(math.hypot(errors[0, 0], errors[1, 1]) / 2)


def test_the_interval_of_no_events_is_everything() -> None:
    low, high = wilson(np.array([0]), np.array([0]))
    assert 0 == low[0] < high[0] < 1
    assert predicted(np.zeros((2, 3))).dtype == np.int8


def test_a_short_roc_curve_has_all_of_its_points() -> None:
    counts = np.array([[3, 1, 0], [0, 1, 3]])
    for n_points in (4, 300):
        signal, background = roc_points(counts, [1], [0], n_points)
        assert signal.tolist() == [0, 0.75, 1, 1]
        assert background.tolist() == [0, 0, 0.25, 1]


def test_roc_points_are_dense_on_linear_and_logarithmic_axes() -> None:
    """Every event is a bin: all signal, then all background, so that each axis is on its own."""
    n = 20_000
    counts = np.zeros((2, 2 * n), dtype=np.int64)
    counts[0, :n] = counts[1, n:] = 1
    signal, background = roc_points(counts, [1], [0])
    assert 200 < len(signal) <= 301
    rising = signal[background == 0]
    assert np.diff(rising).max() < 1 / 99 + 2 / n
    assert (np.diff(rising) > 0.9 / 99).sum() > 60  # more would be wasted on a line
    lost = 1 - rising[(rising < 1) & (rising > 0.9)]
    assert lost.min() < 2 / n
    assert (lost[:-1] / lost[1:])[lost[1:] > 0.002].max() < 1e5 ** (1 / 99) * 1.03
    passing = background[background > 0]
    assert (passing[0], signal[0]) == (pytest.approx(1 / n), 0)
    assert (passing[1:] / passing[:-1])[passing[:-1] > 0.002].max() < n ** (1 / 99) * 1.03


def test_no_point_of_a_roc_curve_is_above_one() -> None:
    """Rounding takes the sum of the shares above one for every third of these numbers of bins."""
    for n in range(2, 60):
        counts = np.zeros((3, n + 1), dtype=np.int64)
        counts[0, 1:], counts[1, 1:] = 1, np.arange(n) % 3 + 1
        counts[2, 0] = 1
        signal, background = roc_points(counts, [0, 1], [2])
        assert signal.max() == 1
        assert (background[:-1] == 0).all()


def test_a_roc_curve_of_a_few_points_per_axis_has_both_ends() -> None:
    counts = np.ones((2, 50), dtype=np.int64)
    signal, background = roc_points(counts, [1], [0], n_points=12)
    assert len(signal) <= 13
    assert (signal[0], background[0], signal[-1], background[-1]) == (0, 0, 1, 1)
    assert signal.tolist() == background.tolist()


def test_a_threshold_lies_a_rounding_below_its_score_or_halfway_to_the_next() -> None:
    floor = np.array([-1000.0, 0.5, 5.0, 5.0001, 1000.0])
    exact = Spectrum(np.ones((1, 5), dtype=np.int64), floor, exact=True)
    assert [exact.threshold(chosen) for chosen in range(5)] == pytest.approx(
        [-1000.1, 0.4999, 4.9995, 5.00005, 999.9], abs=1e-9
    )


def test_a_histogram_without_tails_reaches_the_last_of_ten_equally_filled_bins() -> None:
    score = np.arange(10.0)  # ten times 0.1 is just below 1
    binned, _ = spectrum(score, np.zeros(10, int), 1, exact_below=EXACT)
    edges, counts = binned.histogram(9, tail=0)
    assert edges == pytest.approx(np.arange(10))
    assert counts.tolist() == [[1, 1, 1, 1, 1, 1, 1, 1, 2]]


def test_the_log_odds_of_an_event_do_not_depend_on_other_events() -> None:
    logits = np.array([[900.0, 1.0, 3.0], [-900.0, 1.0, 3.0], [0.5, 900.0, 1.0]])
    alone = [log_odds(row[None], [0], [1, 2])[0] for row in logits]
    assert log_odds(logits, [0], [1, 2]).tolist() == alone
    softplus = math.log1p(math.exp(-2))
    assert alone == pytest.approx([897 - softplus, -903 - softplus, 0.5 - 900])
