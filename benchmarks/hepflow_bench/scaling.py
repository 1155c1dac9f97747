"""From measurements to costs, after Amdahl, and what follows for more events.

seconds = start + shared start / cores + events x (serial + parallel / cores)
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from scipy.optimize import nnls

from hepflow_bench.cases import GPU, OURS, TRAINING, Case, Measured

ASSUMPTIONS = (
    "every event costs what the measured ones cost on average, at any number of events",
    "starts, serial and parallel part are those of the fit; in brackets, the range of fits to single repeats",
    "no term for network, shared disks or memory bandwidth beyond what was measured",
    "a core is one of the measured machine; serial work and the start stay what they are on any number of cores",
    "files are many enough to keep all cores busy, and none is lost",
    "the share of events that reach a stage is that of the measured sample",
    "a training is one epoch over all training events; its batch grows with the cores, as in the measurements",
    "scoring takes every event, as if none had been ingested",
)
LEAST_BUSY = 0.1
"""Least share of a command that counts as work, whatever start the fit finds."""


@dataclass(frozen=True)
class Cost:
    """What a stage costs."""

    stage: str
    start_s: float
    """Of a command, whatever the number of events and cores."""
    shared_start_s: float
    """Of a command, on one core, and less on more: what it makes ready before the first event."""
    serial_s: float
    """An event, on however many cores."""
    parallel_s: float
    """An event, on one core (or GPU)."""
    bytes_out: float
    """An event."""
    error: float
    """Median relative distance of the measurements from the fit."""
    separable: bool
    """Both numbers of events and of cores were varied, so that the three parts can be told apart."""
    on_gpu: bool = False
    start_known: bool = True
    """More than one number of events was measured, or the stage tells its start by itself; otherwise the start is in the other parts."""

    def start(self, cores: int) -> float:
        """Seconds of a command without any event."""
        return self.start_s + self.shared_start_s / cores

    def seconds(self, events: float, cores: int) -> float:
        """Wall time."""
        return self.start(cores) + events * (self.serial_s + self.parallel_s / cores)


@dataclass(frozen=True)
class Extrapolated:
    """What a stage would take."""

    stage: str
    events: float
    """That reach it."""
    core_hours: float
    """Of work that can be shared, and of one core for what cannot; of a stage on GPUs, hours of a GPU."""
    wall_s: Mapping[int, tuple[float, float, float]]
    """Cores -> seconds: by the fit to all repeats, and the least and most by the fits to single ones; none for a stage on GPUs."""
    bytes_out: float


@dataclass(frozen=True)
class Ratio:
    """Ours over a rival's throughput per core, in the repeats of one study: median, lowest, highest."""

    case: Case
    """Ours."""
    rival: str
    middle: float
    low: float
    high: float


def fit(rows: Sequence[Measured]) -> Cost:
    """Cost of a stage by least squares on relative distances, no part negative.

    Parameters
    ----------
    rows : sequence of Measured
        All of one stage, done in one way.
    """
    events = np.array([row.events for row in rows], dtype=float)
    cores = np.array([row.workers * row.cores for row in rows], dtype=float)
    seconds = np.array([row.busy_s for row in rows])
    kind = rows[0].case.kind
    training = kind in TRAINING
    many_sizes, many_cores = len(set(events)) > 1, len(set(cores)) > 1
    starts, starts_vary = many_sizes and not training, many_sizes and many_cores and not training
    columns = (
        np.ones_like(events) * starts,
        starts_vary / cores,
        events * many_cores,
        events / cores,
    )
    matrix = np.stack(columns, axis=1)
    found, _ = nnls(matrix / seconds[:, None], np.ones_like(seconds))
    error = float(np.median(np.abs(matrix @ found / seconds - 1)))
    start, shared_start, serial, parallel = map(float, found)
    if training:
        start = median(row.seconds - row.busy_s for row in rows)
    size = 0.0 if training else sum(row.bytes_out for row in rows) / events.sum()
    return Cost(
        rows[0].stage,
        start,
        shared_start,
        serial,
        parallel,
        size,
        error,
        many_sizes and many_cores,
        kind == GPU,
        many_sizes or training,
    )


def against_rivals(rows: Sequence[Measured], costs: Mapping[str, Cost]) -> list[Ratio]:
    """Ours over the rivals, on the largest input: each rival beside the fewest workers, a training inside Spark beside the same outside.

    Where the start of ours is unknown and the rival's is not, there is no ratio.

    Parameters
    ----------
    rows : sequence of Measured
    costs : mapping
        Stage -> the fit of ours, for the start that is not work.
    """
    largest = max(row.size for row in rows)
    found = {(row.case, row.repeat): row for row in rows if row.size == largest}
    repeats = sorted({row.repeat for row in rows})
    result = []
    for ours, rival, name in _pairs(
        {case for case, _ in found if tells(case) or costs[case.stage].start_known}
    ):
        pairs = [
            (found[ours, n], found[rival, n])
            for n in repeats
            if (ours, n) in found and (rival, n) in found
        ]
        ratios = [
            rate(own, costs[own.stage]) / rate(other, costs[other.stage]) for own, other in pairs
        ]
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
    """Whether a case measures by itself how long it worked, as trainings and rivals do."""
    return case.way != OURS or case.kind in TRAINING


def start_of(row: Measured, cost: Cost) -> float:
    """Seconds of a command that are no work: measured where the case tells, else those of the fit."""
    return (
        row.seconds - row.busy_s
        if tells(row.case)
        else min(cost.start(row.workers * row.cores), (1 - LEAST_BUSY) * row.seconds)
    )


def rate(row: Measured, cost: Cost) -> float:
    """Events a second and core (or GPU), without the start of a command."""
    return row.events / (row.seconds - start_of(row, cost)) / (row.workers * row.cores)


def extrapolate(
    rows: Sequence[Measured], shares: Mapping[str, float], n_events: float, cores: Sequence[int]
) -> list[Extrapolated]:
    """What the stages would take for so many events.

    Parameters
    ----------
    rows : sequence of Measured
        All of ours.
    shares : mapping
        Kind of stage -> share of the events that reaches it.
    n_events : float
        Events at the beginning.
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
        hours = events * (cost.serial_s + cost.parallel_s) / 3600
        result.append(Extrapolated(stage, events, hours, wall, events * cost.bytes_out))
    return result


def measured_range(rows: Sequence[Measured]) -> str:
    """Where the fit was tested, in words."""
    cores, events = (
        [*sorted(values)]
        for values in ({row.workers * row.cores for row in rows}, {row.events for row in rows})
    )
    return f"measured on {cores[0]} to {cores[-1]} cores and {events[0]:,} to {events[-1]:,} events; beyond that it is a formula"
