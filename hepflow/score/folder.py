"""scores/: Parquet files of scores, their records, and ``_hepflow.json``, which names the model.

An entry range with a record is scored; nothing else needs to survive a crash. A program that reads
every ``*.parquet`` here reads each event once, also while a run writes. Those of a topic come here
once many micro-batches are merged, see `hepflow.score.kafka.folder`.
"""

import contextlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hepflow.data.ledger import Ledger
from hepflow.data.output import read_marker, refuse_to_replace, write_marker
from hepflow.errors import DataError
from hepflow.physics.skim import NOT_FINITE
from hepflow.reading.ranges import EntryRange
from hepflow.schema import SCORES_SCHEMA_VERSION
from hepflow.score.task import CLAIMS, RECORDS, ScoreRecord
from hepflow.system.files import read_json, recorded
from hepflow.system.storage import listed, make_folder, read_text, remove, remove_all, remove_tree

CHECKPOINT, RECENT = "_checkpoint", "_recent"

_MERGED = re.compile(r"batch-\d+-(\d+)\..*")
_READINGS = 10  # of a list that changes meanwhile


class ScoreFolder:
    """State of a run: built from the records, and updated as they come.

    ``about`` describes the model; scores with the same ``key`` may be in one folder, others are
    refused unless ``overwrite``. ``retry_lost`` forgets records that lost events; those of
    transient losses are forgotten in any case.
    """

    def __init__(
        self, path: Path, about: dict[str, Any], overwrite: bool = False, retry_lost: bool = False
    ) -> None:
        self.path, self.about = path, about
        self._require_own(overwrite)
        for name in (RECORDS, CLAIMS):
            make_folder(path / name)
        self.done: dict[str, ScoreRecord] = {}
        self.ledger, self.accepted = Ledger(), Counter[str]()
        self._sweep(retry_lost)
        self.write(complete=False)

    def add(self, record: ScoreRecord) -> None:
        """Add the record of a scored range; it replaces an earlier one."""
        again = self.done.pop(record.key, None)
        if again is not None:
            self._count()
        self.done[record.key] = record
        self.ledger += record.ledger
        self.accepted.update(record.accepted)

    def pending(self, ranges: Sequence[EntryRange]) -> list[EntryRange]:
        """Remove scores of files that changed, or are cut otherwise; return ranges without any."""
        now = {entries.file.name: (entries.file.version, entries.count) for entries in ranges}
        replaced = []
        for key, record in [*self.done.items()]:
            own = record.range and (record.range.file.version, record.range.count)
            if own and now.get(record.name, own) != own:
                replaced.append(self.done.pop(key))
                self._forget(record)
        still = {record.uuid for record in self.done.values()}
        for record in replaced:  # another file may have the events once no range of this one does
            claim = self.path / CLAIMS / str(record.uuid)
            if record.uuid not in still and claim.is_file() and read_text(claim) == record.name:
                remove(claim)
        if replaced:
            self._count()
        return [entries for entries in ranges if entries.key not in self.done]

    @property
    def n_files(self) -> int:
        """Files with scores, at least in part."""
        return len({record.name for record in self.done.values()})

    @property
    def n_quarantined(self) -> int:
        """Files that lost events."""
        return len({item.file for item in self.ledger.lost})

    def write(self, *, complete: bool) -> None:
        """Write ``_hepflow.json``."""
        state = {"complete": complete, "accepted": dict(self.accepted), "files": self.n_files}
        ledger, version = self.ledger.check().to_dict(), SCORES_SCHEMA_VERSION
        about = {**self.about, **state, "ledger": ledger, "schema_version": version}
        write_marker(self.path, about)

    def _require_own(self, overwrite: bool) -> None:
        before = read_marker(self.path)
        if before is None:
            if any(path.name[0] not in "._" for path in listed(self.path)):
                what = "the folder holds other files than scores. Choose another output."
                raise DataError(f"{self.path}: {what}")
        elif before.get("key") != self.about["key"]:
            if not overwrite and listed(self.path / RECORDS, "*.json"):
                refuse_to_replace(self.path, "scores", _settings(before), _settings(self.about))
                # a difference that the settings do not show, such as a threshold's last digit
                keys = ({"hash of settings and format": a.get("key")} for a in (before, self.about))
                refuse_to_replace(self.path, "scores", *keys)
            for name in (RECORDS, CLAIMS, CHECKPOINT, RECENT):
                remove_tree(self.path / name)

    def _sweep(self, retry_lost: bool) -> None:
        """Read the records, and remove files that killed workers left without one."""
        for drafts in (".*.part", "*/.*.part"):
            remove_all(listed(self.path, drafts, links=False))
        there = {path.name: path for path in listed(self.path, "*.parquet")}
        recent = listed(self.path / RECENT, "*.parquet")
        there |= {f"{RECENT}/{path.name}": path for path in recent}
        with ThreadPoolExecutor(16) as pool:  # a remote store answers in tens of milliseconds
            for record in pool.map(self._read, listed(self.path / RECORDS, "*.json")):
                exists = record.fragment is None or record.fragment in there
                if not exists or record.transient or (record.ledger.lost and retry_lost):
                    self._forget(record)
                else:
                    self.add(record)
        fragments = {record.fragment for record in self.done.values()}
        claimed = {record.uuid for record in self.done.values()}
        stale = [path for name, path in there.items() if name not in fragments]
        stale += [path for path in listed(self.path / CLAIMS) if path.name not in claimed]
        remove_all(stale)

    def _read(self, path: Path) -> ScoreRecord:
        with recorded(path):
            return ScoreRecord.from_dict(read_json(path))

    def _forget(self, record: ScoreRecord) -> None:
        remove(self.path / RECORDS / f"{record.key}.json")
        if record.fragment is not None:
            remove(self.path / record.fragment)

    def _count(self) -> None:
        self.ledger, self.accepted = Ledger(), Counter()
        for record in self.done.values():
            self.ledger += record.ledger
            self.accepted.update(record.accepted)


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


