"""The fate of entries, as ingest and score record and judge it.

As JSON, ``range`` is the key ``split`` and ``n_out`` is ``kept``: names of earlier versions.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from hepflow.data.file_lists import Intervals, LostEntries, joined
from hepflow.data.ledger import Ledger, Lost
from hepflow.data.output import MARKER
from hepflow.errors import DataError
from hepflow.reading.ranges import EntryRange
from hepflow.system.terminal import counted

log = logging.getLogger(__name__)

WORKER_DIED = "the worker died whenever it read this file"
"""Reason of a loss; others are in `hepflow.physics.skim` and `hepflow.reading.delphes`."""
MOST_INTERVALS = 100
"""Intervals of lost entries in a record, per reason; of more, the closest are joined."""
NAMED = 10  # bad files on the screen; the marker of the output names all


class Losses:
    """Lost entries of an entry range, by reason: how many, and where."""

    def __init__(self) -> None:
        self._found: dict[str, list[tuple[int, int]]] = {}

    def add(self, reason: str, start: int, stop: int) -> None:
        """Add the entries from ``start`` to the one before ``stop``."""
        if start < stop:
            self._found.setdefault(reason, []).append((start, stop))

    def add_each(self, reason: str, entries: np.ndarray) -> None:
        """Add increasing entries, (n,)."""
        if len(entries):
            ends = np.flatnonzero(np.diff(entries) > 1)
            starts, stops = entries[[0, *(ends + 1)]], entries[[*ends, -1]] + 1
            own = zip(starts.tolist(), stops.tolist(), strict=True)
            self._found.setdefault(reason, []).extend(own)

    @property
    def counts(self) -> dict[str, int | None]:
        """Reason -> entries."""
        return {reason: sum(b - a for a, b in own) for reason, own in self._found.items()}

    @property
    def entries(self) -> dict[str, list[tuple[int, int]]]:
        """Reason -> intervals that hold the entries, `MOST_INTERVALS` at most."""
        return {reason: joined(own, MOST_INTERVALS) for reason, own in self._found.items()}


@dataclass(frozen=True)
class RangeRecord:
    """Fate of every entry: ``stop - start == n_out + rejected + lost``."""

    range: EntryRange
    uuid: str | None = None  # hexadecimal identity of the file; None if it could not be opened
    n_entries: int | None = None  # of the whole file; None if it could not be opened
    start: int = 0
    stop: int = 0
    n_out: int = 0  # entries that passed
    rejected: Mapping[str, int] = field(default_factory=dict)  # cut -> entries
    lost: Mapping[str, int | None] = field(default_factory=dict)  # reason -> entries; None: unknown
    transient: bool = False
    """Whether a dying worker or file system lost entries, and not the file: another run retries."""
    filled: tuple[str, ...] = ()  # optional fields that the file does not have
    bytes_read: int = 0
    seconds: float = 0.0
    lost_entries: Mapping[str, Intervals] = field(default_factory=dict)
    """Reason -> which entries, as far as they are known."""

    @property
    def ledger(self) -> Ledger:
        """The same counts as a ledger."""
        lost = (Lost(self.range.file.name, reason, n) for reason, n in self.lost.items())
        return Ledger(self.stop - self.start, self.n_out, self.rejected, tuple(lost)).check()

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for JSON."""
        data = {**vars(self), "split": self.range.to_dict(), "kept": self.n_out}
        del data["range"], data["n_out"]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the record of `to_dict`."""
        rest = {**data, "filled": tuple(data["filled"])}
        places = rest.pop("lost_entries", {})
        rest["lost_entries"] = {
            reason: [(int(start), int(stop)) for start, stop in own]
            for reason, own in places.items()
        }
        found = cls(EntryRange.from_dict(rest.pop("split")), n_out=rest.pop("kept"), **rest)
        lost = [{"file": "", "reason": why, "events": n} for why, n in found.lost.items()]
        counts = {"n_in": found.stop - found.start, "n_out": found.n_out, "lost": lost}
        Ledger.from_dict({**counts, "rejected": found.rejected})  # or it is a ValueError
        return found


Retry = bool | Collection[str]
"""Unchanged files to read again. True: all that lost events; False: those that lost them to the
file system or to a dying worker; names: these files."""


def is_retried(name: str, lost: bool, transient: bool, retry: Retry) -> bool:
    """Return whether a file, or a range of it, is read again although it is unchanged."""
    return transient or (lost and retry) if isinstance(retry, bool) else lost and name in retry


def lost_in(records: Iterable[RangeRecord]) -> list[LostEntries]:
    """Return the lost entries of some ranges, per file and reason."""
    found: dict[tuple[str, str], list[tuple[int | None, Intervals | None]]] = {}
    for own in records:
        for reason, events in own.lost.items():
            if events != 0:
                # A record of an earlier version has counts only.
                where = own.lost_entries.get(reason, [(own.start, own.stop)])
                one = (events, None if events is None else where)
                found.setdefault((own.range.file.name, reason), []).append(one)
    rows = []
    for (file, reason), several in found.items():
        if any(events is None for events, _ in several):
            rows.append(LostEntries(file, reason, None, None))
        else:
            every = [pair for _, where in several for pair in where or ()]
            events = sum(events or 0 for events, _ in several)
            rows.append(LostEntries(file, reason, events, joined(every, len(every))))
    return rows


def describe(lost: Sequence[Lost]) -> str:
    """Return the losses of one file or message as text."""
    n_lost = counted(sum(item.events or 0 for item in lost), "event")
    if any(item.events is None for item in lost):
        n_lost = "an unknown number of events"
    return f"{lost[0].file}, {n_lost} lost: {_reasons(lost)}"


def _reasons(lost: Sequence[Lost]) -> str:
    return "; ".join(dict.fromkeys(item.reason for item in lost))  # the same one for many ranges


def judge(
    lost: Iterable[Lost],
    n_files: int | None,
    allowed: int,
    output: Path,
    weight: Callable[[str], int] = lambda _: 1,
) -> None:
    """Log the files (of ``n_files``; None: the messages) that lost events.

    More than ``allowed`` raise a DataError; all work is done by now. ``weight`` returns the number
    of files or messages that a name stands for.
    """
    by_file: dict[str, list[Lost]] = {}
    for item in lost:
        by_file.setdefault(item.file, []).append(item)
    bad = list(by_file.values())
    for items in bad[:NAMED]:
        log.warning("quarantined %s", describe(items))
    if len(bad) > NAMED:
        log.warning("... and %d more, see %s", len(bad) - NAMED, output / MARKER)
    n_bad = sum(weight(items[0].file) for items in bad)
    if n_bad > allowed:
        what, advice = counted(n_bad, "message"), "Allow"
        if n_files is not None:
            what = f"{n_bad} of {counted(n_files, 'file')}"
            advice = "Repair them and run again, or allow"
        first = f"the first, {bad[0][0].file}: {_reasons(bad[0])}"
        advice = f"{advice} it with --max-lost-files {n_bad}."
        summary = f"{what} lost events ({first}), {allowed} allowed"
        raise DataError(f"{output}: {summary}; the rest is done. {advice}")
