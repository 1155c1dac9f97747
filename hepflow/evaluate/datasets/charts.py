"""compare.json -> the figures of the page."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hepflow.evaluate.datasets.measure import SIDES, ordered
from hepflow.evaluate.figures import Axis, Bars, Chart, Series, colour, file_name
from hepflow.statistics.two_samples import bin_ratios

Comparison = Mapping[str, Any]
HIGHEST_RATIO = 3.0  # end of the axis at most


def label_of(quantity: Mapping[str, Any]) -> str:
    """Return ``HT [GeV]``."""
    unit = "" if quantity["unit"] == "1" else f" [{quantity['unit']}]"
    return f"{quantity['name']}{unit}"


def ratios(comparison: Comparison) -> list[Chart]:
    """Return input over reference in bins of each quantity, one curve per class."""
    first, second = comparison["names"]
    caption = f"Share of {first} per bin over that of {second}; one standard error. "
    caption += "The outermost bins include the overflow."
    return [_ratio(comparison, one, caption) for one in comparison["quantities"]]


def _ratio(comparison: Comparison, quantity: Mapping[str, Any], caption: str) -> Chart:
    first, second = comparison["names"]
    edges, series = np.array(quantity["edges"]), []
    middle, ends = (edges[1:] + edges[:-1]) / 2, edges[[0, -1]]
    highest = 2.0
    for k, (class_name, entry) in enumerate(ordered(comparison).items()):
        counts = entry["quantities"][quantity["name"]]["histogram"]
        ratio, error = bin_ratios(*(np.array(counts[side]) for side in SIDES))
        there = np.isfinite(ratio)
        known = there & (error < ratio)  # bins of few events do not decide about the axis
        highest = max(highest, float((ratio + error)[known].max(initial=0.0)))
        own = middle[there], ratio[there], colour("c", k), error[there]
        series.append(Series(class_name, *own, style="points", dash=k))
    series.append(Series("equal", ends, np.ones(2), style="guide"))
    axes = Axis(label_of(quantity), *ends.tolist()), Axis("ratio", 0.0, min(highest, HIGHEST_RATIO))
    name, title = file_name("ratio", quantity["name"]), f"{quantity['name']}: {first} / {second}"
    return Chart(name, title, caption, *axes, tuple(series))


def distributions(comparison: Comparison, class_name: str) -> list[Chart]:
    """Return the distributions of each quantity in both datasets."""
    entry, charts = comparison["classes"][class_name], []
    for quantity in comparison["quantities"]:
        edges, row = np.array(quantity["edges"]), entry["quantities"][quantity["name"]]
        series, highest = [], 0.0
        for index, (side, name) in enumerate(zip(SIDES, comparison["names"], strict=True)):
            counts = np.array(row["histogram"][side])
            share, error = counts / counts.sum(), np.sqrt(counts) / counts.sum()
            series.append(Series(name, edges, share, colour("m", index), error, style="steps"))
            highest = max(highest, float(share.max()))
        verdict = "reaches" if row["differs"] else "is below"
        caption = f"KS {row['ks']:.3f} {verdict} the threshold of {entry['ks_threshold']:.3f}."
        y_axis = Axis("share per bin", 0.0, 1.1 * highest)
        axes = Axis(label_of(quantity), *edges[[0, -1]].tolist()), y_axis
        name = file_name("distribution", class_name, quantity["name"])
        charts.append(Chart(name, quantity["name"], caption, *axes, tuple(series)))
    return charts


def importances(comparison: Comparison) -> list[Bars]:
    """Return the importances of the quantities for the trees, in falling order."""
    caption = "Loss of the AUC when a quantity is shuffled among the events of a class. "
    caption += "Quantities with the same information share their importance."
    return [_bars(name, one, caption) for name, one in ordered(comparison, "trees").items()]


def _bars(name: str, entry: Mapping[str, Any], caption: str) -> Bars:
    by_loss: Sequence[Any] = sorted(
        entry["importance"].items(), key=lambda one: (-one[1]["value"], one[0])
    )
    value, error = (np.array([number[key] for _, number in by_loss]) for key in ("value", "error"))
    labels = tuple(quantity for quantity, _ in by_loss)
    return Bars(file_name("importance", name), name, caption, "loss of AUC", labels, value, error)
