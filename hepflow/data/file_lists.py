"""Lists of files that users read and write: lost entries, files to read, entries expected.

    _lost.json         of an output: each file that lost entries, which ones, and why
    _differences.json  of an output: each file with other entries than the user expects

A list of files to read is a ``_lost.json``, a JSON list of names or of rows like those in it, or a
text with a name per line. A list of expected entries is a CSV with the columns ``file`` and
``entries``, a JSON list of such rows, a JSON object of entries by file, or the marker of another
dataset.
"""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from hepflow.errors import DataError, one_line
from hepflow.system.files import inside, write_json
from hepflow.system.storage import read_text

LOST, DIFFERENCES = "_lost.json", "_differences.json"
Intervals = Sequence[tuple[int, int]]
"""Entries: increasing pairs of the first, and the one past the last."""
_ENTRIES = "entries"


@dataclass(frozen=True)
class LostEntries:
    """Entries of a file that are lost for one reason."""

    file: str
    reason: str
    events: int | None
    """Lost entries; None if the file could not be read far enough to count them."""
    entries: Intervals | None
    """The lost entries are within these; None: anywhere in the file."""


def joined(intervals: Iterable[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    """Return intervals that do not touch; of more than ``most``, the closest become one."""
    found: list[tuple[int, int]] = []
    for start, stop in sorted(intervals):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(stop, found[-1][1])
        else:
            found.append((start, stop))
    gaps = sorted(
        range(1, len(found)), key=lambda i: found[i - 1][1] - found[i][0]
    )  # the widest first
    cuts = sorted(gaps[: most - 1])
    edges = zip([0, *cuts], [*cuts, len(found)], strict=True)
    return [(found[i][0], found[j - 1][1]) for i, j in edges if i < j]


def write_lost(output: Path, lost: Iterable[LostEntries]) -> None:
    """Write the list of lost entries of an output: readers see the old or the new one."""
    rows = sorted(map(asdict, lost), key=lambda row: (row["file"], row["reason"]))
    write_json(output / LOST, {"lost": rows})


def write_differences(
    output: Path, expected_by: Path, rows: Sequence[Mapping[str, str | int | None]]
) -> None:
    """Write the differences between a dataset and a list of expected entries."""
    write_json(output / DIFFERENCES, {"expected_by": str(expected_by), "differences": list(rows)})


def read_list(path: Path, root: str | Path) -> dict[str, list[tuple[int, int]] | None]:
    """Return the files of a list, by their names below ``root``, and which entries; None: all."""
    listed: dict[str, list[tuple[int, int]] | None] = {}
    try:
        for row in _rows(_text(path), "lost"):
            about = {"file": row} if isinstance(row, str) else dict(row)
            name, own = inside(_below(str(about["file"]), root)), about.get(_ENTRIES)
            before = listed.get(name, [])
            if own is None or before is None:
                listed[name] = None
            else:
                listed[name] = joined([*before, *map(_interval, own)], len(before) + len(own))
    except (TypeError, KeyError, ValueError, AttributeError, RecursionError) as error:
        raise _wrong(path, "list of files", error, '{"file": "qcd/a.root"}') from error
    return listed


def read_expected(path: Path, root: str | Path) -> dict[str, int]:
    """Return the entries of each file, by its name below ``root``, as the user expects them."""
    try:
        text = _text(path)
        rows: Iterable[Any]
        if text.lstrip()[:1] in ("{", "["):
            found = json.loads(text)
            if isinstance(found, dict) and "files" not in found:
                found = [{"file": name, _ENTRIES: entries} for name, entries in found.items()]
            rows = found["files"] if isinstance(found, dict) else found
        else:
            rows = csv.DictReader(StringIO(text))
            if not {"file", _ENTRIES} <= set(rows.fieldnames or ()):
                raise ValueError("no columns file and entries")
        expected: dict[str, int] = {}
        for row in rows:
            name, entries = _below(str(row["file"]), root), row[_ENTRIES]
            if isinstance(entries, float) or int(entries) < 0:
                raise ValueError(f"{name}: the number of entries is {entries!r}")
            if expected.setdefault(name, int(entries)) != int(entries):
                raise ValueError(f"{name}: {expected[name]} and {entries} entries")
    except (TypeError, KeyError, ValueError, AttributeError, RecursionError, csv.Error) as error:
        raise _wrong(
            path, "list of expected entries", error, "a CSV with the columns file and entries"
        ) from error
    return expected


def _text(path: Path) -> str:
    try:
        return read_text(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file. Give an existing one.") from error
    except IsADirectoryError as error:
        raise DataError(f"{path}: a folder. Give a file, such as {path / LOST}.") from error


def _rows(text: str, key: str) -> Iterable[Any]:
    if text.lstrip()[:1] in ("{", "["):
        found = json.loads(text)
        rows = found[key] if isinstance(found, dict) else found
        if not isinstance(rows, list):
            raise TypeError(f"{key} is no list")
        return rows
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _below(name: str, root: str | Path) -> str:
    """Return a name below the input, also if it is given with that in front."""
    tops = [str(root), str(root.absolute())] if isinstance(root, Path) else [root]
    for top in tops:
        name = name.removeprefix(f"{top.rstrip('/')}/")
    return name


def _interval(found: Any) -> tuple[int, int]:
    start, stop = found
    if not (isinstance(start, int) and isinstance(stop, int) and 0 <= start < stop):
        raise ValueError(f"{found!r} are no entries, such as [0, 100]")
    return start, stop


def _wrong(path: Path, what: str, error: Exception, example: str) -> DataError:
    missing = isinstance(error, KeyError)
    why = f"no {one_line(error)}" if missing else one_line(error)
    return DataError(f"{path}: not a {what} ({why[:200]}). Give one like {example}.")
