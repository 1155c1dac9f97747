"""Tables of ingest: the summary at the end of a run, and the estimate (``--estimate``)."""

import json
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from rich.filesize import decimal

from hepflow.data.ledger import total
from hepflow.ingest.task import RECORDS, Settings, TaskRecord, run_task
from hepflow.reading.ranges import EntryRange
from hepflow.system.terminal import MESSAGES, RESULTS, show, table

SAMPLED = 2  # entry ranges per class that an estimate reads
_SLOWEST = 5


def print_summary(records: Sequence[TaskRecord], seconds: float) -> None:
    """Print what the tasks of this run read, kept and wrote, and the slowest files."""
    parts = [own for record in records for own in record.ranges]
    ledger = total(own.ledger for own in parts)
    busy, entries = defaultdict[str, float](float), Counter[str]()
    for own in parts:
        busy[own.range.file.name] += own.seconds
        entries[own.range.file.name] += own.stop - own.start
    unreadable = {item.file for item in ledger.lost if item.events is None}
    core_seconds = sum(busy.values())
    rows = {
        "files": f"{len({own.range.file for own in parts}):,}",
        "entries": f"{ledger.n_in:,}",
        "kept": f"{ledger.n_out:,}",
        **{reason: f"{count:,}" for reason, count in ledger.rejected.items()},
        "lost": ledger.lost_in_words,
        **({"unreadable files": f"{len(unreadable):,}"} if unreadable else {}),
        "read": decimal(sum(own.bytes_read for own in parts)),
        "written": decimal(sum(record.bytes_written for record in records)),
        "wall time": f"{seconds:,.1f} s",
        "events/s per core": f"{ledger.n_in / core_seconds:,.0f}" if core_seconds else "-",
    }
    names = sorted(busy, key=lambda name: -busy[name])[:_SLOWEST]
    slowest = [(name, f"{busy[name]:,.2f} s, {entries[name]:,} entries") for name in names]
    tables = table(("", ""), rows.items(), "ingest"), table(("", ""), slowest, "slowest files")
    show(*tables, console=MESSAGES)


def print_estimate(
    ranges: Sequence[EntryRange], n_tasks: int, settings: Settings, *, as_json: bool
) -> None:
    """Read a few of the ranges per class here, and scale their cost and output by bytes."""
    hours = output = events = 0.0
    assumptions: list[str] = []
    bad: dict[str, str] = {}
    for name, group in groupby(sorted(ranges), key=lambda one: one.file.class_name):
        own = list(group)
        chosen = own[:: -(-len(own) // SAMPLED)]
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / RECORDS).mkdir()
            started = time.perf_counter()
            record = run_task(chosen, Settings(Path(folder), settings.classes, settings.access))
            seconds = time.perf_counter() - started
        scale = sum(one.size for one in own) / max(sum(one.size for one in chosen), 1)
        hours += seconds * scale / 3600
        output += record.bytes_written * scale
        events += record.n_events * scale
        bad |= {part.range.file.name: reason for part in record.ranges for reason in part.lost}
        like = ", ".join(one.label for one in chosen)
        kept = f"{record.n_events:,} of {sum(p.ledger.n_in for p in record.ranges):,} kept"
        assumptions.append(f"{name}: like {like}, {kept} in {seconds:.1f} s")
    n_files, n_bytes = len({one.file for one in ranges}), sum(one.size for one in ranges)
    if as_json:
        about = {
            "files": n_files,
            "bytes": n_bytes,
            "partitions": n_tasks,
            "core_hours": hours,
            "events_kept": round(events),
            "bytes_out": round(output),
            "assumptions": assumptions,
            "bad": bad,
        }
        print(json.dumps(about, indent=1))
        return
    rows = {
        "files": f"{n_files:,}",
        "bytes": decimal(n_bytes),
        "partitions": f"{n_tasks:,}",
        "core hours": f"{hours:,.4f}",
        "events kept": f"{events:,.0f}",
        "output": decimal(round(output)),
    }
    show(table(("", ""), rows.items(), "estimate of the work left"))
    lines = [f"assuming {line}" for line in assumptions]
    lines += [f"of these, {name} loses events: {reason}" for name, reason in bad.items()]
    for line in lines:
        RESULTS.print(line, highlight=False, markup=False)
