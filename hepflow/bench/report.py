"""Tables of measurements: medians with their spread, rivals, published figures, costs, and the extrapolation."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from hepflow.bench.cases import GPU, OURS, Case, Measured
from hepflow.bench.scaling import ASSUMPTIONS, Cost, Extrapolated, Ratio, rate, start_of, tells
from hepflow.published import RATES

BOTH = "ingest+features"
LEFT = ("stage", "what", "machine", "date", "rival")
MOST = 0.7
"""Share of a command from which on its start, out of the fit, leaves too little for a rate."""


@dataclass(frozen=True)
class Summary:
    """A case over its repeats."""

    case: Case
    events_per_s: float
    """Median, without the start."""
    low: float
    high: float
    seconds: float
    """Median of the whole command."""
    start_s: float
    """Median of what of it is no work."""

    @property
    def cores(self) -> int:
        """All of them."""
        return self.case.workers * self.case.cores

    @property
    def mostly_start(self) -> bool:
        """The rate is a small difference of the command and a fitted start: good for its order of magnitude."""
        return not tells(self.case) and self.start_s > MOST * self.seconds


@dataclass(frozen=True)
class Beside:
    """A line of the comparison with published figures."""

    stage: str
    what: str
    machine: str
    date: str
    rate: tuple[float, float, float]
    """Events a second and core, or of a GPU: median, lowest, highest."""
    on_gpu: bool
    ours: bool
    total: str = ""
    """Events a second and on how many cores, as published."""


def summarise(rows: Iterable[Measured], costs: Mapping[str, Cost]) -> list[Summary]:
    """Median, lowest and highest of each case, in the order of its first run.

    Parameters
    ----------
    rows : iterable of Measured
    costs : mapping
        Stage -> the fit of ours.
    """
    groups: dict[Case, list[Measured]] = {}
    for row in rows:
        groups.setdefault(row.case, []).append(row)
    result = []
    for case, own in groups.items():
        rates = [rate(row, costs[case.stage]) * row.workers * row.cores for row in own]
        start = median(start_of(row, costs[case.stage]) for row in own)
        result.append(Summary(case, median(rates), min(rates), max(rates), median(row.seconds for row in own), start))
    return result


def largest(summaries: Iterable[Summary], way: str = OURS) -> dict[str, list[Summary]]:
    """Stage -> its cases of the largest size, by cores; of ours, or of all rivals."""
    stages: dict[str, list[Summary]] = {}
    for summary in summaries:
        if (summary.case.way == OURS) == (way == OURS):
            stages.setdefault(summary.case.stage, []).append(summary)
    size = {stage: max(summary.case.size for summary in own) for stage, own in stages.items()}
    chosen = {stage: [summary for summary in own if summary.case.size == size[stage]] for stage, own in stages.items()}
    return {stage: sorted(own, key=lambda summary: (summary.cores, summary.case.workers)) for stage, own in chosen.items()}


def per_core(summaries: Iterable[Summary], kept: float) -> dict[str, tuple[float, float, float]]:
    """Stage -> events a second and core on the most cores: median, low and high; ingest and features also as one."""
    rates: dict[str, tuple[float, float, float]] = {}
    for stage, own in largest(summaries).items():
        most = own[-1]
        rates[stage] = (most.events_per_s / most.cores, most.low / most.cores, most.high / most.cores)
    if "ingest" in rates and "features" in rates:
        low, middle, high = (1 / (1 / rates["ingest"][i] + kept / rates["features"][i]) for i in (1, 0, 2))
        rates[BOTH] = (middle, low, high)
    return rates


def beside_published(rates: Mapping[str, tuple[float, float, float]], dates: str) -> list[Beside]:
    """Ours, and after each stage what was published of it; a training inside Spark or on a GPU is a training, too."""
    families: dict[str, list[Beside]] = {}
    for stage, own in rates.items():
        family = stage.replace("spark-train", "train").replace(GPU, "train")
        families.setdefault(family, []).append(Beside(stage, OURS, "this one", dates, own, stage.startswith(GPU), ours=True))
    for known in RATES:
        if known.stage in families:
            each = known.events_per_s / (known.cores or 1)
            total = f"{known.events_per_s:,.0f} on {known.cores} cores" if known.cores else f"{known.events_per_s:,.0f}"
            families[known.stage].append(
                Beside(known.stage, known.what, known.machine, known.date, (each, each, each), known.cores is None, ours=False, total=total)
            )
    return [line for lines in families.values() for line in lines]


def write_csv(path: Path, rows: Iterable[Measured], machine: str) -> None:
    """One line a run; the machine and the versions stand on each."""
    lines = [asdict(row) | {"events_per_s": round(row.events_per_s, 3), "machine": machine} for row in rows]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)


def print_summary(summaries: Sequence[Summary], caption: str) -> None:
    """Throughput of every case."""
    columns = ("stage", "what", "events a class", "workers x cores", "events/s", "spread", "command, s", "start, s")
    title = f"throughput without the starts, median (lowest to highest); ~: the start is over {MOST:.0%} of the command"
    table = _table(title, caption, columns)
    for summary in summaries:
        case = summary.case
        spread = f"{summary.low:,.0f} to {summary.high:,.0f}"
        shape = f"{case.workers} x {case.cores}"
        rate_text = f"{'~' * summary.mostly_start}{summary.events_per_s:,.0f}"
        numbers = (f"{case.size:,}", shape, rate_text, spread, f"{summary.seconds:.1f}", f"{summary.start_s:.1f}")
        table.add_row(case.stage, case.way, *numbers)
    Console().print(table)


def print_rivals(ratios: Iterable[Ratio], caption: str) -> None:
    """Ours over theirs."""
    table = _table(
        "hepflow over its rivals, events/s a core without the starts", caption, ("stage", "rival", "workers x cores", "ratio", "spread")
    )
    for ratio in ratios:
        shape = f"{ratio.case.workers} x {ratio.case.cores}"
        table.add_row(ratio.case.stage, ratio.rival, shape, f"{ratio.middle:.2f}", f"{ratio.low:.2f} to {ratio.high:.2f}")
    if table.row_count:
        Console().print(table)


def print_per_core(lines: Iterable[Beside], caption: str) -> None:
    """Events a second and core, beside what was published."""
    columns = ("stage", "what", "machine", "date", "events/s", "events/s a core", "hepflow over it")
    table = _table("events a second and core; published ones are of other machines, samples and dates", caption, columns)
    own: dict[tuple[str, bool], float] = {}
    for line in lines:
        middle, low, high = line.rate
        family = (line.stage.replace(GPU, "train"), line.on_gpu)
        unit = " (a GPU)" if line.on_gpu else ""
        if line.ours:
            own[family] = middle
            table.add_row(line.stage, line.what, line.machine, line.date, "", f"{middle:,.1f} ({low:,.1f} to {high:,.1f}){unit}", "")
        else:
            ratio = f"{own[family] / middle:,.1f}" if family in own else ""
            table.add_row("", line.what, line.machine, line.date, line.total, f"{middle:,.1f}{unit}", ratio)
    Console().print(table)


def print_costs(costs: Iterable[Cost], caption: str) -> None:
    """The fits."""
    columns = ("stage", "start, s", "shared start, s", "serial, µs", "parallel, µs", "serial share", "fit off by", "bytes an event")
    table = _table("cost: seconds = start + shared start / cores + events x (serial + parallel / cores)", caption, columns)
    for cost in costs:
        work = cost.serial_s + cost.parallel_s
        share = f"{cost.serial_s / work:.1%}" if cost.separable and work else "not varied"
        parts = (f"{cost.start_s:.1f}", f"{cost.shared_start_s:.1f}", f"{cost.serial_s * 1e6:,.1f}", f"{cost.parallel_s * 1e6:,.1f}")
        table.add_row(cost.stage, *parts, share, f"{cost.error:.0%}", f"{cost.bytes_out:,.0f}")
    Console().print(table)


def print_extrapolation(rows: Sequence[Extrapolated], n_events: float, cores: Sequence[int], tested: str, caption: str) -> None:
    """What more events would take, and what that supposes."""
    columns = ("stage", "events", "core hours", *(f"on {n:,} cores" for n in cores), "written")
    table = _table(f"extrapolated to {n_events:,.0f} events", caption, columns)
    for row in rows:
        hours = f"{row.core_hours:,.1f}" + ("" if row.wall_s else " of a GPU")
        walls = (_durations(*row.wall_s[n]) if row.wall_s else "" for n in cores)
        table.add_row(row.stage, f"{row.events:,.0f}", hours, *walls, decimal(int(row.bytes_out)) if row.bytes_out else "")
    console = Console()
    console.print(table)
    console.print("This assumes:", highlight=False)
    for assumption in (*ASSUMPTIONS, tested):
        console.print(f"- {assumption}", highlight=False)


def _table(title: str, caption: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, caption=caption)
    for column in columns:
        table.add_column(column, justify="left" if column in LEFT else "right")
    return table


def _durations(middle: float, low: float, high: float) -> str:
    return f"{_duration(middle)} ({_duration(low)} to {_duration(high)})"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:,.0f} s"
    return f"{seconds / 3600:,.1f} h" if seconds > 7200 else f"{seconds / 60:,.0f} min"
