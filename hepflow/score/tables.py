"""Reads scores/: all its Parquet files, each score once, also while a run writes."""

import re
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa

from hepflow.data.ledger import Ledger
from hepflow.data.output import read_marker
from hepflow.data.parquet import read_table
from hepflow.errors import DataError
from hepflow.physics.skim import NOT_FINITE
from hepflow.system.storage import listed

DELETE = "Delete it and score again."
"""Advice for a damaged file of scores."""
RECENT = "_recent"
"""Folder of the micro-batches of a topic that are not merged yet."""
_MERGED = re.compile(r"batch-\d+-(\d+)\..*")
_READINGS = 10  # of a list that changes meanwhile
_AT_A_TIME = 16  # files that are read


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
    wanted = None if columns is None else list(columns)
    tries = 0
    while True:
        try:
            return pa.concat_tables(_tables(path, wanted))
        except FileNotFoundError:  # merged into another file since the list was made
            tries += 1
            if tries == _READINGS:
                raise


def scan_scores(path: Path, columns: Iterable[str] | None = None) -> Iterator[pa.Table]:
    """Yield what `read_scores` returns, in tables of one file each, of which memory holds a few."""
    try:
        yield from _tables(path, None if columns is None else list(columns))
    except FileNotFoundError as error:
        what = "files were merged while they were read. Read them again"
        raise DataError(f"{path}: {what}.") from error


def _tables(path: Path, columns: list[str] | None) -> Iterator[pa.Table]:
    about = read_marker(path) or {}  # before the list, as a run may end meanwhile
    files = score_files(path)
    if not files:
        advice = f"Make some with `hepflow score --output {path}`."
        raise DataError(f"{path}: no scores here. {advice}")

    def read(file: Path) -> pa.Table:
        return read_table(file, DELETE, columns, use_threads=False)

    n_rows, reading = 0, deque[Future[pa.Table]]()
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        for file in [*files, None]:
            if file is not None:
                reading.append(pool.submit(read, file))
            while reading and (file is None or len(reading) > _AT_A_TIME):
                table = reading.popleft().result()
                n_rows += len(table)
                yield table
    if about.get("complete"):
        ledger = Ledger.from_dict(about["ledger"])
        written = ledger.n_out + ledger.n_rejected  # these and events with NaN have rows
        written += sum(item.events or 0 for item in ledger.lost if item.reason == NOT_FINITE)
        if n_rows != written:
            what = f"the files here hold {n_rows:,} of {written:,} scores"
            advice = "Read them later if the store lists new files late, else score again."
            raise DataError(f"{path}: {what}. {advice}")
