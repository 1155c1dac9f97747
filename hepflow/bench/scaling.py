"""From measurements to costs: seconds = start + events x (serial + parallel / cores), after Amdahl, and what follows for more events."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from scipy.optimize import nnls

from hepflow.bench.cases import TRAINING, Measured

ASSUMPTIONS = (
    "every event costs what the measured ones cost on average, at any number of events",
    "start, serial and parallel part are those of the fit: no term for network, shared disks or memory bandwidth beyond what was measured",
    "a core is one of the measured machine; serial work and the start stay what they are on any number of cores",
    "files are many enough to keep all cores busy, and none is lost",
    "the share of events that reach a stage is that of the measured sample",
    "a training is one epoch over all training events; its batch grows with the cores as far as it must",
)


@dataclass(frozen=True)
class Cost:
    """What a stage costs."""

    stage: str
    start_s: float
    """Of a command, whatever the number of events."""
    serial_s: float
    """An event, on however many cores."""
    parallel_s: float
    """An event, on one core."""
    bytes_out: float
    """An event."""
    error: float
    """Median relative distance of the measurements from the fit."""
    separable: bool
    """Both numbers of events and of cores were varied, so that the three parts can be told apart."""

    def seconds(self, events: float, cores: int) -> float:
        """Wall time."""
        return self.start_s + events * (self.serial_s + self.parallel_s / cores)


@dataclass(frozen=True)
class Extrapolated:
    """What a stage would take."""

    stage: str
    events: float
    """That reach it."""
    core_hours: float
    """Of work that can be shared, and of one core for what cannot."""
    wall_s: Mapping[int, float]
    """Cores -> seconds."""
    bytes_out: float


def fit(rows: Sequence[Measured]) -> Cost:
    """Cost of a stage by least squares on relative distances, no part negative.

    Parameters
    ----------
    rows : sequence of Measured
        All of one stage.
    """
    events = np.array([row.events for row in rows], dtype=float)
    cores = np.array([row.workers * row.cores for row in rows], dtype=float)
    seconds = np.array([row.busy_s for row in rows])
    training = rows[0].stage.split()[0] in TRAINING
    many_sizes, many_cores = len(set(events)) > 1, len(set(cores)) > 1
    columns = {
        "start": np.ones_like(events) if many_sizes and not training else np.zeros_like(events),
        "serial": events if many_cores else np.zeros_like(events),
        "parallel": events / cores,
    }
    matrix = np.stack(list(columns.values()), axis=1)
    found, _ = nnls(matrix / seconds[:, None], np.ones_like(seconds))
    error = float(np.median(np.abs(matrix @ found / seconds - 1)))
    start = median(row.seconds - row.busy_s for row in rows) if training else float(found[0])
    size = sum(row.bytes_out for row in rows) / events.sum()
    return Cost(rows[0].stage, start, float(found[1]), float(found[2]), 0.0 if training else size, error, many_sizes and many_cores)


def extrapolate(costs: Iterable[Cost], shares: Mapping[str, float], n_events: float, cores: Sequence[int]) -> list[Extrapolated]:
    """What the stages would take for so many events.

    Parameters
    ----------
    costs : iterable of Cost
    shares : mapping
        Kind of stage -> share of the events that reaches it.
    n_events : float
        Events at the beginning.
    cores : sequence of int
    """
    result = []
    for cost in costs:
        own = n_events * shares[cost.stage.split()[0]]
        wall = {n: cost.seconds(own, n) for n in cores}
        hours = own * (cost.serial_s + cost.parallel_s) / 3600
        result.append(Extrapolated(cost.stage, own, hours, wall, own * cost.bytes_out))
    return result
