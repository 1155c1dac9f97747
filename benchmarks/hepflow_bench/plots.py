"""Plots of the measurements: throughput, speed-up, efficiency, time per stage, rate per core."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hepflow.statistics.scaling import Cost
from hepflow_bench.report import Comparison, Summary

COLUMNS = 3
INCLUDED = " (start-up included)"
OTHER_WAYS = ("spark-train", "train-gpu", "score")
"""Stages that replace another one or process other events: not part of the pipeline's time."""


def throughput(
    path: Path,
    largest: Mapping[str, Sequence[Summary]],
    rivals: Mapping[str, Sequence[Summary]],
    caption: str,
) -> None:
    """Plot events per second against workers, with the spread.

    One line per number of cores; dotted: ideal scaling; crosses: the rival.
    """
    figure, axes = _figure(len(largest), caption)
    for place, (stage, summaries) in zip(axes, largest.items(), strict=True):
        for cores in sorted({summary.case.cores for summary in summaries}):
            own = [summary for summary in summaries if summary.case.cores == cores]
            workers = [summary.case.workers for summary in own]
            rates = [summary.events_per_s for summary in own]
            label = f"{cores} core{'s' * (cores > 1)} each"
            line = place.errorbar(
                workers, rates, yerr=_spread(own), marker="o", capsize=3, label=label
            )
            ideal = [rates[0] * n / workers[0] for n in workers]
            place.plot(workers, ideal, ":", color=line[0].get_color())
        for other in rivals.get(stage, ()):
            case = other.case
            name = case.way if case.cores == 1 else f"{case.way}, {case.cores} cores"
            style: dict[str, Any] = {"fmt": "x", "color": "0.4", "capsize": 3, "label": name}
            place.errorbar([case.workers], [other.events_per_s], yerr=_spread([other]), **style)
        doubt = " (mostly start-up)" if any(summary.mostly_start for summary in summaries) else ""
        doubt = doubt if all(summary.start_known for summary in summaries) else INCLUDED
        what = "executors" if stage.startswith("spark") else "workers"
        _label(place, stage + doubt, what, "events/s")
        place.xaxis.set_major_locator(MaxNLocator(integer=True))
        place.set_ylim(bottom=0)
        place.legend(fontsize="small")
    figure.savefig(path, dpi=150)


def scaling(path: Path, largest: Mapping[str, Sequence[Summary]], caption: str) -> None:
    """Plot speed-up and efficiency against cores, relative to the fewest.

    Stages that were too short for a rate are left out.
    """
    figure, (left, right) = _figure(2, caption, width=4.8)
    fewest, most = math.inf, 1
    for stage, summaries in largest.items():
        if any(summary.mostly_start or not summary.start_known for summary in summaries):
            continue
        first = summaries[0]
        cores = [summary.cores for summary in summaries]
        ideal = [first.events_per_s * n / first.cores for n in cores]
        for place, unit in ((left, [first.events_per_s] * len(cores)), (right, ideal)):
            gain = [summary.events_per_s / u for summary, u in zip(summaries, unit, strict=True)]
            spread = [
                [side / u for side, u in zip(sides, unit, strict=True)]
                for sides in _spread(summaries)
            ]
            place.errorbar(cores, gain, yerr=spread, marker="o", capsize=3, label=stage)
        fewest, most = min(fewest, first.cores), max(most, *cores)
    left.plot([fewest, most], [1, most / fewest], "k:", label="ideal")
    right.axhline(1, color="k", linestyle=":")
    right.set_ylim(bottom=0)
    _label(left, "speed-up", "cores", "times the rate on the fewest")
    _label(right, "efficiency", "cores", "speed-up over cores")
    for place in (left, right):
        place.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(*left.get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    figure.savefig(path, dpi=150)


def share(path: Path, costs: Sequence[Cost], shares: Mapping[str, float], caption: str) -> None:
    """Plot the time of each stage per event at the start of the pipeline, without start-up.

    Stages outside the pipeline are paler and have no share. A step whose time cannot be separated
    from its start-up has ``~`` instead; all steps do if any start-up is unknown.
    """
    figure, (place,) = _figure(1, caption, width=7.5, height=1.4 + 0.32 * len(costs))
    work = [(cost.serial_s + cost.parallel_s) * shares[cost.stage.split()[0]] for cost in costs]
    steps = [not cost.stage.startswith(OTHER_WAYS) for cost in costs]
    whole = sum(seconds for seconds, step in zip(work, steps, strict=True) if step)
    known = all(cost.start_known for cost in costs)
    bars = place.barh(
        [cost.stage for cost in costs],
        [1e3 * seconds for seconds in work],
        color=["C0" if step else "C7" for step in steps],
    )
    texts = [
        f"{seconds / whole:.1%}" if step and seconds and known else "~" * step
        for seconds, step in zip(work, steps, strict=True)
    ]
    place.bar_label(bars, texts, padding=3)
    place.invert_yaxis()
    place.margins(x=0.15)
    _label(place, "time per stage (training: one epoch)", "core milliseconds per event read", "")
    figure.savefig(path, dpi=150)


def per_core(path: Path, lines: Sequence[Comparison], caption: str) -> None:
    """Plot events per second and core, ours and published ones."""
    figure, (place,) = _figure(1, caption, width=10, height=1.4 + 0.3 * len(lines))
    values = [line.rate[0] for line in lines]
    spread = [
        [abs(line.rate[0] - line.rate[side]) if line.ours else math.nan for line in lines]
        for side in (1, 2)
    ]
    colours = ["C0" if line.ours else "0.75" if line.on_gpu else "C7" for line in lines]
    bars = place.barh(range(len(lines)), values, color=colours, xerr=spread, capsize=3)
    labels = [f"{value:,.3g}" if value < 1000 else f"{value:,.0f}" for value in values]
    place.bar_label(bars, labels, padding=4, fontsize="small")
    names = []
    for line in lines:
        published = f"{line.what}, {line.machine}, {line.date}"
        name = f"{line.stage}: {line.what}" if line.ours else published
        included = "" if line.start_known else INCLUDED
        names.append(f"{name}{included}{' (per GPU)' if line.on_gpu else ''}")
    place.set_yticks(range(len(lines)), names)
    place.invert_yaxis()
    place.set_xscale("log")
    place.margins(x=0.12, y=0.02)
    title = (
        "events/s per core, without start-up; published values (grey): other machines and samples"
    )
    figure.suptitle(title, fontsize="medium")
    _label(place, "", "events/s per core", "")
    figure.savefig(path, dpi=150)


def _spread(summaries: Sequence[Summary]) -> list[list[float]]:
    """Return the errors below and above the medians, as matplotlib expects them."""
    return [
        [s.events_per_s - s.low for s in summaries],
        [s.high - s.events_per_s for s in summaries],
    ]


def _figure(
    n: int, caption: str, width: float = 4.0, height: float = 3.4
) -> tuple[Figure, list[Axes]]:
    columns, rows = min(n, COLUMNS), -(-n // COLUMNS)
    figure = Figure(figsize=(width * columns, height * rows + 0.5), layout="constrained")
    figure.supxlabel(fill(caption, int(17 * width * columns)), fontsize="x-small", color="0.4")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in axes[n:]:
        unused.remove()
    return figure, axes[:n]


def _label(place: Axes, title: str, x: str, y: str) -> None:
    place.set_title(title, fontsize="medium")
    place.set_xlabel(x)
    place.set_ylabel(y)
