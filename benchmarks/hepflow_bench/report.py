"""Tables: medians with spread, rivals, published rates, costs, and the extrapolation."""

import csv
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from rich.box import SIMPLE_HEAD
from rich.filesize import decimal
from rich.table import Table

from hepflow.evaluate.published import CONTENT
from hepflow.statistics.scaling import Cost
from hepflow.system.terminal import RESULTS
from hepflow_bench.cases import GPU, OURS, Case, Measured
from hepflow_bench.scaling import ASSUMPTIONS, Extrapolated, Ratio, rate, start_of, tells

BOTH = "ingest+features"
GAP = 2
"""Blanks between two columns."""
LEFT = ("stage", "what", "date", "rival")
MOST = 0.7
"""Fraction of a command's time above which the fitted start-up leaves too little for a rate."""


@dataclass(frozen=True)
class Summary:
    """A case over its repeats."""

    case: Case
    events_per_s: float
    """Median, without start-up."""
    low: float
    high: float
    seconds: float
    """Median of the whole command."""
    start_s: float
    """Median start-up."""
    start_known: bool = True
    """If not, the rate is that of the whole command."""

    @property
    def cores(self) -> int:
        """Cores of all workers."""
        return self.case.workers * self.case.cores

    @property
    def mostly_start(self) -> bool:
        """True if the rate is a small difference, and only an order of magnitude."""
        return not tells(self.case) and self.start_s > MOST * self.seconds


@dataclass(frozen=True)
class Rate:
    """A published throughput."""

    stage: str
    what: str
    machine: str
    events_per_s: float
    source: str
    cores: int | None = None
    date: str = "2019"


RATES = tuple(Rate(**rate) for rate in CONTENT["rates"])


@dataclass(frozen=True)
class Comparison:
    """A line of the comparison with published figures."""

    stage: str
    what: str
    machine: str
    date: str
    rate: tuple[float, float, float]
    """Events per second and core, or per GPU: median, lowest, highest."""
    on_gpu: bool
    ours: bool
    total: str = ""
    """Events per second and number of cores, as published."""
    start_known: bool = True


def summarise(rows: Iterable[Measured], costs: Mapping[str, Cost]) -> list[Summary]:
    """Return median, lowest and highest rate of each case, in the order of the first runs.

    Parameters
    ----------
    rows : iterable of Measured
    costs : mapping
        Stage -> fit.
    """
    groups: dict[Case, list[Measured]] = {}
    for row in rows:
        groups.setdefault(row.case, []).append(row)
    result = []
    for case, own in groups.items():
        rates = [rate(row, costs[case.stage]) * row.workers * row.cores for row in own]
        start = median(start_of(row, costs[case.stage]) for row in own)
        seconds = median(row.seconds for row in own)
        known = tells(case) or costs[case.stage].start_known
        spread = (median(rates), min(rates), max(rates))
        result.append(Summary(case, *spread, seconds, start, known))
    return result


def largest(summaries: Iterable[Summary], way: str = OURS) -> dict[str, list[Summary]]:
    """Return stage -> its cases of the largest size, by cores: ours, or those of all rivals."""
    stages: dict[str, list[Summary]] = {}
    for summary in summaries:
        if (summary.case.way == OURS) == (way == OURS):
            stages.setdefault(summary.case.stage, []).append(summary)
    size = {stage: max(summary.case.size for summary in own) for stage, own in stages.items()}
    chosen = {
        stage: [summary for summary in own if summary.case.size == size[stage]]
        for stage, own in stages.items()
    }
    return {
        stage: sorted(own, key=lambda summary: (summary.cores, summary.case.workers))
        for stage, own in chosen.items()
    }


def per_core(summaries: Iterable[Summary], kept: float) -> dict[str, tuple[float, float, float]]:
    """Return stage -> events per second and core on the most cores: median, lowest, highest.

    Ingest and features are also combined.
    """
    rates: dict[str, tuple[float, float, float]] = {}
    for stage, own in largest(summaries).items():
        most = own[-1]
        middle, low, high = (x / most.cores for x in (most.events_per_s, most.low, most.high))
        rates[stage] = (middle, low, high)
    if "ingest" in rates and "features" in rates:
        low, middle, high = (
            1 / (1 / rates["ingest"][i] + kept / rates["features"][i]) for i in (1, 0, 2)
        )
        rates[BOTH] = (middle, low, high)
    return rates


def with_published(
    rates: Mapping[str, tuple[float, float, float]], dates: str, unknown: Collection[str] = ()
) -> list[Comparison]:
    """Return our rates, each followed by the published ones of the same kind of stage.

    ``unknown``: stages whose start-up is not known.
    """
    families: dict[str, list[Comparison]] = {}
    for stage, own in rates.items():
        family = stage.replace("spark-train", "train").replace(GPU, "train")
        sure = not any(part in unknown for part in stage.split("+"))
        line = Comparison(
            stage, OURS, "this one", dates, own, stage.startswith(GPU), ours=True, start_known=sure
        )
        families.setdefault(family, []).append(line)
    for known in RATES:
        if known.stage in families:
            each = known.events_per_s / (known.cores or 1)
            on_cores = f" on {known.cores} cores" if known.cores else ""
            about, rate = (known.stage, known.what, known.machine, known.date), (each, each, each)
            total = f"{known.events_per_s:,.0f}{on_cores}"
            line = Comparison(*about, rate, known.cores is None, ours=False, total=total)
            families[known.stage].append(line)
    return [line for lines in families.values() for line in lines]


def write_csv(path: Path, rows: Iterable[Measured], machine: str) -> None:
    """Write one line per run, each with the machine and the versions."""
    lines = []
    for row in rows:
        more = {"events_per_s": round(row.events_per_s, 3), "machine": machine}
        lines.append(asdict(row) | more)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)


