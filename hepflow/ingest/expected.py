"""``--expected LIST``: the entries of the files of a dataset, compared with a user's list."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from hepflow.config.stages import IngestConfig
from hepflow.data.file_lists import DIFFERENCES, read_expected, read_list, write_differences
from hepflow.reading.record import NAMED

log = logging.getLogger(__name__)


def compare(files: Sequence[Mapping[str, Any]], config: IngestConfig) -> int:
    """Name the files with other entries than expected, and return their number.

    The first are logged, and all are in a file next to the marker. With ``only``, of files that
    are neither in the dataset nor in the list nothing is said.
    """
    assert config.expected is not None
    expected = read_expected(config.expected, config.input)
    found = {file["file"]: file["entries"] for file in files}
    names = found.keys() | expected.keys()
    if config.only is not None:
        names = found.keys() | read_list(config.only, config.input).keys()
    rows = [
        {"file": name, "expected": expected.get(name), "found": found.get(name)}
        for name in sorted(names)
        if expected.get(name) != found.get(name) or name not in found or name not in expected
    ]
    write_differences(config.output, config.expected, rows)
    for row in rows[:NAMED]:
        log.warning("%s: %s", row["file"], _in_words(row, found))
    if len(rows) > NAMED:
        log.warning("... and %d more, see %s", len(rows) - NAMED, config.output / DIFFERENCES)
    return len(rows)


def _in_words(row: Mapping[str, Any], found: Mapping[str, int | None]) -> str:
    if row["expected"] is None:
        return f"not expected, {_entries(row['found'])} found"
    if row["file"] not in found:
        return f"not in the input, {_entries(row['expected'])} expected"
    return f"{_entries(row['found'])} found, {row['expected']:,} expected"


def _entries(n: int | None) -> str:
    return "an unknown number of entries" if n is None else f"{n:,} entries"
