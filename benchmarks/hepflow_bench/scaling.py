"""Measured runs -> the cost of each stage (`hepflow.statistics.scaling`), rivals, more events."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from hepflow.statistics import scaling
from hepflow.statistics.scaling import Cost
from hepflow_bench.cases import GPU, OURS, TRAINING, Case, Measured

ASSUMPTIONS = (
    "every event costs as much as the measured ones on average",
    "start-up, serial and parallel part are those of the fit; in brackets, fits to single repeats",
    "network, shared disks and memory bandwidth are as in the measurements",
    "cores are those of this machine; serial work and start-up do not depend on their number",
    "there are enough files to keep all cores busy, and none is lost",
    "the fraction of events that reach a stage is that of the measured sample",
    "a training is one epoch over all training events; its batch grows with the cores, as measured",
    "all events are scored, not only the ingested ones",
)
LEAST_BUSY = 0.1
"""Minimum fraction of a command's time that counts as work, whatever start-up the fit finds."""


@dataclass(frozen=True)
class Extrapolated:
    """The extrapolated cost of a stage."""

    stage: str
    events: float
    """Events that reach the stage."""
    core_hours: float
    """Core hours of shared and serial work; GPU hours for a stage on GPUs."""
    wall_s: Mapping[int, tuple[float, float, float]]
    """Cores -> seconds by the fit to all repeats, and the range of the fits to single ones; empty
    for a stage on GPUs."""
    bytes_out: float


@dataclass(frozen=True)
class Ratio:
    """Throughput per core relative to a rival, over the repeats: median, lowest, highest."""

    case: Case
    """hepflow's case."""
    rival: str
    middle: float
    low: float
    high: float


def fit(rows: Sequence[Measured]) -> Cost:
    """Fit the cost of a stage; all measurements must be of one stage, and of hepflow."""
    kind = rows[0].case.kind
    training = kind in TRAINING
    return scaling.fit(
        rows[0].stage,
        [row.events for row in rows],
        [row.workers * row.cores for row in rows],
        [row.busy_s for row in rows],
        start_s=median(row.seconds - row.busy_s for row in rows) if training else None,
        bytes_out=0.0 if training else sum(r.bytes_out for r in rows) / sum(r.events for r in rows),
        on_gpu=kind == GPU,
    )


def against_rivals(rows: Sequence[Measured], costs: Mapping[str, Cost]) -> list[Ratio]:
    """Compare with the rivals on the largest input.

    A rival is compared with the fewest workers, a training inside Spark with the same one outside.
    Without a known start-up of ours there is no ratio.

    Parameters
    ----------
    rows : sequence of Measured
    costs : mapping
        Stage -> fit, for the start-up.
    """
    largest = max(row.size for row in rows)
    found = {(row.case, row.repeat): row for row in rows if row.size == largest}
    repeats = sorted({row.repeat for row in rows})
    result = []
    for ours, rival, name in _pairs(
        {case for case, _ in found if tells(case) or costs[case.stage].start_known}
    ):
        ratios = []
        for n in repeats:
            if (ours, n) in found and (rival, n) in found:
                own, other = found[ours, n], found[rival, n]
                ratio = rate(own, costs[own.stage]) / rate(other, costs[other.stage])
                ratios.append(ratio)
        result.append(Ratio(ours, name, median(ratios), min(ratios), max(ratios)))
    return result


def _pairs(there: set[Case]) -> Iterator[tuple[Case, Case, str]]:
    for case in sorted(there, key=lambda case: (case.stage, case.workers, case.cores)):
        own = [
            other
            for other in there
            if other.way == OURS and (other.stage, other.cores) == (case.stage, case.cores)
        ]
        if case.way != OURS and own:
            yield min(own, key=lambda other: other.workers), case, case.way
        plain = Case(case.stage.removeprefix("spark-"), case.size, case.workers, case.cores)
        if case.kind == "spark-train" and plain in there:
            yield case, plain, "train, outside Spark"


def tells(case: Case) -> bool:
    """Return whether a case records its own working time, as trainings and rivals do."""
    return case.way != OURS or case.kind in TRAINING


def start_of(row: Measured, cost: Cost) -> float:
    """Return the start-up seconds of a run: recorded, or else from the fit."""
    if tells(row.case):
        return row.seconds - row.busy_s
    return min(cost.start(row.workers * row.cores), (1 - LEAST_BUSY) * row.seconds)


def rate(row: Measured, cost: Cost) -> float:
    """Return the events per second and core (or GPU), without start-up."""
    return row.events / (row.seconds - start_of(row, cost)) / (row.workers * row.cores)


def extrapolate(
    rows: Sequence[Measured], shares: Mapping[str, float], n_events: float, cores: Sequence[int]
) -> list[Extrapolated]:
    """Extrapolate the cost of the stages to more events.

    Parameters
    ----------
    rows : sequence of Measured
        Measurements of hepflow.
    shares : mapping
        Kind of stage -> fraction of the events that reaches it.
    n_events : float
        Events at the start of the pipeline.
    cores : sequence of int
    """
    result = []
    for stage in dict.fromkeys(row.stage for row in rows):
        own = [row for row in rows if row.stage == stage]
        cost = fit(own)
        singles = [
            fit([row for row in own if row.repeat == number])
            for number in sorted({row.repeat for row in own})
        ]
        events = n_events * shares[own[0].case.kind]
        wall = {}
        for n in () if cost.on_gpu else cores:
            seconds = [one.seconds(events, n) for one in singles]
            wall[n] = (cost.seconds(events, n), min(seconds), max(seconds))
        hours = cost.core_hours(events)
        result.append(Extrapolated(stage, events, hours, wall, events * cost.bytes_out))
    return result


def measured_range(rows: Sequence[Measured]) -> str:
    """Return a sentence on the measured range of the fit."""
    cores, events = [row.workers * row.cores for row in rows], [row.events for row in rows]
    on_cores = f"{min(cores)} to {max(cores)} cores"
    of_events = f"{min(events):,} to {max(events):,} events"
    return f"measured on {on_cores} and {of_events}; everything beyond is extrapolated"
