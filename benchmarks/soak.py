"""20 GB of ROOT files through every stage; each is killed once at a random place and resumed.

The files are copies of a few, with UUIDs of their own, so that every copy must give the same counts
as its original. Each class holds copies of all of them in turn, so that every tenth of the work is
alike; the labels mean nothing. Printed per stage: throughput of the first and last tenth of the
work, and the memory of each kind of process in the third and last tenth of the time. Throughput is
that of wall time and of CPU time: other programs on the machine disturb the former.
"""

import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import psutil
from rehearsal.callbacks import PLACE, Steps
from rehearsal.measure import GB, processes

from hepflow.data.events import open_events
from hepflow.data.ledger import Ledger
from hepflow.data.output import read_marker
from hepflow.data.store import EventStore
from hepflow.schema import CLASSES
from hepflow.system.terminal import show, table
from hepflow_bench.copies import copy_as_new

_TENTH = 10
_POLL_S = 1.0


@dataclass
class Watched:
    """Times, CPU and memory of a stage, over all its attempts."""

    name: str
    times: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    """CPU seconds of all attempts so far, at ``times``."""
    gb: list[dict[str, float]] = field(default_factory=list)
    """Role -> most memory of one process, at ``times``."""
    attempts: list[tuple[float, float]] = field(default_factory=list)
    """Start and end of each."""

    def held_in(self, tenth: int, until: float) -> dict[str, float]:
        """Return the most memory per role in a tenth of the last attempt, up to a time."""
        start = self.attempts[-1][0]
        samples = [gb for t, gb in zip(self.times, self.gb, strict=True) if start <= t <= until]
        own = np.array_split(np.arange(len(samples)), _TENTH)[tenth]
        most: dict[str, float] = defaultdict(float)
        for i in own:
            for role, value in samples[i].items():
                most[role] = max(most[role], value)
        return dict(most)

    def rates(self, done: Sequence[float]) -> tuple[float, float]:
        """Return last / first tenth of the work: per wall time, and per CPU time.

        ``done`` are the times at which a piece of work was finished. Steps across the start of an
        attempt do not count.
        """
        ends = np.sort(np.array(done))
        cpu = np.interp(ends, self.times, self.cpu_s)
        starts = [start for start, _ in self.attempts]
        steps = np.diff(np.searchsorted(starts, ends)) == 0
        wall, busy = np.diff(ends)[steps], np.diff(cpu)[steps]
        found = []
        for spent in (wall, busy):
            first, *_, last = (part.mean() for part in np.array_split(spent, _TENTH))
            found.append(float(first / last))
        return found[0], found[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--source", type=Path, help="ROOT files, CLASS/NAME.root; default: simulate"
    )
    parser.add_argument("--gb", type=float, default=20.0, help="bytes of the copies")
    parser.add_argument("--scratch", type=Path, help="folder for everything; default: temporary")
    parser.add_argument("--seed", type=int, default=1, help="of the places of the kills")
    parser.add_argument("--plot", type=Path, help="write the memory over time here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = arguments.scratch or Path(folder)
        soak(
            scratch,
            arguments.source,
            arguments.gb,
            np.random.default_rng(arguments.seed),
            arguments.plot,
        )


def soak(
    scratch: Path, source: Path | None, gb: float, rng: np.random.Generator, plot: Path | None
) -> None:
    raw, one = scratch / "raw", source or scratch / "source"
    if source is None and not one.exists():
        hepflow("simulate", "--output", one, "--events", 500)
    copies = make_copies(one, raw, gb)
    small = ["--input", one, "--output", scratch / "one"]
    hepflow("ingest", *small, "--overwrite")
    expected = open_events(scratch / "one").ledger
    events, store, run, scores = (scratch / n for n in ("events", "features.zarr", "run", "scores"))
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    os.environ[PLACE] = str(scratch / "steps.txt")
    epoch = ["--trainer.max_epochs=1", f"--trainer.callbacks+={Steps.__module__}.{Steps.__name__}"]
    epoch += ["--checkpoint_every_steps=200", f"--data.store={store}", f"--output={run}"]
    stages: dict[str, tuple[list[str | Path], Callable[[], list[float]]]] = {
        "ingest": (
            ["--input", raw, "--output", events, "--target-partition-mb", "32"],
            lambda: written(events, "*/*.parquet"),
        ),
        "features": (
            ["--input", events, "--output", store, "--part-mb", "16"],
            lambda: written(store, "particles/c.*"),
        ),
        "train": (["fit", "--config=configs/train/inclusive.yaml", *epoch], steps_of_training),
        "score": (
            [
                "--input",
                raw,
                "--model",
                run / "model.onnx",
                "--output",
                scores,
                "--target-partition-mb",
                "32",
            ],
            lambda: written(scores, "*.parquet"),
        ),
    }
    seen, rows, result = [], [], {}
    for name, (options, done) in stages.items():
        watched = Watched(name)
        seen.append(watched)
        kill_at = rng.integers(2, 3 + 10 * int(gb))  # a stage has some 20 pieces per GB
        attempt(watched, [name, *options], lambda: len(done()) >= kill_at)  # noqa: B023
        attempt(watched, [name, *options])
        wall, busy = watched.rates(done())
        first, last = (watched.held_in(tenth, max(done())) for tenth in (2, -1))
        spent = sum(end - start for start, end in watched.attempts)
        rows += [
            (
                name if i == 0 else "",
                f"{spent:,.0f} s" if i == 0 else "",
                role,
                f"{first.get(role, 0):.2f}",
                f"{last.get(role, 0):.2f}",
                f"{wall:.2f}" if i == 0 else "",
                f"{busy:.2f}" if i == 0 else "",
            )
            for i, role in enumerate(sorted(last))
        ]
        result[f"{name}_s"] = round(spent)
        result[f"{name}_last_vs_first"], result[f"{name}_last_vs_first_cpu"] = wall, busy
    head = ("stage", "time", "process", "GB, third tenth", "GB, last", "rate last/first", "per CPU")
    show(table(head, rows, f"{copies} copies of each file, {gb:g} GB; every stage killed once"))
    check(expected, copies, events, store, scores)
    if plot:
        draw(seen, plot)
    print(json.dumps(result))


def make_copies(source: Path, raw: Path, gb: float) -> int:
    """Fill a folder with copies of all files, of ``gb`` together; return the copies of each."""
    files = sorted(source.glob("*/*.root"))
    copies = max(1, round(gb * GB / sum(path.stat().st_size for path in files)))
    if not raw.exists():
        for number, i in itertools.product(range(copies), range(len(files))):
            folder = raw / CLASSES[(number + i) % len(CLASSES)]
            copy_as_new(files[i], folder / f"{number:06d}-{files[i].name}", number)
    return copies


def attempt(
    watched: Watched, arguments: Sequence[object], is_time: Callable[[], bool] | None = None
) -> None:
    """Run a stage; kill all its processes when it is time."""
    command = [sys.executable, "-m", "hepflow", *map(str, arguments)]
    before = watched.cpu_s[-1] if watched.cpu_s else 0.0
    started, busy = time.time(), dict[int, float]()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True)
        while process.poll() is None:
            root = psutil.Process(process.pid)
            most: dict[str, float] = defaultdict(float)
            for pid, role, n_bytes, cpu_s in processes(root):
                most[role], busy[pid] = max(most[role], n_bytes / GB), cpu_s
            watched.times.append(time.time())
            watched.cpu_s.append(before + sum(busy.values()))
            watched.gb.append(dict(most))
            if is_time is not None and is_time():
                for child in [*root.children(recursive=True), root]:
                    child.send_signal(signal.SIGKILL)
                process.wait()
            time.sleep(_POLL_S)
        if process.returncode not in (0, -signal.SIGKILL):
            said.seek(0)
            raise RuntimeError(f"{' '.join(command)}: status {process.returncode}\n{said.read()}")
    watched.attempts.append((started, time.time()))


