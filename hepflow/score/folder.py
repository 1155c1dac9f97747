"""scores/: Parquet files of scores, the records of tasks, and ``_hepflow.json`` with the model.

An entry range in a record is scored; nothing else needs to survive a crash. A program that reads
every ``*.parquet`` here reads each event once, also while a run writes. Those of a topic come here
once many micro-batches are merged, see `hepflow.score.kafka.folder`.

    STEM-0000-KEY.parquet    scores of a task: of many small files, or of a range of a large one
    _records/                see `hepflow.data.task_records`
    _claims/                 during a run, see `hepflow.score.claims`

Scores that no longer count (the file has changed, or is to be retried) are taken out of the file of
their task: a record without their range comes first, marked as stale, then the file without
their rows. A run that finds a stale record repeats the second step.
"""

import uuid
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hepflow.data.file_lists import write_lost
from hepflow.data.ledger import Ledger, Sum
from hepflow.data.output import read_marker, refuse_to_replace, write_marker
from hepflow.data.task_records import (
    RECORDS,
    has_records,
    merge_records,
    read_records,
    record_path,
    remove_single_records,
)
from hepflow.errors import DataError
from hepflow.reading.ranges import EntryRange
from hepflow.reading.record import Retry, is_retried, lost_in
from hepflow.schema import SCORES_SCHEMA_VERSION
from hepflow.score.claims import CLAIMS, MergedClaims, remove_claims
from hepflow.score.fragment import keep_only
from hepflow.score.record import ScoreRecord
from hepflow.score.tables import (
    RECENT,
    read_scores,  # noqa: F401 - its place until version 0.1
)
from hepflow.system.publishing import remove_drafts
from hepflow.system.storage import listed, make_folder, remove_all, remove_tree

CHECKPOINT = "_checkpoint"
MOST_SINGLES = 4000
"""Records, or claims, from which they are merged during a run."""


