"""Records of ingest's tasks: a file each while a run lasts, one file when it is finished.

    _records/KEY.json         record of a task, written by the task
    _records/finished.jsonl   a record per line, of all tasks when the dataset was last finished

The merged file takes one request where 80,000 small ones take as many, and it is read line by line.
A single record is later than the merged one of the same task, so it counts. Single records are
removed when the marker has been written after the merged file.
"""

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from operator import attrgetter
from pathlib import Path

from hepflow.ingest.task import RECORDS, TaskRecord
from hepflow.system.files import read_json, recorded
from hepflow.system.publishing import whole
from hepflow.system.storage import listed, read_bytes, remove_all

_MERGED = "finished.jsonl"


def read_records(output: Path) -> Iterator[TaskRecord]:
    """Yield the record of each task that has finished, in this run or before."""
    files = listed(output / RECORDS)
    singles = [path for path in files if path.suffix == ".json"]
    with ThreadPoolExecutor(16) as pool:  # a remote store answers in tens of milliseconds
        yield from pool.map(_single, singles)
    later = {path.stem for path in singles}
    merged = output / RECORDS / _MERGED
    if any(path.name == _MERGED for path in files):
        with recorded(merged):
            for line in BytesIO(read_bytes(merged)):
                record = TaskRecord.from_dict(json.loads(line))
                if record.key not in later:
                    yield record


def merge_records(output: Path, records: Iterable[TaskRecord]) -> None:
    """Write the merged file: readers see the old or the new one."""
    with whole(output / RECORDS / _MERGED) as part, part.open("w") as file:
        for record in sorted(records, key=attrgetter("key")):
            file.write(json.dumps(record.to_dict(), sort_keys=True) + "\n")


def remove_single_records(output: Path) -> None:
    """Remove the records of single tasks, if there is a merged file: they are in it, or stale."""
    files = listed(output / RECORDS)
    if any(path.name == _MERGED for path in files):
        remove_all(path for path in files if path.suffix == ".json")


def _single(path: Path) -> TaskRecord:
    with recorded(path):
        return TaskRecord.from_dict(read_json(path))
