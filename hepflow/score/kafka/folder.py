"""The output of a topic: small files of the latest micro-batches, merged into large ones.

A micro-batch leaves a file in ``_recent/`` and a record. After some minutes they become one file of
the folder and one record, both named after the first and the last micro-batch:

    _recent/batch-00000012.parquet, _records/batch-00000012.json, and so on
    batch-00000000-00000057.parquet, _records/batch-00000000-00000057.json

The file comes first, then the record, and then the small ones go. After a crash in between, a file
without a record is removed, and so is what the record of many includes.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hepflow.config.score import KafkaConfig
from hepflow.data.ledger import Ledger, Lost, total
from hepflow.data.task_records import RECORDS, record_path
from hepflow.errors import DataError
from hepflow.physics.skim import NOT_FINITE
from hepflow.reading.record import Retry
from hepflow.score.claims import remove_claims
from hepflow.score.folder import CHECKPOINT, ScoreFolder
from hepflow.score.kafka.deleted import earlier, n_messages
from hepflow.score.record import ScoreRecord
from hepflow.score.tables import RECENT, batch_of, last_merged
from hepflow.system.files import read_json, write_json
from hepflow.system.publishing import whole
from hepflow.system.storage import listed, make_folder, remove

NAMED = 1000
"""Quarantined messages that ``_hepflow.json`` names, the latest; the records name all."""

_MESSAGES = "messages.json"
_ROWS = 100_000  # of a row group
_REASONS = 100  # told apart in sums: the text may come from a user's own physics


def name_of(batch: int) -> str:
    """Return the name of a micro-batch's record."""
    return f"batch-{batch:08d}"


class TopicFolder(ScoreFolder):
    """Scores of a topic; micro-batches are added in the order of their numbers.

    ``last`` is the last one with a record. ``messages`` has the hashes of the latest messages as of
    the start, and the place of each.
    """

    def __init__(
        self, path: Path, about: dict[str, Any], config: KafkaConfig, overwrite: bool = False
    ) -> None:
        self.config, self.last = config, -1
        self.messages: dict[str, str] = {}
        self._recent: list[ScoreRecord] = []
        self._bytes = self._n_messages = 0  # of these
        self._since = monotonic()  # the first of these came
        super().__init__(path, about, overwrite)
        remove_claims(path)  # no file is claimed
        checkpoint = path / CHECKPOINT  # Spark writes the query's options into it
        checkpoint.mkdir(0o700, exist_ok=True)
        checkpoint.chmod(0o700)

    @property
    def n_files(self) -> int:
        """Micro-batches with a record."""
        return self.last + 1

    @property
    def n_quarantined(self) -> int:
        """Messages that lost events."""
        return sum(map(n_messages, {item.file for item in self.counts.lost}))

    def add(self, record: ScoreRecord) -> None:
        """Add the record of the next micro-batch, or of many."""
        self._append(record)

    def merge(self, messages: Mapping[str, str], *, at_end: bool = False) -> None:
        """Merge the latest micro-batches once they are old or large enough, or ``at_end``.

        ``messages`` are the hashes to keep for the next run, at least those of what is merged.
        """
        most, small = self.config, self._recent
        many = self._bytes >= most.roll_mb << 20 or self._n_messages >= most.remembered
        if small and (at_end or many or monotonic() - self._since >= most.roll_s):
            write_json(self.path / RECENT / _MESSAGES, dict(messages))
            self._merge(small)
            self._recent, self._bytes, self._n_messages = [], 0, 0

    def _append(self, record: ScoreRecord) -> None:
        super()._append(record)
        self.last = max(self.last, batch_of(record.key))
        lost = self.counts.lost
        if len(lost) > 2 * NAMED:
            lost[:-NAMED] = _summed(lost[:-NAMED])
        if _is_merged(record.key):
            self._keep_little(record)
        else:
            self._await(record)

    def _await(self, record: ScoreRecord) -> None:
        """Count a micro-batch among those to be merged."""
        self._since = self._since if self._recent else monotonic()
        self._recent.append(record)
        self._n_messages += len(record.messages) + len(record.ledger.lost)
        if record.fragment is not None:
            self._bytes += (self.path / record.fragment).stat().st_size

    def _merge(self, small: Sequence[ScoreRecord]) -> None:
        name = f"{small[0].key}-{batch_of(small[-1].key):08d}"
        fragments = [self.path / record.fragment for record in small if record.fragment]
        fragment = f"{name}.parquet" if fragments else None
        if fragment is not None:
            with whole(self.path / fragment) as part:
                _concatenate(fragments, part)
        accepted = Counter[str]()
        for record in small:
            accepted.update(record.accepted)
        ledger = total(record.ledger for record in small).check()
        self._keep_little(ScoreRecord(name, ledger, fragment, accepted).write(self.path))
        for record in small:
            del self.records[record.key]
            remove(record_path(self.path, record.key))
            if record.fragment is not None:
                remove(self.path / record.fragment)

    def _keep_little(self, merged: ScoreRecord) -> None:
        """Keep in memory which file a record has, and nothing that grows with what is in it."""
        self.records[merged.key] = replace(merged, ledger=Ledger())

    def _sweep(self, retry_lost: Retry) -> None:
        make_folder(self.path / RECENT)
        for file in listed(self.path, "batch-*.parquet"):  # an earlier version left all here
            if not _is_merged(file.name):
                file.replace(self.path / RECENT / file.name)
        records = listed(self.path / RECORDS, "batch-*.json")
        done = last_merged(record.name for record in records)
        for record in records:
            if not _is_merged(record.name) and batch_of(record.name) <= done:
                remove(record)
        super()._sweep(retry_lost)
        self._require_all()
        kept = self.path / RECENT / _MESSAGES
        self.messages = read_json(kept) if kept.is_file() else {}
        recent = sorted(self._recent, key=lambda record: batch_of(record.key))
        for each in recent:
            self.messages.update(each.messages)
        self.messages = latest(self.messages, self.config.remembered)
        self._recent, self._bytes, self._n_messages = [], 0, 0
        for each in recent:  # many, if an earlier version left them
            self._await(each)
            self.merge(self.messages)

    def _read(self) -> Iterator[ScoreRecord]:
        for record in super()._read():
            fragment = record.fragment
            if fragment is not None and not _is_merged(record.key):
                fragment = f"{RECENT}/{Path(fragment).name}"
            yield replace(record, fragment=fragment)

    def _require_all(self) -> None:
        """Refuse to go on without Spark's checkpoint, or without scores that it counts as written.

        Spark writes what a micro-batch reads before it begins, and a commit after its end.
        """
        checkpoint = self.path / CHECKPOINT
        commits = [int(path.name) for path in listed(checkpoint / "commits", "[0-9]*")]
        found = sum(batch_of(key) + 1 - int(key.split("-")[1]) for key in self.records)
        missing = max([self.last, *commits]) + 1 - found
        planned = self.last < 0 or (checkpoint / "offsets" / str(self.last)).is_file()
        if missing or not planned:
            what = f"scores ({missing} micro-batches)" if missing else f"Spark's {CHECKPOINT}"
            advice = "Choose another output: the topic is read again from its start."
            raise DataError(f"{self.path}: {what} deleted. {advice}")