class ScoreFolder:
    """State of a run: built from the records, and updated as they come.

    ``about`` describes the model; scores with the same ``key`` may be in one folder, others are
    refused unless ``overwrite``. Ranges that lost events are forgotten as ``retry_lost``
    says. ``run`` is the name of the run, for its tasks.
    """

    def __init__(
        self, path: Path, about: dict[str, Any], overwrite: bool = False, retry_lost: Retry = False
    ) -> None:
        self.path, self.about, self.run = path, about, uuid.uuid4().hex[:12]
        self._require_own(overwrite)
        for name in (RECORDS, CLAIMS):
            make_folder(path / name)
        self.records: dict[str, ScoreRecord] = {}
        self.done: dict[str, str] = {}  # key of a range -> that of its task
        self.counts, self.accepted = Sum(), Counter[str]()
        self._of_file: dict[str, set[str]] = {}  # name -> keys of its ranges
        self._owning = Counter[str]()  # identity of a file -> ranges that are scored
        self._singles: set[str] = set()  # records with a file of their own
        self._claims = MergedClaims(path, self.run)
        remove_claims(path)
        self._sweep(retry_lost)
        self._claims.write()
        self.write(complete=False)

    @property
    def ledger(self) -> Ledger:
        """Counts of all events."""
        return self.counts.ledger

    @property
    def n_files(self) -> int:
        """Files with scores, at least in part."""
        return len(self._of_file)

    @property
    def n_quarantined(self) -> int:
        """Files that lost events."""
        return len({item.file for item in self.counts.lost})

    def add(self, record: ScoreRecord) -> None:
        """Add the record of a finished task; it replaces an earlier one."""
        if record.key in self.records:
            self._remove(self.records[record.key])
            self._count()
        self._append(record)
        self._singles.add(record.key)
        if len(self._singles) > MOST_SINGLES:
            self._merge_records()
        if len(self._claims) > MOST_SINGLES:
            self._claims.write()

    def pending(self, ranges: Sequence[EntryRange]) -> list[EntryRange]:
        """Remove scores of files that changed, or are cut otherwise; return ranges without any."""
        now, names = {one.key for one in ranges}, {one.file.name for one in ranges}
        self._forget(key for name in names for key in self._of_file.get(name, set()) - now)
        return [one for one in ranges if one.key not in self.done]

    def finish(self, *, complete: bool) -> None:
        """Merge records, remove what they do not name, and write ``_hepflow.json``.

        No task may be running.
        """
        if self._singles:
            self._merge_records()
        remove_single_records(self.path)
        remove_claims(self.path)
        self._remove_unnamed()
        ranges = (one for record in self.records.values() for one in record.ranges)
        write_lost(self.path, lost_in(ranges))
        self.write(complete=complete)

    def write(self, *, complete: bool) -> None:
        """Write ``_hepflow.json``."""
        state = {"complete": complete, "accepted": dict(self.accepted), "files": self.n_files}
        ledger, version = self.ledger.check().to_dict(), SCORES_SCHEMA_VERSION
        about = {**self.about, **state, "ledger": ledger, "schema_version": version}
        write_marker(self.path, about)

    def _append(self, record: ScoreRecord) -> None:
        self.records[record.key] = replace(record, histograms=(), stale=False)
        self.counts.add(record.ledger)
        self.accepted.update(record.accepted)
        for one in record.ranges:
            self.done[one.range.key] = record.key
            self._of_file.setdefault(one.range.file.name, set()).add(one.range.key)
            if one.uuid is not None and one.owns:
                self._owning[one.uuid] += 1
                self._claims[one.uuid] = one.range.file.name

    def _remove(self, record: ScoreRecord) -> None:
        """Remove a record from this object, but for the counts."""
        del self.records[record.key]
        for one in record.ranges:
            name, key = one.range.file.name, one.range.key
            del self.done[key]
            self._of_file[name].remove(key)
            if not self._of_file[name]:
                del self._of_file[name]
            if one.uuid is not None and one.owns:
                self._owning[one.uuid] -= 1
                if not self._owning[one.uuid]:  # another file may have the events
                    del self._owning[one.uuid]
                    self._claims[one.uuid] = None

    def _count(self) -> None:
        self.counts, self.accepted = Sum(), Counter()
        for record in self.records.values():
            self.counts.add(record.ledger)
            self.accepted.update(record.accepted)

    def _forget(self, ranges: Iterable[str]) -> None:
        """Take ranges out of records and files, so that they are scored again."""
        gone: dict[str, set[str]] = {}
        for key in ranges:
            gone.setdefault(self.done[key], set()).add(key)
        for task, keys in gone.items():
            record = self.records[task]
            self._remove(record)
            left = self._without(record, keys)
            if left.ranges:
                self._append(left)
        if gone:
            self._count()
            self._claims.write()

    def _without(self, record: ScoreRecord, gone: Collection[str]) -> ScoreRecord:
        """Return a record without some ranges, once neither the disk has them."""
        left = record.without(gone).write(self.path)
        self._singles.add(record.key)  # also of a task without ranges, until they are merged
        if left.fragment is not None:
            keep_only(self.path / left.fragment, {one.range.key for one in left.ranges})
        return left

    def _merge_records(self) -> None:
        merge_records(self.path, self.records.values())
        remove_all(record_path(self.path, key) for key in self._singles)
        self._singles = set()

    def _require_own(self, overwrite: bool) -> None:
        before = read_marker(self.path)
        if before is None:
            if any(path.name[0] not in "._" for path in listed(self.path)):
                what = "the folder holds other files than scores. Choose another output."
                raise DataError(f"{self.path}: {what}")
        elif before.get("key") != self.about["key"]:
            if not overwrite and has_records(self.path):
                refuse_to_replace(self.path, "scores", _settings(before), _settings(self.about))
                # a difference that the settings do not show, such as a threshold's last digit
                keys = ({"hash of settings and format": a.get("key")} for a in (before, self.about))
                refuse_to_replace(self.path, "scores", *keys)
            for name in (RECORDS, CLAIMS, CHECKPOINT, RECENT):
                remove_tree(self.path / name)

    def _sweep(self, retry_lost: Retry) -> None:
        """Read the records, and remove files that killed workers left without one."""
        remove_drafts(self.path)
        self._singles = {path.stem for path in listed(self.path / RECORDS, "*.json")}
        there = self._fragments()
        for found in self._read():
            if found.fragment is not None and found.fragment not in there:
                continue
            gone = {
                one.range.key
                for one in found.ranges
                if one.range.key in self.done
                or is_retried(one.range.file.name, bool(one.lost), one.transient, retry_lost)
            }
            if not gone and not found.stale:
                self._append(found)
            elif (left := self._without(found, gone)).ranges:
                self._append(left)
        self._remove_unnamed()

    def _read(self) -> Iterator[ScoreRecord]:
        return read_records(self.path, ScoreRecord.from_dict)

    def _fragments(self) -> dict[str, Path]:
        """Return the files of scores that are there, by the name in their record."""
        recent = listed(self.path / RECENT, "*.parquet")
        there = {f"{RECENT}/{path.name}": path for path in recent}
        return there | {path.name: path for path in listed(self.path, "*.parquet")}

    def _remove_unnamed(self) -> None:
        named = {record.fragment for record in self.records.values()}
        there = self._fragments()
        remove_all(path for name, path in there.items() if name not in named)


def _settings(about: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings that scores depend on, for a person."""
    points, model = about.get("working_points") or [], about.get("model") or {}
    thresholds = [f"{point['name']} at {point['threshold']:.4g}" for point in points]
    return {
        "model": f"{str(model.get('net')).rpartition('.')[2]} {model.get('hash')}",
        "physics": str(about.get("physics")),
        "working points": ", ".join(thresholds) or "none",
        "report": ", ".join(sorted({point["report"] for point in points})) or "none",
        "topic": about.get("topic") or "none",
        "tree": str(about.get("tree")),
    }
