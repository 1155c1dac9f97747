"""Records of a stage's tasks: a file each while a run lasts, one file when it is finished.

    _records/KEY.json         record of a task, written by the task
    _records/finished.jsonl   a record per line, of all tasks that were finished at the last merge

The merged file takes one request where 80,000 small ones take as many, and it is read line by line.
A single record is later than the merged one of the same task, so it counts. Ingest merges at its
end and score also in between; both remove single records only after the merge. Each record has a
checksum of its own, so damage costs no others.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from operator import attrgetter
from pathlib import Path
from typing import Any, Protocol, TypeVar

from hepflow.errors import DataError
from hepflow.system.files import as_json, from_json, recorded
from hepflow.system.publishing import whole
from hepflow.system.storage import listed, read_bytes, remove_all

log = logging.getLogger(__name__)

RECORDS = "_records"
_MERGED = "finished.jsonl"


class TaskRecord(Protocol):
    """Record of a task, as a stage defines it."""

    @property
    def key(self) -> str:
        """Name of the record."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for JSON."""


Record = TypeVar("Record", bound=TaskRecord)


def record_path(output: Path, key: str) -> Path:
    """Return the path of the record of a task."""
    return output / RECORDS / f"{key}.json"


def has_records(output: Path) -> bool:
    """Return whether any task has finished."""
    return bool(listed(output / RECORDS, "*.json*"))


def read_records(
    output: Path, from_dict: Callable[[Mapping[str, Any]], Record], *, skip: bool = False
) -> Iterator[Record]:
    """Yield the record of each task that has finished, in this run or before: single ones first.

    A damaged one is a DataError; with ``skip``, a warning: its task is to be done again.
    """
    files = listed(output / RECORDS)
    singles = [path for path in files if path.suffix == ".json"]

    with ThreadPoolExecutor(16) as pool:  # a remote store answers in tens of milliseconds
        for path, content in zip(singles, pool.map(read_bytes, singles), strict=True):
            record = _parsed(content, path, from_dict, skip)
            if record is not None:
                yield record
    later = {path.stem for path in singles}
    if any(path.name == _MERGED for path in files):
        merged = read_merged(output, from_dict, skip=skip)
        yield from (record for record in merged if record.key not in later)


def read_merged(
    output: Path, from_dict: Callable[[Mapping[str, Any]], Record], *, skip: bool = False
) -> Iterator[Record]:
    """Yield the record of each task of the output as it was last finished."""
    merged = output / RECORDS / _MERGED
    for line in BytesIO(read_bytes(merged)):
        record = _parsed(line, merged, from_dict, skip)
        if record is not None:
            yield record


def _parsed(
    content: bytes, path: Path, from_dict: Callable[[Mapping[str, Any]], Record], skip: bool
) -> Record | None:
    """Return a record; if it is damaged, raise a DataError, or with ``skip``, warn."""
    try:
        with recorded(path):
            return from_dict(from_json(content, path))
    except DataError:
        if not skip:
            raise
        log.warning("%s: a record is damaged; its task is done again", path)
        return None


def merge_records(output: Path, records: Iterable[TaskRecord]) -> None:
    """Write the merged file: readers see the old or the new one."""
    with whole(output / RECORDS / _MERGED) as part, part.open("wb") as file:
        for record in sorted(records, key=attrgetter("key")):
            file.write(as_json(record.to_dict()))


def remove_single_records(output: Path) -> None:
    """Remove the records of single tasks, if there is a merged file: they are in it, or stale."""
    files = listed(output / RECORDS)
    if any(path.name == _MERGED for path in files):
        remove_all(path for path in files if path.suffix == ".json")
