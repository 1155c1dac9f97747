"""Run a command as a user would, and record its time, and its memory by process."""

import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

GB = 1e9
_ROLES = {"java": "java", "pyspark.daemon": "executor", "spawn_main": "worker", "worker": "worker"}
"""Words of a command line -> role of its process; all others belong to the driver."""


@dataclass(frozen=True)
class Step:
    """One command on one size of input."""

    stage: str
    n: int
    """Size of the input: files for ingest and score, events for the rest."""
    seconds: float
    gb: Mapping[str, float]
    """Role of a process (driver, java, executor, worker) -> most memory that one held at once."""
    files: int = 0
    """Files made."""
    cpu_s: float = 0.0
    """CPU seconds of all processes, which another load does not change; 0: not measured."""


def run(
    stage: str,
    n: int,
    arguments: Sequence[str | Path],
    output: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Step:
    """Run ``python -m hepflow`` with arguments, and return what it took.

    Memory is the resident set, twice per second; pages that are shared with a parent count in
    both.
    """
    command = [sys.executable, "-m", "hepflow", *map(str, arguments)]
    most: dict[str, float] = defaultdict(float)
    spent: dict[int, float] = {}
    with tempfile.TemporaryFile("w+") as said:
        started, before = time.perf_counter(), _cpu_of_children()
        process = subprocess.Popen(command, stdout=said, stderr=said, env=environment)
        while process.poll() is None:
            for pid, role, held, cpu_s in processes(psutil.Process(process.pid)):
                most[role], spent[pid] = max(most[role], held / GB), cpu_s
            time.sleep(0.5)
        seconds = time.perf_counter() - started
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"{' '.join(command)}: status {process.returncode}\n{said.read()}")
    # The former misses the last half second of a process, the latter those that nobody waited for.
    cpu_s = max(sum(spent.values()), _cpu_of_children() - before)
    made = 0 if output is None else n_files(output)
    return Step(stage, n, seconds, dict(most), made, cpu_s)


def _cpu_of_children() -> float:
    found = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found.ru_utime + found.ru_stime


def n_files(folder: Path) -> int:
    """Return the files below a folder."""
    return sum(len(names) for _, _, names in os.walk(folder))


def growth(steps: Iterable[Step]) -> float:
    """Return the exponent p of seconds ~ n**p between the smallest and the largest input."""
    ordered = sorted(steps, key=lambda step: step.n)
    small, large = ordered[0], ordered[-1]
    spent = [max(step.seconds, 1e-3) for step in (small, large)]
    return math.log(spent[1] / spent[0]) / math.log(large.n / small.n)


def processes(process: psutil.Process) -> list[tuple[int, str, int, float]]:
    """Return id, role, resident bytes and CPU seconds of a process and of those below it."""
    found = []
    for one in (process, *_children(process)):
        try:
            words, held = " ".join(one.cmdline()), one.memory_info().rss
            times = one.cpu_times()
        except psutil.Error:  # it has ended
            continue
        below = one.pid != process.pid
        role = next((role for word, role in _ROLES.items() if below and word in words), "driver")
        found.append((one.pid, role, held, times.user + times.system))
    return found


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []
