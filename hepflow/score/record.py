"""Record of a task of scoring: the fate of every event of its entry ranges, or of its messages."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from hepflow.data.ledger import Ledger, total
from hepflow.data.task_records import record_path
from hepflow.reading.ranges import EntryRange
from hepflow.reading.record import RangeRecord
from hepflow.system.files import inside, plain_name, write_json

_COPY = "a copy of "
_COUNTS = ("n_in", "n_out", "rejected", "lost")


@dataclass(frozen=True)
class ScoredRange(RangeRecord):
    """Fate of the events of an entry range; those in ``n_out`` have a score."""

    accepted: Mapping[str, int] = field(default_factory=dict)  # stream -> events that it keeps

    @property
    def owns(self) -> bool:
        """Whether the events of its file are scored under this name, and not under another."""
        return self.uuid is not None and not any(reason.startswith(_COPY) for reason in self.lost)


def copy_of(owner: str) -> str:
    """Return the reason for which a file is not scored whose events another file has."""
    return f"{_COPY}{owner} (same identity)"


@dataclass(frozen=True)
class ScoreRecord:
    """A finished task on entry ranges, or a micro-batch of messages, as in ``_records/``."""

    key: str
    ledger: Ledger
    fragment: str | None = None  # Parquet file of the scores; None without a readable event
    accepted: Mapping[str, int] = field(default_factory=dict)  # stream -> events that it keeps
    ranges: tuple[ScoredRange, ...] = ()  # none in a micro-batch
    messages: Mapping[str, str] = field(default_factory=dict)
    """Hash of the events of a message -> its place, in a micro-batch."""
    stale: bool = False  # whether the file may hold scores of other ranges, which do not count
    histograms: Sequence[Sequence[int]] = ()
    """One per high-level feature, in bins of `Spread`; not on disk."""
    seconds: float = 0.0

    @classmethod
    def of_task(cls, key: str, ranges: Iterable[ScoredRange], fragment: str | None) -> Self:
        """Return the record of a task on entry ranges."""
        own, accepted = tuple(ranges), Counter[str]()
        for one in own:
            accepted.update(one.accepted)
        ledger, seconds = total(one.ledger for one in own), sum(one.seconds for one in own)
        return cls(key, ledger, fragment, dict(accepted), own, seconds=seconds)

    def without(self, gone: Collection[str]) -> "ScoreRecord":
        """Return the record without some ranges, whose scores are still in the file."""
        left = (one for one in self.ranges if one.range.key not in gone)
        return replace(self.of_task(self.key, left, self.fragment), stale=True)

    def write(self, output: Path) -> Self:
        """Write it into the folder of records: from then on the task counts as finished."""
        write_json(record_path(output, self.key), self.to_dict())
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for JSON, where the key of the ranges is ``shares``, as in ingest."""
        about: dict[str, Any] = {"key": self.key, "fragment": self.fragment}
        if self.ranges or self.stale:
            shares = [one.to_dict() for one in self.ranges]
            return {**about, "shares": shares, **({"stale": True} if self.stale else {})}
        about |= {"messages": dict(self.messages), "accepted": dict(self.accepted)}
        return {**about, "seconds": self.seconds, **self.ledger.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the record of `to_dict`, or one of an entry range as before version 3."""
        key, fragment = plain_name(data["key"]), data["fragment"]
        inside(fragment or "none")
        plain_name(data.get("uuid") or "none")
        if "shares" in data:
            ranges = [ScoredRange.from_dict(one) for one in data["shares"]]
            for one in ranges:
                plain_name(one.uuid or "none")
            return replace(cls.of_task(key, ranges, fragment), stale=data.get("stale", False))
        ledger = Ledger.from_dict({name: data[name] for name in _COUNTS})
        accepted, seconds = dict(data.get("accepted", {})), data.get("seconds", 0.0)
        if not data.get("split"):
            messages = dict(data.get("messages", {}))
            return cls(key, ledger, fragment, accepted, (), messages, seconds=seconds)
        lost = {item.reason: item.events for item in ledger.lost}
        of_file = EntryRange.from_dict(data["split"]), data["uuid"], None
        fate = *of_file, 0, ledger.n_in, ledger.n_out, ledger.rejected, lost
        of_range = {"transient": data["transient"], "accepted": accepted, "seconds": seconds}
        return cls.of_task(key, [ScoredRange(*fate, **of_range)], fragment)


def add_histograms(several: Iterable[Sequence[Sequence[int]]]) -> list[list[int]]:
    """Return the sum of several sets of histograms, each one per feature."""
    return [np.sum(rows, axis=0).tolist() for rows in zip(*several, strict=True)]
