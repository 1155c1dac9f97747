"""Numbers of the report against scikit-learn, plain loops and each other."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, roc_auc_score, roc_curve

from hepflow.data.predictions import softmax
from hepflow.statistics.calibration import LEAST_EVENTS, count
from hepflow.statistics.metrics import (
    auc,
    balanced_accuracy,
    binomial_error,
    bootstrap,
    confusion,
    confusion_shares,
    efficiencies,
    log_odds,
    predicted,
    roc_points,
    spectrum,
    wilson,
)
from hepflow.statistics.pairs import (
    accuracy_differences,
    auc_differences,
    delong,
    holm,
    pass_differences,
)
from hepflow.statistics.working_points import (
    Selection,
    evaluate_selection,
    mix_of,
    selections,
    threshold_bin,
)
from tests.support.toy_runs import toy_labels, toy_logits

EXACT = 1_000_000
CLASSES = ("qcd", "ttbar", "wjets")


def sample(
    per_class: tuple[int, ...] = (300, 200, 400), distance: float = 1.2, seed: int = 0, own: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    label = toy_labels(per_class, seed)
    return toy_logits(label, len(per_class), distance, seed, own), label


def balanced_weights(label: np.ndarray) -> np.ndarray:
    return (1 / np.bincount(label))[label]


@pytest.mark.parametrize("per_class", [(300, 200, 400), (50, 90), (40, 60, 80, 20)])
def test_auc_is_that_of_scikit_learn_with_each_class_of_equal_weight(
    per_class: tuple[int, ...],
) -> None:
    logits, label = sample(per_class)
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
    logits, _ = sample()
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
    logits, label = sample((20_000, 15_000, 30_000), 1.8)
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
    logits, label = sample((3000, 3000), 1.8)
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
    logits, label = sample((5000, 4000, 6000))
    fine, _ = spectrum(log_odds(logits, [0], [1, 2]), label, 3, exact_below=EXACT)
    coarse = fine.coarse(100)
    assert coarse.counts.shape[1] <= 101
    assert (coarse.counts.sum(axis=1) == fine.counts.sum(axis=1)).all()
    assert set(coarse.floor) <= set(fine.floor)
    assert auc(coarse.counts, [0], [1, 2]) == pytest.approx(auc(fine.counts, [0], [1, 2]), abs=1e-3)


def test_efficiencies_are_counted() -> None:
    logits, label = sample()
    score = log_odds(logits, [1], [0, 2])
    binned, _ = spectrum(score, label, 3, exact_below=EXACT)
    table = efficiencies(binned.counts)
    for column in (0, 10, 500, len(binned.floor) - 1):
        for k in range(3):
            assert table[k, column] == pytest.approx(
                np.mean(score[label == k] >= binned.floor[column])
            )


@pytest.mark.parametrize("target", [0.5, 0.9, 0.99])
def test_a_working_point_is_the_tightest_at_which_every_signal_class_keeps_its_share(
    target: float,
) -> None:
    logits, label = sample()
    score = log_odds(logits, [1, 2], [0])
    binned, _ = spectrum(score, label, 3, exact_below=EXACT)
    threshold = binned.floor[threshold_bin(efficiencies(binned.counts), [1, 2], target)]
    kept = [np.mean(score[label == k] >= threshold) for k in (1, 2)]
    assert min(kept) >= target
    next_higher = score[score > threshold].min()
    assert min(np.mean(score[label == k] >= next_higher) for k in (1, 2)) < target


@pytest.mark.parametrize("exact_below", [EXACT, 10])
def test_the_histogram_of_a_discriminant_has_every_event_in_its_bin(
    exact_below: int,
) -> None:
    logits, label = sample((3000, 2000, 4000))
    score = log_odds(logits, [1, 2], [0])
    binned, _ = spectrum(score, label, 3, exact_below=exact_below)
    edges, counts = binned.histogram(20)
    assert (counts.sum(axis=1) == np.bincount(label)).all()
    inside = np.histogram(score[label == 1], bins=edges)[0]
    assert counts[1, 1:-1] == pytest.approx(
        inside[1:-1], abs=2
    )  # a fine bin across an edge counts on one side of it
    assert np.mean((score < edges[0]) | (score > edges[-1])) < 0.004


def test_rates_follow_from_efficiencies_and_the_mix() -> None:
    logits, label = sample()
    selection = Selection("headline", (1, 2), (0,))
    mix = mix_of(selection, CLASSES, {"wjets": 0.634, "qcd": 0.362, "ttbar": 0.004})
    binned, _ = spectrum(log_odds(logits, [1, 2], [0]), label, 3, exact_below=EXACT)
    rng = np.random.default_rng(1)
    result = evaluate_selection(binned, selection, targets=[0.9], mix_K=mix, replicas=20, rng=rng)
    (point,) = result["working_points"]
    eps = {k: point["efficiency"][k]["value"] for k in range(3)}
    rate = 0.634 * eps[2] + 0.362 * eps[0] + 0.004 * eps[1]
    assert point["rate_kept"]["value"] == pytest.approx(rate)
    assert point["rate_reduction"]["value"] == pytest.approx(1 / rate)
    assert point["purity"]["value"] == pytest.approx(1 - 0.362 * eps[0] / rate)
    assert point["rejection"]["value"] == pytest.approx(1 / eps[0])
    assert point["background_passed"] == round(eps[0] * 300)


def test_the_mix_of_a_pair_is_among_its_two_classes() -> None:
    chosen = selections(CLASSES, ["ttbar", "wjets"])
    mix = mix_of(chosen["ttbar_vs_qcd"], CLASSES, {"wjets": 0.634, "qcd": 0.362, "ttbar": 0.004})
    assert mix == pytest.approx([0.362 / 0.366, 0.004 / 0.366, 0])
    assert mix_of(chosen["headline"], CLASSES, {"qcd": 1.0}) is None


def test_selections_of_two_classes_have_no_pairs() -> None:
    assert list(selections(("a", "b"), ["b"])) == ["headline", "a_vs_rest", "b_vs_rest"]
    assert len(selections(("a", "b", "c", "d"), ["b"])) == 1 + 4 + 12


def test_no_passing_background_event_gives_a_limit_and_a_nonzero_error() -> None:
    score, label = np.concatenate([np.arange(50.0), 100 + np.arange(50.0)]), np.repeat([0, 1], 50)
    binned, _ = spectrum(score, label, 2, exact_below=EXACT)
    selection = Selection("headline", (1,), (0,))
    (point,) = evaluate_selection(
        binned,
        selection,
        targets=[0.99],
        mix_K=np.array([0.5, 0.5]),
        replicas=20,
        rng=np.random.default_rng(0),
    )["working_points"]
    assert point["background_efficiency"]["value"] == 0
    assert 0 < point["background_efficiency"]["error"] < 0.03
    assert point["purity"]["value"] == 1
    assert point["purity"]["error"] == pytest.approx(
        point["background_efficiency"]["error"], rel=0.1
    )  # half the rate, of which half is kept
    assert point["rate_kept"]["error"] > 0.4 * point["background_efficiency"]["error"]
    assert point["rejection"] is None
    assert point["few_events"]


def test_bootstrap_errors_are_those_of_delong() -> None:
    logits, label = sample((900, 600, 1200))
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


def test_a_selection_and_its_mirror_image_have_the_same_auc_and_error() -> None:
    logits, label = sample((90, 60, 120))
    found = []
    for signal, background in (((1, 2), (0,)), ((0,), (1, 2))):
        binned, _ = spectrum(log_odds(logits, signal, background), label, 3, exact_below=EXACT)
        selection = Selection("headline", signal, background)
        part = evaluate_selection(
            binned,
            selection,
            targets=[0.9],
            mix_K=None,
            replicas=2,
            rng=np.random.default_rng(sum(signal)),
        )
        found.append([part["auc"]["value"], part["auc"]["error"]])
    assert found[0] == pytest.approx(found[1], rel=1e-12)


def test_bootstrap_of_counts_is_that_of_events_with_poisson_weights() -> None:
    logits, label = sample((400, 500))
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


def test_stated_errors_are_the_spread_of_samples() -> None:
    selection = Selection("headline", (1, 2), (0,))
    seen, stated = [], []
    for seed in range(60):
        logits, label = sample((600, 600, 600), seed=seed)
        binned, _ = spectrum(log_odds(logits, [1, 2], [0]), label, 3, exact_below=EXACT)
        result = evaluate_selection(
            binned,
            selection,
            targets=[0.9],
            mix_K=None,
            replicas=40,
            rng=np.random.default_rng(seed),
        )
        numbers = (result["auc"], result["working_points"][0]["background_efficiency"])
        seen.append([number["value"] for number in numbers])
        stated.append([number["error"] for number in numbers])
    assert np.mean(stated, axis=0) == pytest.approx(np.std(seen, axis=0), rel=0.3)


def test_delong_is_the_variance_of_plain_loops() -> None:
    logits, label = sample((40, 50))
    other, _ = sample((40, 50), own=1)
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
    logits, label = sample()
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
        np.array([True, False, False, False, True, True]),
    )
    (pair,) = accuracy_differences(("a", "b"), (first, second), label, 2)
    assert pair.value == pytest.approx((3 / 4 + 1 / 2) / 2 - (1 / 4 + 1) / 2)
    assert pair.error == pytest.approx(
        math.sqrt(np.var([0, 1, 0, 1]) / 4 / 4 + np.var([0, -1]) / 2 / 4)
    )


def test_holm_corrects_as_in_the_paper() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.6, 0.7]) == [1.0, 1.0]


def test_confusion_and_accuracy_are_counted() -> None:
    logits, label = sample()
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
    logits, label = sample((4000, 5000), 1.8)
    score = log_odds(logits, [1], [0])
    binned, _ = spectrum(score, label, 2, exact_below=EXACT)
    signal, background = roc_points(binned.counts, [1], [0])
    assert (signal[0], background[0], signal[-1], background[-1]) == (0, 0, 1, 1)
    assert all(a <= b for a, b in pairwise(signal))
    assert len(signal) <= 310
    fpr, tpr, _ = roc_curve(label == 1, score, drop_intermediate=False)
    for x, y in zip(signal, background, strict=True):
        assert np.min(np.abs(fpr - y) + np.abs(tpr - x)) < 1e-9


def test_calibration_is_that_of_a_plain_loop() -> None:
    logits, label = sample()
    p = softmax(logits)
    weight = balanced_weights(label) / 3
    counted = count(logits, label, predicted(logits))
    top, own = counted.top, counted.own
    best = logits.argmax(axis=1)
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (p.max(axis=1) >= low) & ((p.max(axis=1) < low + 1 / 15) | (low > 0.93))
        expected += abs(np.sum(weight[inside] * (p.max(axis=1)[inside] - (best == label)[inside])))
    # the loop weighs by event, the report by mean prediction of each class in a bin: the same sums
    assert top.ece() == pytest.approx(expected, abs=1e-9)
    assert sum(top.curve()["share"]) == pytest.approx(1)
    assert len(own) == 3


def test_a_calibrated_model_has_the_ece_of_chance_and_an_overconfident_one_a_larger() -> None:
    logits, label = sample((4000, 4000, 4000), 1.4)
    calibrated, bold = (count(x, label, predicted(x)).top for x in (logits, 3 * logits))
    assert calibrated.ece() < 2.5 * calibrated.chance()
    assert bold.ece() > 10 * bold.chance()


def test_points_of_a_reliability_curve_have_enough_events() -> None:
    """The curve of a calibrated model on few events is within its errors and has all events."""
    logits, label = sample((40, 30, 50))
    curve = count(logits, label, predicted(logits)).top.curve()
    predicted_B, observed_B, error_B, share_B = (
        np.array(curve[key]) for key in ("predicted", "observed", "error", "share")
    )
    assert 2 <= len(share_B) <= 120 // LEAST_EVENTS
    assert (share_B * 120 > 0.7 * LEAST_EVENTS).all()
    assert share_B.sum() == pytest.approx(1)
    assert (np.abs(predicted_B - observed_B) < 3 * error_B).all()
    assert (np.diff(predicted_B) > 0).all()


def test_a_bin_of_correct_events_has_an_error() -> None:
    label = np.repeat(np.arange(3, dtype=np.int8), 20)
    curve = count(np.eye(3)[label] * 9.0, label, label).top.curve()
    assert curve["observed"] == [1.0]
    assert curve["error"][0] == pytest.approx(0.5 / 61)  # Wilson: 1 / (2n) / (1 + 1 / n)


def test_an_efficiency_of_one_has_the_error_of_its_number_of_events() -> None:
    label = np.repeat(np.arange(2, dtype=np.int8), 50)
    binned, _ = spectrum(np.where(label == 1, 5.0, -5.0), label, 2, exact_below=1000)
    part = evaluate_selection(
        binned,
        Selection("headline", (1,), (0,)),
        targets=(0.9,),
        mix_K=None,
        replicas=20,
        rng=np.random.default_rng(0),
    )
    (point,) = part["working_points"]
    assert point["efficiency"][1]["value"] == 1
    assert point["efficiency"][1]["error"] == pytest.approx(0.5 / 51)


def test_score_histograms_contain_all_events() -> None:
    logits, label = sample()
    counts = count(logits, label, predicted(logits)).histograms
    assert (counts.sum(axis=2) == np.bincount(label)).all()
    p = softmax(logits)[:, 1]
    assert counts[1, 2].tolist() == np.histogram(p[label == 2], bins=50, range=(0, 1))[0].tolist()
