"""The table at the end of a run, and the one before it (``--estimate``)."""

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from hepflow.data.ledger import total
from hepflow.ingest.fragment import RECORDS, Settings, TaskRecord, run_task
from hepflow.reading.ranges import EntryRange
from hepflow.reading.record import RangeRecord
from hepflow.system.terminal import MESSAGES

SAMPLED = 2
"""Shares of a class that an estimate reads."""
_SLOWEST = 5


def print_summary(records: Sequence[TaskRecord], seconds: float) -> None:
    """What the tasks of this run read, kept and wrote, and the files that took longest."""
    shares = [share for record in records for share in record.ranges]
    ledger = total(share.ledger for share in shares)
    busy = sum(share.seconds for share in shares)
    unreadable = len({item.file for item in ledger.lost if item.events is None})
    rows = {
        "files": f"{len({share.range.file for share in shares}):,}",
        "entries": f"{ledger.n_in:,}",
        "kept": f"{ledger.n_out:,}",
        **{reason: f"{count:,}" for reason, count in ledger.rejected.items()},
        "lost": ledger.lost_in_words,
        **({"files that do not read": f"{unreadable:,}"} if unreadable else {}),
        "read": decimal(sum(share.bytes_read for share in shares)),
        "written": decimal(sum(record.bytes_written for record in records)),
        "wall time": f"{seconds:,.1f} s",
        "events/s a core": f"{ledger.n_in / busy:,.0f}" if busy else "-",
    }
    _print("ingest", rows)
    files: dict[str, list[RangeRecord]] = defaultdict(list)
    for share in shares:
        files[share.range.file.name].append(share)
    slowest = sorted(
        files.items(), key=lambda item: sum(share.seconds for share in item[1]), reverse=True
    )[:_SLOWEST]
    _print("slowest files", {name: _cost(own) for name, own in slowest})


def print_estimate(
    splits: Sequence[EntryRange], n_tasks: int, settings: Settings, *, as_json: bool
) -> None:
    """Read a few shares of each class here and now, and scale what they took and gave by the bytes of all.

    Parameters
    ----------
    splits : sequence of EntryRange
        What is left to do.
    n_tasks : int
        Tasks that they make.
    settings : Settings
    as_json : bool
        Print one JSON object, and no table.
    """
    hours = output = events = 0.0
    assumptions = []
    bad: dict[str, str] = {}
    for name in settings.classes:
        own = [split for split in splits if split.file.class_name == name]
        if not own:
            continue
        chosen = own[:: -(-len(own) // SAMPLED)]
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / RECORDS).mkdir()
            started = time.perf_counter()
            record = run_task(chosen, Settings(Path(folder), settings.classes, settings.access))
            seconds = time.perf_counter() - started
        scale = sum(split.size for split in own) / max(sum(split.size for split in chosen), 1)
        n_in = sum(share.ledger.n_in for share in record.ranges)
        hours += seconds * scale / 3600
        output += record.bytes_written * scale
        events += record.n_events * scale
        bad |= {share.range.file.name: reason for share in record.ranges for reason in share.lost}
        assumptions.append(
            f"{name}: like {', '.join(map(_share_name, chosen))}, {record.n_events:,} of {n_in:,} kept in {seconds:.1f} s"
        )
    n_files, n_bytes = len({split.file for split in splits}), sum(split.size for split in splits)
    if as_json:
        counts = {"files": n_files, "bytes": n_bytes, "partitions": n_tasks, "core_hours": hours}
        print(
            json.dumps(
                {
                    **counts,
                    "events_kept": round(events),
                    "bytes_out": round(output),
                    "assumptions": assumptions,
                    "bad": bad,
                },
                indent=1,
            )
        )
        return
    rows = {
        "files": f"{n_files:,}",
        "bytes": decimal(n_bytes),
        "partitions": f"{n_tasks:,}",
        "core hours": f"{hours:,.4f}",
        "events kept": f"{events:,.0f}",
        "output": decimal(round(output)),
    }
    results = Console()
    _print("estimate of what is left to do", rows, results)
    for line in assumptions:
        results.print(f"assuming {line}", highlight=False)
    for name, reason in bad.items():
        results.print(f"of these, {name} loses events: {reason}", highlight=False)


def _cost(shares: Sequence[RangeRecord]) -> str:
    return f"{sum(share.seconds for share in shares):,.2f} s, {sum(share.stop - share.start for share in shares):,} entries"


def _print(title: str, rows: Mapping[str, str], console: Console = MESSAGES) -> None:
    table = Table(title=title, show_header=False, title_justify="left", min_width=len(title))
    table.add_column()
    table.add_column(justify="right")
    for row in rows.items():
        table.add_row(*row)
    console.print(table)


def _share_name(split: EntryRange) -> str:
    return (
        split.file.name
        if split.count == 1
        else f"{split.file.name} [{split.index + 1}/{split.count}]"
    )
