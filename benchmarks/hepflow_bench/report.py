"""Tables of measurements: medians with their spread, rivals, published figures, costs, and the extrapolation."""

import csv
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from hepflow.evaluate.published import RATES
from hepflow_bench.cases import GPU, OURS, Case, Measured
from hepflow_bench.scaling import ASSUMPTIONS, Cost, Extrapolated, Ratio, rate, start_of, tells

BOTH = "ingest+features"
GAP = 2
"""Between two columns."""
LEFT = ("stage", "what", "date", "rival")
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
    start_known: bool = True
    """Otherwise the rate is that of the whole command."""

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
    start_known: bool = True


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
        known = tells(case) or costs[case.stage].start_known
        result.append(
            Summary(
                case,
                median(rates),
                min(rates),
                max(rates),
                median(row.seconds for row in own),
                start,
                known,
            )
        )
    return result


def largest(summaries: Iterable[Summary], way: str = OURS) -> dict[str, list[Summary]]:
    """Stage -> its cases of the largest size, by cores; of ours, or of all rivals."""
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
    """Stage -> events a second and core on the most cores: median, low and high; ingest and features also as one."""
    rates: dict[str, tuple[float, float, float]] = {}
    for stage, own in largest(summaries).items():
        most = own[-1]
        rates[stage] = (
            most.events_per_s / most.cores,
            most.low / most.cores,
            most.high / most.cores,
        )
    if "ingest" in rates and "features" in rates:
        low, middle, high = (
            1 / (1 / rates["ingest"][i] + kept / rates["features"][i]) for i in (1, 0, 2)
        )
        rates[BOTH] = (middle, low, high)
    return rates


def beside_published(
    rates: Mapping[str, tuple[float, float, float]], dates: str, unknown: Collection[str] = ()
) -> list[Beside]:
    """Ours, and after each stage what was published of it; a training inside Spark or on a GPU is a training, too.

    ``unknown``: stages whose start is not known.
    """
    families: dict[str, list[Beside]] = {}
    for stage, own in rates.items():
        family = stage.replace("spark-train", "train").replace(GPU, "train")
        sure = not any(part in unknown for part in stage.split("+"))
        line = Beside(
            stage, OURS, "this one", dates, own, stage.startswith(GPU), ours=True, start_known=sure
        )
        families.setdefault(family, []).append(line)
    for known in RATES:
        if known.stage in families:
            each = known.events_per_s / (known.cores or 1)
            total = (
                f"{known.events_per_s:,.0f} on {known.cores} cores"
                if known.cores
                else f"{known.events_per_s:,.0f}"
            )
            families[known.stage].append(
                Beside(
                    known.stage,
                    known.what,
                    known.machine,
                    known.date,
                    (each, each, each),
                    known.cores is None,
                    ours=False,
                    total=total,
                )
            )
    return [line for lines in families.values() for line in lines]


def write_csv(path: Path, rows: Iterable[Measured], machine: str) -> None:
    """One line a run; the machine and the versions stand on each."""
    lines = [
        asdict(row) | {"events_per_s": round(row.events_per_s, 3), "machine": machine}
        for row in rows
    ]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)


def print_summary(summaries: Sequence[Summary]) -> None:
    """Throughput of every case."""
    rows = []
    for summary in summaries:
        case = summary.case
        mark = "" if summary.start_known else "≥"
        rate_text = f"{mark}{'~' * summary.mostly_start}{summary.events_per_s:,.0f}"
        start = f"{summary.start_s:.1f}" if summary.start_known else "?"
        numbers = (
            rate_text,
            f"{summary.low:,.0f}–{summary.high:,.0f}",
            f"{summary.seconds:.1f}",
            start,
        )
        rows.append((case.stage, case.way, f"{case.size:,}", _shape(case), *numbers))
    columns = (
        "stage",
        "what",
        "events a class",
        "workers x cores",
        "events/s",
        "spread",
        "whole, s",
        "start, s",
    )
    _print(
        f"throughput without the starts, median and spread; ~: start over {MOST:.0%} of it",
        columns,
        rows,
    )


def print_rivals(ratios: Iterable[Ratio]) -> None:
    """Ours over theirs."""
    rows = [
        (r.case.stage, r.rival, _shape(r.case), f"{r.middle:.2f}", f"{r.low:.2f}–{r.high:.2f}")
        for r in ratios
    ]
    if rows:
        columns = ("stage", "rival", "workers x cores", "ratio", "spread")
        _print("hepflow over its rivals, events/s a core without the starts", columns, rows)


