"""Time rivals in turn, so that the load of the machine affects all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping


def timed(function: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds of one call, by default of wall time."""
    started = clock()
    function()
    return clock() - started


def medians(
    contenders: Mapping[str, Callable[[], float]], repeats: int, warm_up: int = 0
) -> dict[str, float]:
    """Return the median result of each contender, called in turn; warm-up rounds do not count."""
    results: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(warm_up + repeats):
        for name, measure in contenders.items():
            results[name].append(measure())
    return {name: statistics.median(values[warm_up:]) for name, values in results.items()}
