"""Sentences on a comparison of datasets: the headline, the samples, warnings, methods, limits."""

from collections.abc import Iterator, Mapping
from typing import Any

from hepflow.config.compare import CompareConfig
from hepflow.evaluate.datasets.measure import ALL, EVERYTHING, SIDES, by_chance, differing, ordered
from hepflow.evaluate.datasets.sources import PIECE
from hepflow.evaluate.datasets.trees import FOLDS, LEARNING_RATE, LEAVES, ROUNDS
from hepflow.statistics.numbers import listed, pm, tied
from hepflow.statistics.two_samples import EXACT_BELOW, LEVEL
from hepflow.system.terminal import counted

Comparison = Mapping[str, Any]


def headline(comparison: Comparison) -> str:
    """Return the first sentence of the page."""
    first, second = comparison["names"]
    trees = ordered(comparison, "trees")
    overall = trees[ALL] if ALL in trees else next(iter(trees.values()))
    auc, blamed = pm(overall["auc"][EVERYTHING]), overall["given_away_by"]
    if blamed:
        text = f"Boosted trees tell {first} from {second} with an AUC of {auc}; {blamed} gives it"
        return tied(f"{text} away most.")
    some = [name for name, entry in trees.items() if entry["given_away_by"]]
    but = f", except in {listed(some)}" if some else ""
    return tied(f"Boosted trees cannot tell {first} from {second}{but}: AUC {auc}.")


def samples(comparison: Comparison) -> list[str]:
    """Return which events were used, one sentence per dataset."""
    found = []
    for side, name in zip(SIDES, comparison["names"], strict=True):
        used = [
            f"{entry['events'][side]:,} {class_name}"
            for class_name, entry in ordered(comparison).items()
        ]
        found.append(f"{name}: {', '.join(used)}.")
        for class_name, entry in ordered(comparison).items():
            if (pieces := entry["pieces"][side]) is not None:
                there = f"{entry['events_there'][side]:,} {class_name} of {name}"
                what = f"random sample (seed {comparison['settings']['seed']}) of the {there}"
                parts = f"{counted(pieces, 'run')} of at most {PIECE:,} neighbouring events"
                found.append(f"The {class_name} are a {what}, in {parts}.")
    return found


def cautions(comparison: Comparison) -> list[str]:
    """Return what a reader must know before the numbers, from the numbers."""
    found = []
    shared = {name: one["shared"] for name, one in ordered(comparison).items() if one["shared"]}
    if shared:
        numbers = listed([f"{n:,} {name}" for name, n in shared.items()])
        what = "events with the same event_id are in both samples"
        effect = "the two are not independent, and distances by chance are smaller"
        found.append(f"{numbers}: {what}, so {effect} than the thresholds assume.")
    if left_out := comparison["settings"]["leave_out"]:
        found.append(f"Left out of the trees and of the limits: {', '.join(left_out)}.")
    return found


def distances(comparison: Comparison) -> str:
    """Return how many distances reach their threshold, and how many do by chance."""
    entries = comparison["classes"].values()
    n = sum(len(entry["quantities"]) for entry in entries)
    reached = sum(len(differing(entry)) for entry in entries)
    chance = f"equal distributions would reach it in about {by_chance(n):.0f} of {n}"
    return f"{reached} of {n} distances reach the threshold; {chance}, fewer for counts."


def method(comparison: Comparison) -> list[str]:
    """Return how the numbers were made."""
    first, second = comparison["names"]
    return [
        "KS is the largest distance of the two cumulative distributions. Samples of one continuous "
        f"distribution reach the threshold with a probability of {100 * LEVEL:g} %: exact up to "
        f"{EXACT_BELOW:,} events of both together, above by Smirnov's limit. Samples of counts "
        "reach it more rarely.",
        f"The AUC of a quantity is the probability that an event of {first} has the larger value, "
        "ties half: 0.5 for equal distributions, but also for two that differ in their widths "
        "alone. Its error is DeLong's.",
        f"Trees: LightGBM, {ROUNDS} trees of {LEAVES} leaves, learning rate {LEARNING_RATE:g}, "
        f"{FOLDS} folds by hash of the event_id. The AUC is the mean over the folds, of events "
        "that the trees have not seen; its error is that of these events. All classes of both "
        "datasets have the same weight.",
        "The importance of a quantity is the loss of that AUC when it is shuffled among the events "
        "of a class; its error is that of the mean over the folds.",
        f"Ratios are {first} over {second}. Errors are one standard error, of both samples.",
    ]


def exceeded(comparison: Comparison, config: CompareConfig) -> Iterator[str]:
    """Yield a sentence per number above --max-auc or --max-ks."""
    for name, entry in ordered(comparison, "trees").items():
        auc = entry["auc"][EVERYTHING]
        if auc["value"] > config.max_auc:
            blamed = f", given away by {entry['given_away_by']}" if entry["given_away_by"] else ""
            yield f"AUC {pm(auc)} of {name} is above --max-auc {config.max_auc:g}{blamed}"
    for name, entry in ordered(comparison).items():
        rows = sorted(entry["quantities"].items(), key=lambda one: (-one[1]["ks"], one[0]))
        for quantity, row in rows:
            left_out = quantity in comparison["settings"]["leave_out"]
            if row["ks"] > config.max_ks and not left_out:
                what = f"KS {row['ks']:.3f} of {quantity} in {name}"
                yield f"{what} is above --max-ks {config.max_ks:g}"
