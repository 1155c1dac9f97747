"""Working points against counted events, the bootstrap and the spread of samples."""

import math
from typing import Any

import numpy as np
import pytest

from hepflow.statistics.metrics import Spectrum, bootstrap, efficiencies, log_odds, spectrum
from hepflow.statistics.working_points import (
    Selection,
    against_rest,
    evaluate_selection,
    mix_of,
    rates,
    selections,
    threshold_bin,
)
from tests.support.toy_runs import toy_sample

EXACT = 1_000_000
CLASSES = ("qcd", "ttbar", "wjets")


@pytest.mark.parametrize("target", [0.5, 0.9, 0.99])
def test_a_working_point_is_the_tightest_at_which_every_signal_class_keeps_its_share(
    target: float,
) -> None:
    logits, label = toy_sample()
    score = log_odds(logits, [1, 2], [0])
    binned, _ = spectrum(score, label, 3, exact_below=EXACT)
    threshold = binned.floor[threshold_bin(efficiencies(binned.counts), [1, 2], target)]
    kept = [np.mean(score[label == k] >= threshold) for k in (1, 2)]
    assert min(kept) >= target
    next_higher = score[score > threshold].min()
    assert min(np.mean(score[label == k] >= next_higher) for k in (1, 2)) < target


def test_rates_follow_from_efficiencies_and_the_mix() -> None:
    logits, label = toy_sample()
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


def test_a_selection_and_its_mirror_image_have_the_same_auc_and_error() -> None:
    logits, label = toy_sample((90, 60, 120))
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


def test_stated_errors_are_the_spread_of_samples() -> None:
    selection = Selection("headline", (1, 2), (0,))
    seen, stated = [], []
    for seed in range(60):
        logits, label = toy_sample((600, 600, 600), seed=seed)
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


def counted(*columns: tuple[int, ...]) -> Spectrum:
    """Return a spectrum with these events per class in the bins 0, 1, ..."""
    return Spectrum(np.array(columns).T, np.arange(len(columns), dtype=float))


def evaluate(
    binned: Spectrum,
    selection: Selection,
    target: float,
    mix_K: np.ndarray | None = None,
    replicas: int = 20,
) -> dict[str, Any]:
    """Return the only working point."""
    found = evaluate_selection(
        binned,
        selection,
        targets=[target],
        mix_K=mix_K,
        replicas=replicas,
        rng=np.random.default_rng(12),
    )
    (point,) = found["working_points"]
    return dict(point)


def test_selections_are_the_headline_each_class_against_the_rest_and_all_pairs() -> None:
    found = selections(CLASSES, ["ttbar", "wjets"])
    assert {name: (one.signal, one.background) for name, one in found.items()} == {
        "headline": ((1, 2), (0,)),
        "qcd_vs_rest": ((0,), (1, 2)),
        "ttbar_vs_rest": ((1,), (0, 2)),
        "wjets_vs_rest": ((2,), (0, 1)),
        **{
            f"{CLASSES[s]}_vs_{CLASSES[b]}": ((s,), (b,))
            for s in range(3)
            for b in range(3)
            if s != b
        },
    }
    assert all(name == one.name for name, one in found.items())
    assert found["headline"].labels == (1, 2, 0)


def test_each_class_is_shown_against_the_rest_unless_the_other_one_mirrors_it() -> None:
    shown = against_rest(selections(CLASSES, ["ttbar", "wjets"]))
    assert [one.name for one in shown] == ["qcd_vs_rest", "ttbar_vs_rest", "wjets_vs_rest"]
    assert [one.name for one in against_rest(selections(("a", "b"), ["b"]))] == ["b_vs_rest"]


def test_a_mix_without_any_rate_is_no_mix() -> None:
    headline = selections(CLASSES, ["ttbar", "wjets"])["headline"]
    assert mix_of(headline, CLASSES, dict.fromkeys(CLASSES, 0.0)) is None
    assert mix_of(headline, CLASSES, dict.fromkeys(CLASSES, 2.0)) == pytest.approx([1 / 3] * 3)


def test_nothing_kept_of_the_mix_has_no_purity() -> None:
    table = efficiencies(np.array([[3, 1], [0, 4]]))
    selection = Selection("headline", (1,), (0,))
    found = rates(table, selection, 0.9, np.array([1.0, 0.0]))
    assert (found.rate, found.purity) == (0.25, 0.0)
    table[:, 1] = [0.0, 1.0]
    found = rates(table, selection, 0.9, np.array([1.0, 0.0]))
    assert found.rate == 0
    assert math.isnan(found.purity)
    assert math.isnan(rates(table, selection, 0.9, None).rate)


def test_without_a_mix_there_is_no_rate() -> None:
    point = evaluate(counted((5, 1), (3, 4)), Selection("headline", (1,), (0,)), 0.5)
    assert point["rate_kept"] is point["rate_reduction"] is point["purity"] is None


def test_a_target_that_no_threshold_keeps_takes_all_events() -> None:
    table = efficiencies(np.array([[1, 1, 2], [2, 1, 1]]))
    assert [threshold_bin(table, [0, 1], target) for target in (1.1, 1.0, 0.75, 0.5, 0.25)] == [
        *(0, 0, 0, 1, 2)
    ]
    assert threshold_bin(table, [0], 0.75) == 1