def latest(messages: Mapping[str, str], n: int) -> dict[str, str]:
    """Return the last ``n`` items, in order."""
    return dict(islice(messages.items(), max(len(messages) - n, 0), None))


def _is_merged(name: str) -> bool:
    return name.count("-") > 1


def _concatenate(files: Sequence[Path], target: Path) -> None:
    """Write the rows of many small files into one, a bounded number at a time."""
    waiting: list[pa.Table] = []
    n_rows = 0
    with pq.ParquetWriter(target, pq.read_schema(files[0]), compression="zstd") as writer:
        for file in files:
            waiting.append(pq.read_table(file))
            n_rows += len(waiting[-1])
            if n_rows >= _ROWS or file == files[-1]:
                writer.write_table(pa.concat_tables(waiting), row_group_size=_ROWS)
                waiting, n_rows = [], 0


def _summed(lost: Iterable[Lost]) -> list[Lost]:
    """Return the sums of lost messages by reason, whatever numbers are in it."""
    places: dict[str, set[str]] = {}  # two sums may have one: of known and unknown size
    events, unknown = Counter[str](), set[str]()
    for item in lost:
        reason = re.sub(r"\d[\d,]*", "N", item.reason)
        if reason not in {*places, NOT_FINITE} and len(places) >= _REASONS:
            reason = "other reasons"
        places.setdefault(reason, set()).add(item.file)
        events[reason] += item.events or 0
        unknown |= {reason} if item.events is None else set()
    sums = []
    for reason, files in places.items():
        name = earlier(sum(map(n_messages, files)), reason)
        if events[reason] or reason not in unknown:
            sums.append(Lost(name, reason, events[reason]))
        if reason in unknown:
            sums.append(Lost(name, reason))
    return sums