def print_summary(summaries: Sequence[Summary]) -> None:
    """Print the throughput of every case."""
    rows = []
    for summary in summaries:
        case = summary.case
        mark = "" if summary.start_known else "≥"
        rate_text = f"{mark}{'~' * summary.mostly_start}{summary.events_per_s:,.0f}"
        start = f"{summary.start_s:.1f}" if summary.start_known else "?"
        spread = f"{summary.low:,.0f}–{summary.high:,.0f}"
        numbers = (rate_text, spread, f"{summary.seconds:.1f}", start)
        rows.append((case.stage, case.way, f"{case.size:,}", _shape(case), *numbers))
    columns = ["stage", "what", "events per class", "workers x cores"]
    columns += ["events/s", "spread", "whole, s", "start, s"]
    title = f"throughput without start-up, median and spread; ~: start-up over {MOST:.0%} of it"
    _print(title, columns, rows)


def print_rivals(ratios: Iterable[Ratio]) -> None:
    """Print the ratios to the rivals."""
    rows = [
        (r.case.stage, r.rival, _shape(r.case), f"{r.middle:.2f}", f"{r.low:.2f}–{r.high:.2f}")
        for r in ratios
    ]
    if rows:
        columns = ("stage", "rival", "workers x cores", "ratio", "spread")
        _print("hepflow over its rivals, events/s per core without start-up", columns, rows)


def print_per_core(lines: Iterable[Comparison]) -> None:
    """Print events per second and core, published values, and the ratio of ours to them."""
    rows = []
    own: dict[tuple[str, bool], float] = {}
    for line in lines:
        middle, low, high = line.rate
        family = (line.stage.replace(GPU, "train"), line.on_gpu)
        unit = " (per GPU)" if line.on_gpu else ""
        if line.ours:
            own |= {family: middle} if line.start_known else {}
            each = f"{'' if line.start_known else '≥'}{middle:,.1f} ({low:,.1f}–{high:,.1f}){unit}"
            rows.append((line.stage, line.what, "", "", each, ""))
        else:
            ratio = f"{own[family] / middle:,.1f}" if family in own else ""
            what, each = f"{line.what}, {line.machine}", f"{middle:,.1f}{unit}"
            rows.append(("", what, line.date, line.total, each, ratio))
    columns = ("stage", "what", "date", "events/s", "per core", "ratio")
    title = "events/s per core; published: other machines, samples, dates; ratio: ours over it"
    _print(title, columns, rows)


def print_costs(costs: Iterable[Cost]) -> None:
    """Print the fits."""
    rows = []
    for cost in costs:
        work = cost.serial_s + cost.parallel_s
        share = f"{cost.serial_s / work:.1%}" if cost.separable and work else "not varied"
        starts = (f"{cost.start_s:.1f}", f"{cost.shared_start_s:.1f}")
        starts = starts if cost.start_known else ("?", "?")
        parts = (f"{cost.serial_s * 1e6:,.1f}", f"{cost.parallel_s * 1e6:,.1f}")
        last = (share, f"{cost.error:.0%}", f"{cost.bytes_out:,.0f}")
        rows.append((cost.stage, *starts, *parts, *last))
    columns = ["stage", "start, s", "shared start, s", "serial, µs", "parallel, µs"]
    columns += ["serial share", "fit off by", "bytes per event"]
    title = "seconds = start + shared start / cores + events x (serial + parallel / cores)"
    _print(title, columns, rows)


def print_extrapolation(
    found: Sequence[Extrapolated], n_events: float, cores: Sequence[int], tested: str
) -> None:
    """Print the extrapolation and its assumptions."""
    rows = []
    for row in found:
        hours = f"{row.core_hours:,.1f}" + ("" if row.wall_s else " per GPU")
        walls = (_durations(*row.wall_s[n]) if row.wall_s else "" for n in cores)
        written = decimal(int(row.bytes_out)) if row.bytes_out else ""
        rows.append((row.stage, f"{row.events:,.0f}", hours, *walls, written))
    columns = ("stage", "events", "core hours", *(f"on {n:,} cores" for n in cores), "written")
    _print(f"extrapolated to {n_events:,.0f} events", columns, rows)
    RESULTS.print("This assumes:", highlight=False)
    for assumption in (*ASSUMPTIONS, tested):
        RESULTS.print(f"- {assumption}", highlight=False)


def _shape(case: Case) -> str:
    return f"{case.workers}x{case.cores}"


def _print(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table that wraps between words only.

    Every column has room for its longest word; the remaining room is shared.
    """
    texts = [[column, *(row[index] for row in rows)] for index, column in enumerate(columns)]
    widths = [max(len(word) for text in own for word in text.split() or [""]) for own in texts]
    wanted = [max(width, *map(len, own[1:])) for own, width in zip(texts, widths, strict=True)]
    room = RESULTS.width - sum(widths) - GAP * (len(columns) - 1)
    while room > 0 and widths != wanted:
        wider = [min(width + 1, most) for width, most in zip(widths, wanted, strict=True)]
        room -= sum(wider) - sum(widths)
        widths = wider if room >= 0 else widths
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for column, width in zip(columns, widths, strict=True):
        table.add_column(column, justify="left" if column in LEFT else "right", width=width)
    for row in rows:
        table.add_row(*row)
    RESULTS.print(title, style="bold", highlight=False)
    RESULTS.print(table)
    RESULTS.print()


def _durations(middle: float, low: float, high: float) -> str:
    return f"{_duration(middle)} ({_duration(low)} to {_duration(high)})"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:,.0f} s"
    return f"{seconds / 3600:,.1f} h" if seconds > 7200 else f"{seconds / 60:,.0f} min"
