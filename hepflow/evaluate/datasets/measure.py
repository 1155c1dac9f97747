"""Samples of two datasets -> the numbers of compare.json, per class and quantity and over all."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hepflow.evaluate.datasets.pair import Pair
from hepflow.evaluate.datasets.sample import Sample
from hepflow.evaluate.datasets.trees import Sides, tell_apart
from hepflow.statistics import two_samples
from hepflow.statistics.metrics import Measurement
from hepflow.statistics.two_samples import LEVEL, ks_threshold

SIDES = ("input", "reference")
QUANTILES = (0.1, 0.5, 0.9)
ALL = "all classes"
FEATURES, EVERYTHING = "features", "everything"
"""Sets of quantities that trees are fitted on: the high-level features, and all."""
RESOLVED = 3.0  # standard errors above 0.5 from which an AUC names a quantity

Samples = Mapping[str, tuple[Sample, Sample]]  # class -> input and reference


def sets_of(pair: Pair, leave_out: Sequence[str]) -> dict[str, list[int]]:
    """Return the columns of each set of quantities for the trees."""
    names = [feature.name for feature in pair.quantities]
    kept = [i for i, name in enumerate(names) if name not in leave_out]
    features = [i for i in kept if i < pair.n_hlf]
    sets = {FEATURES: features} if features and len(features) < len(kept) else {}
    return {**sets, EVERYTHING: kept}


def measure_class(
    pair: Pair, samples: tuple[Sample, Sample], ranges: Sequence[np.ndarray]
) -> dict[str, Any]:
    """Return the entry of a class, without trees; ``ranges``: edges of the bins per quantity."""
    first, second = (sample.rows.values for sample in samples)
    threshold = ks_threshold(*sorted((len(first), len(second))))
    found = {}
    for column, feature in enumerate(pair.quantities):
        values = first[:, column], second[:, column]
        counts = two_samples.count(*values)
        distance, means = two_samples.ks_distance(counts), [*map(two_samples.mean, values)]
        bins = [two_samples.histogram(one, ranges[column]) for one in values]
        ratio = two_samples.over(*means)
        found[feature.name] = {
            "quantiles": _both([np.quantile(one, QUANTILES).tolist() for one in values]),
            "mean": _both([mean._asdict() for mean in means]),
            "ratio": None if ratio is None else ratio._asdict(),
            "ks": distance,
            "differs": distance >= threshold,
            "auc": two_samples.auc(counts)._asdict(),
            "histogram": _both([one.tolist() for one in bins]),
        }
    shared = np.intersect1d(samples[0].rows.event_id, samples[1].rows.event_id)
    return {
        "events": _both([len(sample.rows) for sample in samples]),
        "events_there": _both([sample.n_there for sample in samples]),
        "pieces": _both([None if sample.whole else sample.n_pieces for sample in samples]),
        "shared": len(shared),
        "ks_threshold": threshold,
        "quantities": found,
    }


def edges(samples: Samples, n_quantities: int) -> list[np.ndarray]:
    """Return the edges of the bins of each quantity, the same for all classes."""
    every = [sample.rows.values for both in samples.values() for sample in both]
    columns = (np.concatenate([one[:, i] for one in every]) for i in range(n_quantities))
    return [two_samples.edges(column) for column in columns]


def measure_trees(
    pair: Pair,
    samples: Samples,
    sets: Mapping[str, Sequence[int]],
    seed: int,
    advance: Callable[[], None],
) -> dict[str, dict[str, Any]]:
    """Return class, or `ALL`, -> AUCs of the trees by set, importances, and the quantity to blame.

    With a single class, there is no entry of all.
    """
    names = [feature.name for feature in pair.quantities]
    groups = {name: [name] for name in samples}
    if len(samples) > 1:
        groups[ALL] = [*samples]
    found = {}
    for group, classes in groups.items():
        sides, aucs = _sides([samples[name] for name in classes]), {}
        for kind, columns in sets.items():
            wanted = kind == EVERYTHING
            told = tell_apart(sides, columns, seed=seed, importance=wanted, advance=advance)
            aucs[kind] = told.auc._asdict()
        worth = {
            names[column]: Measurement(*row)._asdict()
            for column, row in zip(columns, told.importance.tolist(), strict=True)
        }
        best = max(worth, key=lambda name: worth[name]["value"])
        resolved = told.auc.value > 0.5 + RESOLVED * told.auc.error
        blamed = best if resolved and worth[best]["value"] > 0 else None
        found[group] = {"auc": aucs, "importance": worth, "given_away_by": blamed}
    return found


def _sides(samples: Sequence[tuple[Sample, Sample]]) -> Sides:
    ordered = [sample for first, second in samples for sample in (second, first)]
    x = np.concatenate([sample.rows.values for sample in ordered])
    ids = np.concatenate([sample.rows.event_id for sample in ordered])
    return Sides(x, np.repeat(np.arange(len(ordered)), [len(one.rows) for one in ordered]), ids)


def _both(values: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(SIDES, values, strict=True))


def ordered(comparison: Mapping[str, Any], key: str = "classes") -> dict[str, Any]:
    """Return the entries of ``classes`` or ``trees`` in the order of the classes, all of them last.

    JSON has them by name.
    """
    found = comparison[key]
    return {
        name: found[name] for name in (*comparison["settings"]["classes"], ALL) if name in found
    }


def differing(entry: Mapping[str, Any], leave_out: Sequence[str] = ()) -> list[str]:
    """Return the quantities of a class whose distance reaches the threshold."""
    rows = entry["quantities"].items()
    return [name for name, row in rows if row["differs"] and name not in leave_out]


def by_chance(n_distances: int) -> float:
    """Return how many distances of equal distributions reach the threshold."""
    return LEVEL * n_distances