def print_per_core(lines: Iterable[Beside]) -> None:
    """Events a second and core, beside what was published, and the ratio of ours to that."""
    rows = []
    own: dict[tuple[str, bool], float] = {}
    for line in lines:
        middle, low, high = line.rate
        family = (line.stage.replace(GPU, "train"), line.on_gpu)
        unit = " (a GPU)" if line.on_gpu else ""
        if line.ours:
            own |= {family: middle} if line.start_known else {}
            each = f"{'' if line.start_known else '≥'}{middle:,.1f} ({low:,.1f}–{high:,.1f}){unit}"
            rows.append((line.stage, line.what, "", "", each, ""))
        else:
            ratio = f"{own[family] / middle:,.1f}" if family in own else ""
            rows.append(
                (
                    "",
                    f"{line.what}, {line.machine}",
                    line.date,
                    line.total,
                    f"{middle:,.1f}{unit}",
                    ratio,
                )
            )
    columns = ("stage", "what", "date", "events/s", "a core", "ratio")
    _print(
        "events/s a core; published: other machines, samples, dates; ratio: ours over it",
        columns,
        rows,
    )


def print_costs(costs: Iterable[Cost]) -> None:
    """The fits."""
    rows = []
    for cost in costs:
        work = cost.serial_s + cost.parallel_s
        share = f"{cost.serial_s / work:.1%}" if cost.separable and work else "not varied"
        starts = (
            (f"{cost.start_s:.1f}", f"{cost.shared_start_s:.1f}")
            if cost.start_known
            else ("?", "?")
        )
        parts = (f"{cost.serial_s * 1e6:,.1f}", f"{cost.parallel_s * 1e6:,.1f}")
        rows.append(
            (cost.stage, *starts, *parts, share, f"{cost.error:.0%}", f"{cost.bytes_out:,.0f}")
        )
    columns = (
        "stage",
        "start, s",
        "shared start, s",
        "serial, µs",
        "parallel, µs",
        "serial share",
        "fit off by",
        "bytes an event",
    )
    _print(
        "seconds = start + shared start / cores + events x (serial + parallel / cores)",
        columns,
        rows,
    )


def print_extrapolation(
    found: Sequence[Extrapolated], n_events: float, cores: Sequence[int], tested: str
) -> None:
    """What more events would take, and what that supposes."""
    rows = []
    for row in found:
        hours = f"{row.core_hours:,.1f}" + ("" if row.wall_s else " of a GPU")
        walls = (_durations(*row.wall_s[n]) if row.wall_s else "" for n in cores)
        rows.append(
            (
                row.stage,
                f"{row.events:,.0f}",
                hours,
                *walls,
                decimal(int(row.bytes_out)) if row.bytes_out else "",
            )
        )
    _print(
        f"extrapolated to {n_events:,.0f} events",
        ("stage", "events", "core hours", *(f"on {n:,} cores" for n in cores), "written"),
        rows,
    )
    console = Console()
    console.print("This assumes:", highlight=False)
    for assumption in (*ASSUMPTIONS, tested):
        console.print(f"- {assumption}", highlight=False)


def _shape(case: Case) -> str:
    return f"{case.workers}x{case.cores}"


def _print(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table that folds between words alone: every column has room for its longest word, and shares what is left."""
    console = Console()
    texts = [[column, *(row[index] for row in rows)] for index, column in enumerate(columns)]
    widths = [max(len(word) for text in own for word in text.split() or [""]) for own in texts]
    wanted = [max(width, *map(len, own[1:])) for own, width in zip(texts, widths, strict=True)]
    room = console.width - sum(widths) - GAP * (len(columns) - 1)
    while room > 0 and widths != wanted:
        wider = [min(width + 1, most) for width, most in zip(widths, wanted, strict=True)]
        room -= sum(wider) - sum(widths)
        widths = wider if room >= 0 else widths
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for column, width in zip(columns, widths, strict=True):
        table.add_column(column, justify="left" if column in LEFT else "right", width=width)
    for row in rows:
        table.add_row(*row)
    console.print(title, style="bold", highlight=False)
    console.print(table)
    console.print()


def _durations(middle: float, low: float, high: float) -> str:
    return f"{_duration(middle)} ({_duration(low)} to {_duration(high)})"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:,.0f} s"
    return f"{seconds / 3600:,.1f} h" if seconds > 7200 else f"{seconds / 60:,.0f} min"
