"""Calibration against plain loops over the events and closed formulas."""

import math

import numpy as np
import pytest

from hepflow.data.predictions import softmax
from hepflow.statistics.calibration import LEAST_EVENTS, count
from hepflow.statistics.metrics import CHUNK, predicted, wilson
from tests.support.toy_runs import toy_sample


def balanced_weights(label: np.ndarray) -> np.ndarray:
    return (1 / np.bincount(label))[label]


def test_calibration_is_that_of_a_plain_loop() -> None:
    logits, label = toy_sample()
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
    logits, label = toy_sample((4000, 4000, 4000), 1.4)
    calibrated, bold = (count(x, label, predicted(x)).top for x in (logits, 3 * logits))
    assert calibrated.ece() < 2.5 * calibrated.chance()
    assert bold.ece() > 10 * bold.chance()


def test_points_of_a_reliability_curve_have_enough_events() -> None:
    """The curve of a calibrated model on few events is within its errors and has all events."""
    logits, label = toy_sample((40, 30, 50))
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


def test_score_histograms_contain_all_events() -> None:
    logits, label = toy_sample()
    counts = count(logits, label, predicted(logits)).histograms
    assert (counts.sum(axis=2) == np.bincount(label)).all()
    p = softmax(logits)[:, 1]
    assert counts[1, 2].tolist() == np.histogram(p[label == 2], bins=50, range=(0, 1))[0].tolist()