def written(folder: Path, pattern: str) -> list[float]:
    return [path.stat().st_mtime for path in folder.glob(pattern)]


def steps_of_training() -> list[float]:
    place = Path(os.environ[PLACE])
    last: dict[int, float] = {}  # a step that was repeated counts when it was done again
    for line in place.read_text().splitlines() if place.exists() else ():
        step, when = line.split()
        last[int(step)] = float(when)
    return list(last.values())


def check(expected: Ledger, copies: int, events: Path, store: Path, scores: Path) -> None:
    """Every copy must have lost, rejected and given as many events as its original."""
    ingested = open_events(events).ledger
    wanted = (expected.n_in * copies, expected.n_out * copies, len(expected.lost) * copies)
    assert (ingested.n_in, ingested.n_out, len(ingested.lost)) == wanted
    computed = EventStore.open(store).ledger()
    assert computed.n_in == ingested.n_out
    assert not computed.lost
    scored = Ledger.from_dict((read_marker(scores) or {})["ledger"])
    assert (scored.n_in, scored.n_out) == (ingested.n_in, computed.n_out)
    print(f"exact: {scored.n_in:,} entries read, {computed.n_out:,} events of each stage, 0 lost")


def draw(seen: Sequence[Watched], path: Path) -> None:
    figure, axes = plt.subplots(1, len(seen), figsize=(11, 2.8), sharey=True, layout="constrained")
    for axis, watched in zip(axes, seen, strict=True):
        minutes = (np.array(watched.times) - watched.attempts[0][0]) / 60
        for role in sorted({role for gb in watched.gb for role in gb}):
            values = [gb.get(role, np.nan) for gb in watched.gb]
            axis.plot(minutes, values, label=role, lw=1)
        axis.axvline((watched.attempts[0][1] - watched.attempts[0][0]) / 60, color="0.6", ls=":")
        axis.set(title=watched.name, xlabel="minutes")
        axis.legend(fontsize=7, frameon=False)
    axes[0].set_ylabel("memory of a process, GB")
    figure.savefig(path)


def hepflow(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "hepflow", *map(str, arguments)], check=True)


if __name__ == "__main__":
    main()