def last_merged(names: Iterable[str]) -> int:
    """Return the last micro-batch of the files that hold many; -1 without any."""
    found = map(_MERGED.fullmatch, names)
    return max((int(match[1]) for match in found if match), default=-1)


def score_files(path: Path) -> list[Path]:
    """Return the files that hold each score once, among them those that are not merged yet.

    A merged file comes into place before the files that are in it go.
    """
    recent = listed(path / RECENT, "*.parquet")  # first: they may be merged meanwhile
    files = listed(path, "*.parquet")
    done = last_merged(file.name for file in files)
    return files + [file for file in recent if batch_of(file.name) > done]


def batch_of(name: str) -> int:
    """Return the micro-batch of a file or record, such as 12 of ``batch-00000012.json``."""
    return int(name.partition(".")[0].rpartition("-")[2])


def read_scores(path: Path, columns: Iterable[str] | None = None) -> pa.Table:
    """Return all scores in an output of `hepflow score`, also while it runs; default: all columns.

    Raises a DataError if there are none, or not as many as a finished run has written.
    """
    about = read_marker(path) or {}  # before the list, as a run may end meanwhile
    scores = _read_all(path, None if columns is None else list(columns))
    if not about.get("complete"):
        return scores
    ledger = Ledger.from_dict(about["ledger"])
    written = ledger.n_out + ledger.n_rejected  # these and events with NaN have rows with a reason
    written += sum(item.events or 0 for item in ledger.lost if item.reason == NOT_FINITE)
    if len(scores) != written:
        what = f"the files here hold {len(scores):,} of {written:,} scores"
        advice = "Read them later if the store lists new files late, else score again."
        raise DataError(f"{path}: {what}. {advice}")
    return scores


def _read_all(path: Path, columns: list[str] | None) -> pa.Table:
    tries = 0
    while True:
        files = score_files(path)
        if not files:
            advice = f"Make some with `hepflow score --output {path}`."
            raise DataError(f"{path}: no scores here. {advice}")
        try:
            with contextlib.ExitStack() as stack:
                opened = [stack.enter_context(file.open("rb")) for file in files]
                return pa.concat_tables(pq.read_table(file, columns=columns) for file in opened)
        except FileNotFoundError:  # merged into another file since the list was made
            tries += 1
            if tries == _READINGS:
                raise