def events(*groups: tuple[float, int, int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return logits, labels and predictions of (probability, label, right, wrong) events."""
    label = np.concatenate([np.full(right + wrong, k) for _, k, right, wrong in groups])
    is_right = np.concatenate([np.repeat([True, False], group[2:]) for group in groups])
    p = np.concatenate([np.full(right + wrong, p) for p, _, right, wrong in groups])
    guess = np.where(is_right, label, 1 - label)
    logits = np.zeros((len(label), 2))
    logits[np.arange(len(label)), guess] = np.log(p / (1 - p))
    return logits, label.astype(np.int8), guess.astype(np.int8)


def evenly(p: float, right: int, wrong: int) -> list[tuple[float, int, int, int]]:
    """Return both classes with as many events, so that all events weigh the same."""
    return [(p, k, right // 2, wrong // 2) for k in (0, 1)]


def test_bins_are_joined_until_a_point_has_25_events_and_the_rest_joins_the_last() -> None:
    bins = [
        *((8.5 / 15, 14, 12), (9.5 / 15, 16, 10), (10.5 / 15, 14, 10)),
        *((11.5 / 15, 20, 4), (13.5 / 15, 24, 2), (14.5 / 15, 10, 0)),
    ]
    curve = count(*events(*(group for one in bins for group in evenly(*one)))).top.curve()
    number = np.array([26, 26, 48, 36])
    right = np.array([14, 16, 34, 34])
    assert curve["share"] == pytest.approx(number / 136)
    assert curve["observed"] == pytest.approx(right / number)
    joined = [(10.5 * 24 + 11.5 * 24) / 48 / 15, (13.5 * 26 + 14.5 * 10) / 36 / 15]
    assert curve["predicted"] == pytest.approx([8.5 / 15, 9.5 / 15, *joined])
    low, high = wilson(right, number)
    assert curve["low"] == pytest.approx(low)
    assert curve["high"] == pytest.approx(high)
    assert curve["error"] == pytest.approx((high - low) / 2)


def test_fewer_events_than_a_point_needs_are_one_point() -> None:
    curve = count(*events(*evenly(0.6, 2, 2), *evenly(0.9, 4, 0))).top.curve()
    assert (curve["share"], curve["observed"]) == ([pytest.approx(1)], [pytest.approx(0.75)])


def test_the_interval_of_a_point_is_that_of_its_effective_number_of_events() -> None:
    top = count(*events((0.7, 0, 63, 27), (0.7, 1, 9, 1))).top
    curve = top.curve()
    effective = 1 / (0.25 / 90 + 0.25 / 10)  # of 90 and 10 events with half of the weight each
    low, high = wilson(np.array(0.8 * effective), np.array(effective))
    assert curve["observed"] == pytest.approx([0.8])
    assert (curve["low"], curve["high"]) == (pytest.approx([low]), pytest.approx([high]))
    assert top.chance() == pytest.approx(math.sqrt(2 / math.pi * 0.7 * 0.3 / effective))


def test_the_ece_of_chance_is_the_mean_deviation_of_a_gaussian_in_every_bin() -> None:
    top = count(*events(*evenly(0.7, 30, 10), *evenly(0.9, 60, 0))).top
    deviations = 0.4 * math.sqrt(0.7 * 0.3 / 40) + 0.6 * math.sqrt(0.9 * 0.1 / 60)
    assert top.chance() == pytest.approx(math.sqrt(2 / math.pi) * deviations)
    single = count(*events((0.7, 0, 1, 0), (0.9, 1, 1, 0))).top  # one event in a bin
    deviations = 0.5 * math.sqrt(0.7 * 0.3) + 0.5 * math.sqrt(0.9 * 0.1)
    assert single.chance() == pytest.approx(math.sqrt(2 / math.pi) * deviations)


def test_the_ece_of_calibrated_samples_is_that_of_chance_on_average() -> None:
    rng = np.random.default_rng(1)
    found = []
    for _ in range(200):
        right = rng.binomial([50, 50, 80, 80], [0.7, 0.7, 0.9, 0.9]).tolist()
        groups = zip((0.7, 0.7, 0.9, 0.9), (0, 1, 0, 1), right, (50, 50, 80, 80), strict=True)
        found.append(count(*events(*((p, k, r, n - r) for p, k, r, n in groups))).top)
    assert np.mean([top.ece() for top in found]) == pytest.approx(found[0].chance(), rel=0.1)


def test_the_ece_is_counted_by_hand() -> None:
    top = count(*events(*evenly(0.7, 20, 20), *evenly(0.9, 54, 6))).top
    assert top.ece() == pytest.approx(0.4 * abs(0.7 - 0.5))
    other = count(*events(*evenly(0.7, 28, 12), *evenly(0.9, 30, 30))).top
    assert top.ece(other.counts) == pytest.approx(other.ece()) == pytest.approx(0.6 * 0.4)
    assert top.ece(3 * top.counts) == pytest.approx(top.ece())


def test_the_calibration_of_every_class_is_that_of_a_plain_loop() -> None:
    logits, label = toy_sample((200, 90, 150))
    p, weight = softmax(logits), balanced_weights(label) / 3
    own = count(logits, label, predicted(logits)).own
    for k in range(3):
        bins = np.minimum((p[:, k] * 15).astype(int), 14)
        expected = sum(
            abs(np.sum(weight[bins == b] * (p[bins == b, k] - (label[bins == b] == k))))
            for b in range(15)
        )
        assert own[k].ece() == pytest.approx(expected)
        curve = own[k].curve()
        assert sum(curve["share"]) == pytest.approx(1)
        assert np.dot(curve["share"], curve["predicted"]) == pytest.approx(weight @ p[:, k])
        assert np.dot(curve["share"], curve["observed"]) == pytest.approx(1 / 3)


def test_the_entry_of_the_report_has_the_error_of_poisson_weights() -> None:
    logits, label = toy_sample((80, 60, 100))
    top = count(logits, label, predicted(logits)).top
    entry = top.to_dict(replicas=300, rng=np.random.default_rng(0))
    assert entry["ece"]["value"] == top.ece()
    assert entry["ece_by_chance"] == top.chance()
    assert entry.items() >= top.curve().items()
    rng = np.random.default_rng(2)
    drawn = []
    for _ in range(300):
        chosen = np.repeat(np.arange(len(label)), rng.poisson(1.0, size=len(label)))
        replica = count(logits[chosen], label[chosen], predicted(logits[chosen]))
        drawn.append(top.ece(replica.top.counts))
    assert entry["ece"]["error"] == pytest.approx(np.std(drawn), rel=0.2)


def test_the_observed_share_of_correct_events_is_never_above_one() -> None:
    for n in range(1, 60):
        top = count(*events((0.7, 0, n, 0), (0.7, 1, 60, 0))).top
        assert top.curve()["observed"] == [pytest.approx(1)]
        assert top.curve()["observed"][0] <= 1


def test_events_are_counted_by_class_bin_and_whether_they_are_right() -> None:
    groups = [(0.55, 0, 3, 2), (0.99, 1, 4, 1), (1 - 1e-15, 0, 1, 0)]
    logits, label, guess = events(*groups)
    logits[-1] = [2000.0, 0.0]  # a probability of exactly 1
    counted = count(logits, label, guess)
    expected = np.zeros((4, 15), dtype=int)  # wrong of class 0, of 1, right of 0, of 1
    expected[0, 8], expected[2, 8], expected[1, 14], expected[3, 14] = 2, 3, 1, 4
    expected[2, 14] = 1
    assert counted.top.counts.tolist() == expected.tolist()
    assert counted.top.sums[0, [8, 14]] == pytest.approx([5 * 0.55, 1])
    assert counted.top.sums[1, 14] == pytest.approx(5 * 0.99)
    assert counted.top.counts.dtype == counted.histograms.dtype == np.int64


def test_more_events_than_fit_one_step_are_all_counted() -> None:
    n = CHUNK + 1000
    label = (np.arange(n) % 2).astype(np.int8)
    logits = np.stack([np.zeros(n), np.linspace(-4, 4, n)], axis=1).astype(np.float32)
    counted = count(logits, label, predicted(logits))
    p = softmax(logits)
    for k in (0, 1):
        for true in (0, 1):
            expected, _ = np.histogram(p[label == true, k], bins=50, range=(0, 1))
            assert counted.histograms[k, true] == pytest.approx(expected, abs=1)
    assert counted.top.counts.sum() == n
    assert counted.top.sums.sum() == pytest.approx(p.max(axis=1).sum())
