"""Measured times -> the cost of a stage by Amdahl's law, and its time for other events and cores.

seconds = start + shared start / cores + events x (serial + parallel / cores)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls


@dataclass(frozen=True)
class Cost:
    """The cost of a stage."""

    stage: str
    start_s: float
    """Start-up of a command, independent of events and cores."""
    shared_start_s: float
    """Start-up on one core that several cores share."""
    serial_s: float
    """Time per event that no core shares."""
    parallel_s: float
    """Time per event on one core (or GPU)."""
    bytes_out: float
    """Bytes written per event."""
    error: float
    """Median relative deviation of the measurements from the fit."""
    separable: bool
    """Events and cores were both varied, so that the fit can separate the three parts."""
    on_gpu: bool = False
    start_known: bool = True
    """Several numbers of events were measured, or the stage records its start-up; otherwise the
    start-up is part of the other terms."""

    def start(self, cores: float) -> float:
        """Return the seconds of a command without events."""
        return self.start_s + self.shared_start_s / cores

    def seconds(self, events: float, cores: float) -> float:
        """Return the wall time."""
        return self.start(cores) + events * (self.serial_s + self.parallel_s / cores)

    def core_hours(self, events: float) -> float:
        """Return the hours of serial and parallel work, on one core (or GPU)."""
        return events * (self.serial_s + self.parallel_s) / 3600


def fit(
    stage: str,
    events: Sequence[float],
    cores: Sequence[float],
    seconds: Sequence[float],
    *,
    start_s: float | None = None,
    bytes_out: float = 0.0,
    on_gpu: bool = False,
) -> Cost:
    """Fit the cost of a stage, by non-negative least squares on relative deviations.

    Parameters
    ----------
    events, cores, seconds : sequences of one length
        A measurement each.
    start_s : float, optional
        Start-up in seconds that was measured by itself, and is not in ``seconds``.
    bytes_out : float
        Bytes written per event.
    """
    n, on, took = (np.array(values, dtype=float) for values in (events, cores, seconds))
    many_sizes, many_cores, unknown = len(set(n)) > 1, len(set(on)) > 1, start_s is None
    columns = (
        np.ones_like(n) * (many_sizes and unknown),
        (many_sizes and many_cores and unknown) / on,
        n * many_cores,
        n / on,
    )
    matrix = np.stack(columns, axis=1)
    found, _ = nnls(matrix / took[:, None], np.ones_like(took))
    start, shared_start, serial, parallel = map(float, found)
    return Cost(
        stage,
        start if start_s is None else start_s,
        shared_start,
        serial,
        parallel,
        bytes_out,
        error=float(np.median(np.abs(matrix @ found / took - 1))),
        separable=many_sizes and many_cores,
        on_gpu=on_gpu,
        start_known=many_sizes or not unknown,
    )
