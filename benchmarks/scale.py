"""Rehearse 10 TB: each stage as its command, on inputs that are real in all but their payload.

python benchmarks/scale.py [--quick] [--sizes 1000,10000,100000] [--only ingest,features] prints a
table per stage, and as the last line one JSON object. ``growth`` is the largest exponent p of
CPU seconds ~ size**p, without the start of the processes, for which the smallest size stands, a
tenth of the first one given. Sizes that hardly cost more than that are left out. With fewer than
two others, or if the largest costs less than twice as much, there is no exponent. Memory is the
most that one process of a kind held.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from rehearsal.measure import Step, growth

from hepflow.system.terminal import show, table

_STAGES = ("ingest", "features", "train", "score")
_NOISE = 0.2  # relative, of the time in which a command starts
_ROLES = ("driver", "java", "executor", "worker")  # the most that one process of each held


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="1,000 and 4,000: some minutes")
    parser.add_argument("--sizes", default="1000,10000,100000", help="sizes of the input")
    parser.add_argument("--only", default=",".join(_STAGES), help="stages; features needs ingest")
    parser.add_argument("--scratch", type=Path, help="where the inputs and outputs go, and stay")
    given = parser.parse_args()
    sizes = [1000, 4000] if given.quick else sorted(map(int, given.sizes.split(",")))
    sizes = [sizes[0] // 10, *sizes]
    found: dict[str, float] = {}
    exponents = []
    with tempfile.TemporaryDirectory() as folder:
        scratch = given.scratch or Path(folder)
        scratch.mkdir(parents=True, exist_ok=True)
        for name in given.only.split(","):
            if find_spec(f"rehearsal.{name}"):
                stage = import_module(f"rehearsal.{name}")
                steps, numbers = stage.rehearse(scratch, sizes)
                exponents += show_steps(name, steps)
                found |= numbers
    print(json.dumps({**found, "growth": max(exponents, default=0.0)}))


def show_steps(name: str, steps: Sequence[Step]) -> list[float]:
    """Print the table of a stage, and return the exponents of its growth."""
    rows, exponents = [], []
    roles = [role for role in _ROLES if any(role in step.gb for step in steps)]
    for stage in dict.fromkeys(step.stage for step in steps):
        first, *rest = sorted((s for s in steps if s.stage == stage), key=lambda step: step.n)
        power, dear = "", [s for s in rest if _cost(s) > (1 + _NOISE) * _cost(first)]
        if len(dear) > 1 and _cost(rest[-1]) >= 2 * _cost(first):
            more = [replace(s, n=s.n - first.n, seconds=_cost(s) - _cost(first)) for s in dear]
            exponents.append(round(growth(more), 2))
            power = f"{exponents[-1]:.2f}"
        for step in (first, *rest):
            gb = (f"{step.gb[role]:.2f}" if role in step.gb else "" for role in roles)
            last = power if step is rest[-1] else ""
            times = f"{step.seconds:,.1f}", f"{step.cpu_s:,.1f}"
            rows.append((stage, f"{step.n:,}", *times, *gb, step.files or "", last))
    columns = ("", "size", "s", "CPU s", *(f"{role} GB" for role in roles), "files", "exponent")
    show(table(columns, rows, f"{name}, load {os.getloadavg()[0]:.1f}"))
    return exponents


def _cost(step: Step) -> float:
    return step.cpu_s or step.seconds


if __name__ == "__main__":
    main()
