"""Plots of the measurements: throughput, speed-up, efficiency, where the time goes, and events a second and core."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hepflow_bench.report import Beside, Summary
from hepflow_bench.scaling import Cost

COLUMNS = 3
OTHER_WAYS = ("spark-train", "train-gpu", "score")
"""What is done instead of a stage, or to other events: no share of the pipeline's time."""


def throughput(
    path: Path,
    largest: Mapping[str, Sequence[Summary]],
    rivals: Mapping[str, Sequence[Summary]],
    caption: str,
) -> None:
    """Events a second against workers, a line for each number of cores, with the spread; dotted: the ideal; crosses: the rival."""
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
            name = (
                other.case.way
                if other.case.cores == 1
                else f"{other.case.way}, {other.case.cores} cores"
            )
            place.errorbar(
                [other.case.workers],
                [other.events_per_s],
                yerr=_spread([other]),
                fmt="x",
                color="0.4",
                capsize=3,
                label=name,
            )
        doubt = " (mostly start)" if any(summary.mostly_start for summary in summaries) else ""
        doubt = doubt if all(summary.start_known for summary in summaries) else " (with the start)"
        _label(
            place,
            stage + doubt,
            "executors" if stage.startswith("spark") else "workers",
            "events/s",
        )
        place.xaxis.set_major_locator(MaxNLocator(integer=True))
        place.set_ylim(bottom=0)
        place.legend(fontsize="small")
    figure.savefig(path, dpi=150)


def scaling(path: Path, largest: Mapping[str, Sequence[Summary]], caption: str) -> None:
    """Speed-up and efficiency against cores, relative to the fewest; of stages that worked long enough for a rate."""
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
    """Where the time of an event at the beginning goes, without the starts; what is no step of the pipeline, paler and without a share.

    A step whose events are too few to be told from its start has no share either, but ``~``, and all have where a start is unknown.
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
    _label(
        place,
        "where the time goes (a training: one epoch)",
        "core milliseconds for an event that is read",
        "",
    )
    figure.savefig(path, dpi=150)


def per_core(path: Path, lines: Sequence[Beside], caption: str) -> None:
    """Events a second and core, ours and published ones."""
    figure, (place,) = _figure(1, caption, width=10, height=1.4 + 0.3 * len(lines))
    values = [line.rate[0] for line in lines]
    spread = [
        [abs(line.rate[0] - line.rate[side]) if line.ours else math.nan for line in lines]
        for side in (1, 2)
    ]
    colours = ["C0" if line.ours else "0.75" if line.on_gpu else "C7" for line in lines]
    bars = place.barh(range(len(lines)), values, color=colours, xerr=spread, capsize=3)
    place.bar_label(
        bars,
        [f"{value:,.3g}" if value < 1000 else f"{value:,.0f}" for value in values],
        padding=4,
        fontsize="small",
    )
    names = [
        f"{line.stage}: {line.what}" if line.ours else f"{line.what}, {line.machine}, {line.date}"
        for line in lines
    ]
    names = [
        name + " (with the start)" * (not line.start_known)
        for name, line in zip(names, lines, strict=True)
    ]
    place.set_yticks(
        range(len(lines)),
        [
            name + " (a GPU, not a core)" * line.on_gpu
            for name, line in zip(names, lines, strict=True)
        ],
    )
    place.invert_yaxis()
    place.set_xscale("log")
    place.margins(x=0.12, y=0.02)
    figure.suptitle(
        "events/s a core, without the starts; published figures (grey) are of other machines, samples and dates",
        fontsize="medium",
    )
    _label(place, "", "events/s a core", "")
    figure.savefig(path, dpi=150)


def _spread(summaries: Sequence[Summary]) -> list[list[float]]:
    """Below and above the medians, as matplotlib takes it."""
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
