"""The plan, and how it is shown: a table, what will not fit, and a command per stage; or JSON."""

import json
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from rich.filesize import decimal

from hepflow.config.plan import PlanConfig
from hepflow.config.stages import REPORT
from hepflow.system import terminal
from hepflow.system.remote import is_remote
from hepflow.system.terminal import RESULTS, counted
from hepflow.tools.plan.cluster import Estimate
from hepflow.tools.plan.lines import line
from hepflow.tools.plan.sample import Ingested

_ROUGH = 0.1  # relative error of the events that is worth a line


@dataclass(frozen=True)
class Plan:
    """Work of every stage, and the sample that it is expected from."""

    estimates: Mapping[str, Estimate]
    """Stage -> its work on its machines, in the order of the pipeline."""
    files: int
    bytes_in: int
    samples: Mapping[str, Ingested]
    particles: float
    """Particles per event of the store."""
    left_out: Mapping[str, str]
    """Stage -> why it is not planned."""

    @property
    def bad(self) -> dict[str, str]:
        """File of the sample -> why it loses events."""
        ranges = [one for own in self.samples.values() for one in own.ranges]
        return {one.range.file.name: reason for one in ranges for reason in one.lost}


def show(config: PlanConfig, plan: Plan, given: Mapping[str, float | None]) -> None:
    """Print the plan; ``given``: bytes and files of the quota, and seconds of the time limit."""
    problems, notes = [*_problems(config, plan, given)], [*_notes(plan)]
    if config.json:
        print(json.dumps(_as_json(config, plan, problems, notes), indent=1))
        return
    estimates = plan.estimates.values()
    rows = [[label, *map(cell, estimates)] for label, cell in _ROWS.items()]
    title = f"{config.input}: {counted(plan.files, 'file')}, {decimal(plan.bytes_in)}"
    terminal.show(terminal.table(("", *plan.estimates), rows, title))
    for text in notes:
        RESULTS.print(text, highlight=False)
    for text in problems:
        RESULTS.print(f"does not fit: {text}", highlight=False, style="yellow")
    for stage, on in plan.estimates.items():
        RESULTS.print(f"\n{stage}:\n  ", end="", highlight=False)
        RESULTS.print(line(config, stage, on), highlight=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """Return seconds as text for a person, such as ``2 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} d {hours % 24} h"


_ROWS: Mapping[str, Any] = {
    "files read": lambda on: f"{on.work.files_in:,}" if on.work.files_in else "-",
    "events": lambda on: f"{on.work.events:,.0f}",
    "bytes read": lambda on: decimal(round(on.work.bytes_in)) if on.work.bytes_in else "-",
    "bytes written": lambda on: decimal(round(on.work.bytes_out)),
    "files made": lambda on: f"{round(on.work.files_out):,}",
    "tasks": lambda on: f"{max(len(on.work.task_s), on.work.events > 0):,}",
    "done before": lambda on: f"{on.work.done:,}",
    "workers": lambda on: f"{on.workers:,}" + f" x {on.work.threads}" * (on.work.threads > 1),
    "memory per worker": lambda on: decimal(round(on.work.worker_bytes)),
    "core hours": lambda on: f"{on.core_hours:,.2f}",
    "wall time": lambda on: duration(on.wall_s),
    "limited by": lambda on: on.limit,
}


def _notes(plan: Plan) -> Iterator[str]:
    """Yield what the numbers come from, and what makes them doubtful."""
    for name, own in plan.samples.items():
        n_in = sum(one.stop - one.start for one in own.ranges)
        like = f"{counted(len(own.ranges), 'entry range')}, {own.n_kept:,} of {n_in:,} events kept"
        rate = f"{n_in / max(own.seconds, 1e-9):,.0f} events/s per core"
        yield f"sample of {name}: {like}, {rate}"
    yield f"particles per event of the store: {plan.particles:.0f}"
    for name, reason in plan.bad.items():
        yield f"of the sample, {name} loses events: {reason}"
    for stage, why in plan.left_out.items():
        yield f"{stage} is not planned: {why}"
    if plan.estimates["ingest"].work.error > _ROUGH:
        yield f"events: within {plan.estimates['ingest'].work.error:.0%}, as files differ"


def _problems(config: PlanConfig, plan: Plan, given: Mapping[str, float | None]) -> Iterator[str]:
    """Yield what will not fit, and what to do."""
    totals = {"bytes": "bytes_out", "files": "files_out"}
    for kind, name in totals.items():
        most = given[kind]
        sums = accumulate(getattr(on.work, name) for on in plan.estimates.values())
        for stage, needed in zip(plan.estimates, sums, strict=True):
            if most is not None and needed > most:
                shown = [_amount(kind, value) for value in (most, needed)]
                yield f"quota: {shown[0]} end in {stage}, after which there would be {shown[1]}"
                break
    for (free, where), needed in _disks(config, plan).items():
        if needed > free:
            yield f"disk: {decimal(free)} are free for {where}, {decimal(round(needed))} are needed"
    for stage, on in plan.estimates.items():
        if not on.fits and on.work.events:
            need, has = decimal(round(on.work.worker_bytes)), decimal(on.cluster.memory)
            advice = " Lower --task-mb." if stage == "features" else ""
            yield f"memory: a worker of {stage} needs {need}, a node has {has}.{advice}"
        if (most := given["seconds"]) is not None and on.wall_s > most:
            times = f"{stage} takes {duration(on.wall_s)}, a job may take {duration(most)}"
            more = "" if on.limit != "CPU" else ", or use more --nodes"
            yield f"time: {times}; submit it again to resume{more}"


def _amount(kind: str, value: float) -> str:
    return decimal(round(value)) if kind == "bytes" else f"{round(value):,} files"


def _disks(config: PlanConfig, plan: Plan) -> dict[tuple[int, str], float]:
    """Return (free bytes, outputs there) -> bytes to write, of each disk of this machine."""
    places = {"ingest": config.output, "features": config.store, "train": config.runs}
    places |= {"evaluate": REPORT, "score": config.scores}
    on_disk = defaultdict(list)
    for stage, on in plan.estimates.items():
        if not is_remote(places[stage]):
            path = places[stage].absolute()
            there = next(one for one in (path, *path.parents) if one.exists())
            on_disk[there.stat().st_dev].append((there, str(places[stage]), on.work.bytes_out))
    found = {}
    for outputs in on_disk.values():
        there, *_ = outputs[0]
        names = ", ".join(name for _, name, _ in outputs)
        found[shutil.disk_usage(there).free, names] = sum(n for *_, n in outputs)
    return found


def _as_json(
    config: PlanConfig, plan: Plan, problems: list[str], notes: list[str]
) -> dict[str, Any]:
    stages = {}
    for name, on in plan.estimates.items():
        work = on.work
        stages[name] = {
            "files_in": work.files_in,
            "events": round(work.events),
            "events_error": round(work.events * work.error),
            "bytes_in": round(work.bytes_in),
            "bytes_out": round(work.bytes_out),
            "files_out": round(work.files_out),
            "tasks": len(work.task_s),
            "done": work.done,
            "workers": on.workers,
            "threads": work.threads,
            "worker_bytes": round(work.worker_bytes),
            "core_hours": on.core_hours,
            "start_s": work.cost.start_s,
            "wall_s": on.wall_s,
            "limit": on.limit,
            "command": line(config, name, on),
        }
    samples = {
        name: {
            "ranges": len(own.ranges),
            "events": sum(one.stop - one.start for one in own.ranges),
            "kept": own.n_kept,
            "seconds": own.seconds,
        }
        for name, own in plan.samples.items()
    }
    about: dict[str, Any] = {
        "files": plan.files,
        "bytes": plan.bytes_in,
        "particles_per_event": plan.particles,
    }
    about |= {"samples": samples, "bad": plan.bad, "left_out": plan.left_out}
    return {**about, "stages": stages, "problems": problems, "notes": notes}
