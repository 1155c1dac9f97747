"""scores/: Parquet files of scores, the records of the shares that they are of, and ``_hepflow.json``, which says whose scores they are.

What is done is what has a record; nothing else needs to survive a crash. A program that reads every ``*.parquet`` here reads each event
once, also while a run writes.
"""

import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads

from hepflow.data.ledger import Ledger, Lost
from hepflow.data.output import refuse_to_replace
from hepflow.errors import DataError
from hepflow.reading.ranges import EntryRange
from hepflow.schema import SCORES_SCHEMA_VERSION
from hepflow.score.inputs import replaced
from hepflow.score.task import CLAIMS, RECORDS, Record
from hepflow.system.files import read_json, write_json

MANIFEST, CHECKPOINT = "_hepflow.json", "_checkpoint"


class ScoreFolder:
    """The state of a run: made from the records, and kept up to date as they come.

    Parameters
    ----------
    path : Path
    about : dict
        Whose scores they are; ``key`` tells those that may lie together.
    overwrite : bool
        Replace scores that are of something else.
    retry_lost : bool
        Forget the shares that lost events; those that lost them to the file system or to dying workers are forgotten in any case.

    Raises
    ------
    ConfigError
        The folder holds scores of another model, physics or working point.
    DataError
        It holds something else.
    """

    def __init__(
        self,
        path: Path,
        about: dict[str, Any],
        *,
        overwrite: bool = False,
        retry_lost: bool = False,
    ) -> None:
        self.path, self.about = path, about
        self._require_own(overwrite)
        for name in (RECORDS, CLAIMS):
            (path / name).mkdir(parents=True, exist_ok=True)
        self.done: dict[str, Record] = {}
        self.ledger = Ledger()
        self.accepted: Counter[str] = Counter()
        self._sweep(retry_lost)
        self.write(complete=False)

    def add(self, record: Record) -> None:
        """A share is done; one that was already is replaced."""
        again = record.key in self.done
        self.done[record.key] = record
        if again:
            self._count()
            return
        self.ledger += record.ledger
        self.accepted.update(record.accepted)

    def pending(self, splits: Sequence[EntryRange]) -> list[EntryRange]:
        """What is not done. Scores of files that have another content, or other shares, now are removed: new ones take their place."""
        gone = [
            self.done.pop(split.key)
            for split in replaced(
                splits, [record.split for record in self.done.values() if record.split]
            )
        ]
        for record in gone:
            self._forget(record)
            self._release(record)
        if gone:
            self._count()
        return [split for split in splits if split.key not in self.done]

    @property
    def lost(self) -> dict[str, list[Lost]]:
        """Files or messages that lost events, and why."""
        found: dict[str, list[Lost]] = {}
        for item in self.ledger.lost:
            found.setdefault(item.file, []).append(item)
        return found

    @property
    def n_files(self) -> int:
        """Files that are done, in part at least."""
        return len({record.name for record in self.done.values()})

    def write(self, *, complete: bool) -> None:
        """Write ``_hepflow.json``."""
        about = {
            **self.about,
            "schema_version": SCORES_SCHEMA_VERSION,
            "complete": complete,
            "ledger": self.ledger.check().to_dict(),
            "accepted": dict(self.accepted),
            "files": self.n_files,
        }
        write_json(self.path / MANIFEST, about)

    def _require_own(self, overwrite: bool) -> None:
        path = self.path / MANIFEST
        if not path.is_file():
            if self.path.exists() and any(self.path.iterdir()):
                raise DataError(
                    f"{self.path}: there is something here that is not scores of hepflow. Choose another output."
                )
            return
        there = read_json(path)
        if there.get("key") != self.about["key"]:
            if not overwrite and any((self.path / RECORDS).glob("*.json")):
                refuse_to_replace(self.path, "scores", _made_with(there), _made_with(self.about))
                why = "hash of settings and format"  # such as a threshold in a digit that is not shown
                refuse_to_replace(
                    self.path, "scores", {why: there.get("key")}, {why: self.about["key"]}
                )
            for name in (RECORDS, CLAIMS, CHECKPOINT):
                shutil.rmtree(self.path / name, ignore_errors=True)

    def _sweep(self, retry_lost: bool) -> None:
        """Read the records, and remove what killed workers left without one."""
        for part in self.path.glob("**/.*.part"):
            part.unlink(missing_ok=True)
        for path in sorted((self.path / RECORDS).glob("*.json")):
            record = Record.from_dict(read_json(path))
            there = record.fragment is None or (self.path / record.fragment).is_file()
            if not there or record.transient or (record.lost and retry_lost):
                self._forget(record)
            else:
                self.add(record)
        live = {record.fragment for record in self.done.values()}
        for path in self.path.glob("*.parquet"):
            if path.name not in live:
                path.unlink(missing_ok=True)
        claimed = {record.uuid for record in self.done.values()}
        for path in (self.path / CLAIMS).iterdir():
            if path.name not in claimed:
                path.unlink(missing_ok=True)

    def _forget(self, record: Record) -> None:
        (self.path / RECORDS / f"{record.key}.json").unlink(missing_ok=True)
        if record.fragment is not None:
            (self.path / record.fragment).unlink(missing_ok=True)

    def _release(self, record: Record) -> None:
        """Another file may have the events, once no share of this one is done."""
        claim = self.path / CLAIMS / str(record.uuid)
        if (
            claim.is_file()
            and claim.read_text() == record.name
            and all(other.uuid != record.uuid for other in self.done.values())
        ):
            claim.unlink()

    def _count(self) -> None:
        records, self.done, self.ledger, self.accepted = (
            list(self.done.values()),
            {},
            Ledger(),
            Counter(),
        )
        for record in records:
            self.add(record)


def _made_with(about: Mapping[str, Any]) -> dict[str, str]:
    """What tells scores apart, in words."""
    points = about.get("working_points") or []
    model = about.get("model") or {}
    return {
        "model": f"{str(model.get('net')).rpartition('.')[2]} {model.get('hash')}",
        "physics": str(about.get("physics")),
        "working points": ", ".join(
            f"{point['name']} at {point['threshold']:.4g}" for point in points
        )
        or "none",
        "report": ", ".join(sorted({point["report"] for point in points})) or "none",
        "topic": about.get("topic") or "none",
        "tree": str(about.get("tree")),
    }


def read_scores(path: Path, columns: Iterable[str] | None = None) -> pa.Table:
    """All scores in a folder.

    Parameters
    ----------
    path : Path
        What `hepflow score` wrote, or writes at the moment.
    columns : names, or None for all

    Raises
    ------
    DataError
        There are none.
    """
    files = sorted(str(file) for file in path.glob("*.parquet"))
    if not files:
        raise DataError(f"{path}: no scores here. Make some with `hepflow score --output {path}`.")
    return pads.dataset(files, format="parquet").to_table(
        columns=None if columns is None else list(columns)
    )
