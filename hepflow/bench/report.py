"""Tables of measurements: medians with their spread, costs, published figures, and the extrapolation."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from hepflow.bench.cases import Case, Measured
from hepflow.bench.published import RATES
from hepflow.bench.scaling import ASSUMPTIONS, Cost, Extrapolated

BOTH = "ingest+features"


@dataclass(frozen=True)
class Summary:
    """A case over its repeats."""

    case: Case
    events_per_s: float
    """Median."""
    low: float
    high: float
    seconds: float
    """Median of the whole command."""
    start_s: float
    """Median of what of it a training is not busy; 0 where it is not known."""

    @property
    def cores(self) -> int:
        """All of them."""
        return self.case.workers * self.case.cores


def summarise(rows: Iterable[Measured]) -> list[Summary]:
    """Median, lowest and highest of each case, in the order of its first run."""
    groups: dict[Case, list[Measured]] = {}
    for row in rows:
        groups.setdefault(row.case, []).append(row)
    result = []
    for case, own in groups.items():
        rates = [row.events_per_s for row in own]
        start = median(row.seconds - row.busy_s for row in own)
        result.append(Summary(case, median(rates), min(rates), max(rates), median(row.seconds for row in own), start))
    return result


def largest(summaries: Iterable[Summary]) -> dict[str, list[Summary]]:
    """Stage -> its cases of the largest size, by cores."""
    ordered = sorted(summaries, key=lambda summary: (summary.case.stage, summary.cores, summary.case.workers))
    result = {}
    for stage, own in groupby(ordered, key=lambda summary: summary.case.stage):
        cases = list(own)
        size = max(summary.case.size for summary in cases)
        result[stage] = [summary for summary in cases if summary.case.size == size]
    return result


def per_core(summaries: Iterable[Summary], kept: float) -> dict[str, tuple[float, float, float]]:
    """Stage -> events a second and core on the most cores: median, low and high; ingest and features also as one."""
    rates = {}
    for stage, own in largest(summaries).items():
        most = own[-1]
        rates[stage] = (most.events_per_s / most.cores, most.low / most.cores, most.high / most.cores)
    if "ingest" in rates and "features" in rates:
        low, middle, high = (1 / (1 / rates["ingest"][i] + kept / rates["features"][i]) for i in (1, 0, 2))
        rates[BOTH] = (middle, low, high)
    return rates


def write_csv(path: Path, rows: Iterable[Measured]) -> None:
    """One line a run."""
    lines = [asdict(row) | {"events_per_s": round(row.events_per_s, 3)} for row in rows]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)


def print_summary(summaries: Sequence[Summary], caption: str) -> None:
    """Throughput of every case."""
    table = Table(title="throughput, median (lowest to highest)", caption=caption)
    for column in ("stage", "events a class", "workers x cores", "events/s", "spread", "command, s", "start, s"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for summary in summaries:
        case = summary.case
        spread = f"{summary.low:,.0f} to {summary.high:,.0f}"
        start = f"{summary.start_s:.1f}" if summary.start_s else ""
        shape = f"{case.workers} x {case.cores}"
        table.add_row(case.stage, f"{case.size:,}", shape, f"{summary.events_per_s:,.0f}", spread, f"{summary.seconds:.1f}", start)
    Console().print(table)


def print_per_core(rates: Mapping[str, tuple[float, float, float]], caption: str) -> None:
    """Events a second and core, beside what was published."""
    table = Table(title="events a second and core; published ones are of other machines, samples and dates", caption=caption)
    for column in ("stage", "what", "machine", "date", "events/s", "cores", "events/s a core"):
        table.add_column(column, justify="right" if column.startswith(("events", "cores")) else "left")
    for stage, (middle, low, high) in rates.items():
        table.add_row(stage, "hepflow", "this one", "now", "", "", f"{middle:,.1f} ({low:,.1f} to {high:,.1f})")
        for rate in RATES:
            if rate.stage == stage.replace("spark-train", "train"):
                own = f"{rate.events_per_s / rate.cores:,.1f}" if rate.cores else "a GPU"
                table.add_row("", rate.what, rate.machine, rate.date, f"{rate.events_per_s:,.0f}", str(rate.cores or ""), own)
    Console().print(table)


def print_costs(costs: Iterable[Cost], caption: str) -> None:
    """The fits."""
    table = Table(title="cost: seconds = start + events x (serial + parallel / cores)", caption=caption)
    for column in ("stage", "start, s", "serial, µs", "parallel, µs", "serial share", "fit off by", "bytes an event"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for cost in costs:
        work = cost.serial_s + cost.parallel_s
        share = f"{cost.serial_s / work:.1%}" if cost.separable else "not varied"
        parts = (f"{cost.start_s:.1f}", f"{cost.serial_s * 1e6:,.1f}", f"{cost.parallel_s * 1e6:,.1f}")
        table.add_row(cost.stage, *parts, share, f"{cost.error:.0%}", f"{cost.bytes_out:,.0f}")
    Console().print(table)


def print_extrapolation(rows: Sequence[Extrapolated], n_events: float, caption: str) -> None:
    """What more events would take, and what that supposes."""
    table = Table(title=f"extrapolated to {n_events:,.0f} events", caption=caption)
    for column in ("stage", "events", "core hours", *(f"on {n:,} cores" for n in rows[0].wall_s), "written"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for row in rows:
        size = f"{row.bytes_out / 1e9:,.0f} GB" if row.bytes_out else ""
        table.add_row(row.stage, f"{row.events:,.0f}", f"{row.core_hours:,.0f}", *(_duration(s) for s in row.wall_s.values()), size)
    console = Console()
    console.print(table)
    console.print("This assumes:", highlight=False)
    for assumption in ASSUMPTIONS:
        console.print(f"- {assumption}", highlight=False)


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:,.1f} h" if seconds > 7200 else f"{seconds / 60:,.0f} min"
