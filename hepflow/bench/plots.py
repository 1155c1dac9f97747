"""Plots of the measurements: throughput, speed-up, efficiency, where the time goes, and events a second and core."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hepflow.bench.published import RATES
from hepflow.bench.report import BOTH, Summary
from hepflow.bench.scaling import Cost


def throughput(path: Path, largest: Mapping[str, Sequence[Summary]], caption: str) -> None:
    """Events a second against workers, a line for each number of cores, with the spread; dotted: the ideal."""
    figure, axes = _figure(len(largest), caption)
    for place, (stage, summaries) in zip(axes, largest.items(), strict=True):
        for cores in sorted({summary.case.cores for summary in summaries}):
            own = [summary for summary in summaries if summary.case.cores == cores]
            workers = [summary.case.workers for summary in own]
            rates = [summary.events_per_s for summary in own]
            spread = [[s.events_per_s - s.low for s in own], [s.high - s.events_per_s for s in own]]
            line = place.errorbar(workers, rates, yerr=spread, marker="o", capsize=3, label=f"{cores} core{'s' * (cores > 1)} each")
            ideal = [rates[0] * n / workers[0] for n in workers]
            place.plot(workers, ideal, ":", color=line[0].get_color())
        _label(place, stage, "executors" if stage.startswith("spark") else "workers", "events/s")
        place.set_xticks(sorted({summary.case.workers for summary in summaries}))
        place.set_ylim(bottom=0)
        place.legend()
    figure.savefig(path, dpi=150)


def scaling(path: Path, largest: Mapping[str, Sequence[Summary]], caption: str) -> None:
    """Speed-up and efficiency against cores, relative to the fewest."""
    figure, (left, right) = _figure(2, caption)
    most = 1
    for stage, summaries in largest.items():
        first = summaries[0]
        cores = [summary.cores for summary in summaries]
        gain = [summary.events_per_s / first.events_per_s for summary in summaries]
        left.plot(cores, gain, "o-", label=stage)
        right.plot(cores, [g * first.cores / n for g, n in zip(gain, cores, strict=True)], "o-", label=stage)
        most = max(most, *cores)
    left.plot([1, most], [1, most], "k:", label="ideal")
    right.axhline(1, color="k", linestyle=":")
    right.set_ylim(0, 1.2)
    _label(left, "speed-up", "cores", "times the rate on the fewest")
    _label(right, "efficiency", "cores", "speed-up over cores")
    left.legend(fontsize="small")
    figure.savefig(path, dpi=150)


def share(path: Path, costs: Sequence[Cost], shares: Mapping[str, float], caption: str) -> None:
    """Where the time of an event at the beginning goes, without the starts."""
    figure, (place,) = _figure(1, caption, width=6.5)
    work = [(cost.serial_s + cost.parallel_s) * shares[cost.stage.split()[0]] for cost in costs]
    bars = place.barh([cost.stage for cost in costs], work)
    place.bar_label(bars, [f"{w / sum(work):.0%}" for w in work], padding=3)
    place.invert_yaxis()
    place.margins(x=0.15)
    _label(place, "where the time goes (a training: one epoch)", "core seconds for an event that is read", "")
    figure.savefig(path, dpi=150)


def per_core(path: Path, rates: Mapping[str, tuple[float, float, float]], caption: str) -> None:
    """Events a second and core, ours and published ones."""
    rows: list[tuple[str, float, list[float], str]] = []
    for stage, (middle, low, high) in rates.items():
        rows.append((f"{stage}: hepflow", middle, [middle - low, high - middle], "C0"))
        named = stage if stage == BOTH else stage.replace("spark-train", "train")
        known = [rate for rate in RATES if rate.stage == named and rate.cores]
        rows += [(f"{rate.what}, {rate.date}", rate.events_per_s / (rate.cores or 1), [0, 0], "C7") for rate in known]
    figure, (place,) = _figure(1, caption, width=8, height=1 + 0.32 * len(rows))
    names, values, spread, colours = zip(*rows, strict=True)
    places = range(len(rows))
    place.barh(places, values, color=colours, xerr=list(zip(*spread, strict=True)), capsize=3)
    place.set_yticks(places, names)
    place.invert_yaxis()
    place.set_xscale("log")
    _label(place, "published figures are of other machines and samples", "events/s a core", "")
    figure.savefig(path, dpi=150)


def _figure(n: int, caption: str, width: float = 4.0, height: float = 3.4) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width * n, height + 0.3), layout="constrained")
    figure.supxlabel(caption, fontsize="x-small", color="0.4")
    return figure, list(figure.subplots(1, n, squeeze=False)[0])


def _label(place: Axes, title: str, x: str, y: str) -> None:
    place.set_title(title, fontsize="medium")
    place.set_xlabel(x)
    place.set_ylabel(y)