def test_every_number_of_a_working_point_is_counted() -> None:
    binned = counted((40, 2, 5), (25, 3, 5), (30, 15, 10), (5, 80, 30))
    selection = Selection("headline", (1, 2), (0,))
    mix = np.array([0.5, 0.2, 0.3])
    point = evaluate(binned, selection, 0.8, mix)  # class 2 holds the threshold at bin 2
    kept = [0.35, 0.95, 0.8]
    rate = 0.5 * 0.35 + 0.2 * 0.95 + 0.3 * 0.8
    assert point["target"] == 0.8
    assert point["threshold"] == 2.0
    assert [point["efficiency"][k]["value"] for k in range(3)] == pytest.approx(kept)
    assert point["background_efficiency"]["value"] == pytest.approx(0.35)
    assert point["rejection"]["value"] == pytest.approx(1 / 0.35)
    assert (point["background_passed"], point["few_events"]) == (35, False)
    assert point["rate_kept"]["value"] == pytest.approx(rate)
    assert point["rate_reduction"]["value"] == pytest.approx(1 / rate)
    assert point["purity"]["value"] == pytest.approx(1 - 0.5 * 0.35 / rate)
    for number, inverse in (
        ("background_efficiency", "rejection"),
        ("rate_kept", "rate_reduction"),
    ):
        relative = point[number]["error"] / point[number]["value"]
        assert point[inverse]["error"] / point[inverse]["value"] == pytest.approx(relative)


def test_errors_are_the_standard_deviations_of_replicas_with_their_own_threshold() -> None:
    binned = counted((40, 2, 5), (25, 3, 5), (30, 15, 10), (5, 80, 30))
    mix = np.array([0.5, 0.2, 0.3])
    point = evaluate(binned, Selection("headline", (1, 2), (0,)), 0.8, mix, replicas=30)

    def plain(counts: np.ndarray) -> list[float]:
        for d in (3, 2, 1, 0):
            kept = [sum(own[d:]) / sum(own) for own in counts.tolist()]
            if min(kept[1:]) >= 0.8:
                rate = sum(share * one for share, one in zip(mix, kept, strict=True))
                return [*kept, rate, 1 - mix[0] * kept[0] / rate]
        raise AssertionError

    drawn = bootstrap(
        binned.counts, lambda c: np.array(plain(c)), replicas=30, rng=np.random.default_rng(12)
    )
    numbers = [*(point["efficiency"][k] for k in range(3)), point["rate_kept"], point["purity"]]
    assert [number["error"] for number in numbers] == pytest.approx(drawn.std(axis=0, ddof=1))
    assert point["background_efficiency"]["error"] == numbers[0]["error"]


def test_a_rejection_of_fewer_than_ten_background_events_is_marked() -> None:
    selection = Selection("headline", (1,), (0,))
    found = [evaluate(counted((90, 1), (n, 99)), selection, 0.9) for n in (9, 10)]
    assert [(point["background_passed"], point["few_events"]) for point in found] == [
        *((9, True), (10, False))
    ]


@pytest.mark.parametrize("all_pass", [False, True])
def test_background_that_never_or_always_passes_has_the_error_of_its_number_of_events(
    all_pass: bool,
) -> None:
    low, high = (0, 1) if all_pass else (1, 0)
    binned = counted((50 * low, 10, 200 * low), (50 * high, 90, 200 * high))
    mix = np.array([0.5, 0.3, 0.2])
    selection = Selection("ttbar_vs_rest", (1,), (0, 2))
    point = evaluate(binned, selection, 0.5, mix)
    half = 0.5 / 51, 0.5 / 201  # Wilson's interval at an efficiency of 0 or 1
    assert point["background_efficiency"]["value"] == high
    assert point["background_efficiency"]["error"] == pytest.approx(math.hypot(*half) / 2)
    assert [point["efficiency"][k]["error"] for k in (0, 2)] == pytest.approx(half)
    unseen = math.hypot(0.5 * half[0], 0.2 * half[1])
    signal = 0.3 * point["efficiency"][1]["error"]
    assert signal > 0
    assert point["rate_kept"]["error"] == pytest.approx(math.hypot(signal, unseen))
    least = unseen / point["rate_kept"]["value"]
    if all_pass:  # the signal fluctuates in the replicas
        assert point["purity"]["error"] > least
    else:
        assert point["purity"]["error"] == pytest.approx(least)
    assert (point["rejection"] is None) == (not all_pass)


def test_background_that_passes_in_replicas_alone_has_the_error_of_the_replicas() -> None:
    binned = counted((50, 10), (0, 90))  # exactly at the target, so that half of them lie below
    mix = np.array([0.5, 0.5])
    point = evaluate(binned, Selection("headline", (1,), (0,)), 0.9, mix, replicas=300)
    assert point["background_efficiency"]["value"] == 0
    assert point["background_efficiency"]["error"] == pytest.approx(0.5, abs=0.02)
    assert point["efficiency"][0]["error"] == point["background_efficiency"]["error"]
    # the purity is 1 / 2 in one half of the replicas and 1 in the other
    assert point["purity"]["error"] == pytest.approx(0.25, abs=0.01)


def test_the_auc_of_a_selection_ignores_other_classes() -> None:
    binned = counted((1, 5, 0), (1, 0, 7), (0, 3, 2))
    found = [
        evaluate_selection(
            spectrum_,
            Selection("b_vs_a", (1,), (0,)),
            targets=[0.5],
            mix_K=None,
            replicas=2,
            rng=np.random.default_rng(0),
        )["auc"]
        for spectrum_ in (binned, Spectrum(binned.counts[:2], binned.floor))
    ]
    assert found[0] == found[1]
    # 3 of 8 signal events are above both background events, 5 tie with one and are below the other
    assert found[0]["value"] == pytest.approx((3 + 5 * 0.25) / 8)
