"""Output folders, and JSON and CSV files that are written completely or not at all."""

import csv
import errno
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from hepflow.errors import ConfigError, DataError, one_line
from hepflow.system import seal
from hepflow.system.publishing import put
from hepflow.system.remote import is_remote
from hepflow.system.storage import read_bytes
from hepflow.system.terminal import visible

_NAMES: tuple[str, ...] = ("EACCES", "EPERM", "EEXIST", "EROFS", "ENOSPC", "EDQUOT", "EFBIG")
_NAMES += ("ENOTDIR", "EISDIR", "ELOOP")
_ADVICE = "Delete it and run the stage again, or remove its entry _checksum if you have edited it."
OUTPUT_ERRORS = {getattr(errno, name) for name in _NAMES}
"""Errors of the operating system that are due to the output's place, and not a bug."""


def require_folder(path: Path) -> None:
    """Raise a ConfigError if the path, or a folder above it, is a file."""
    for place in () if is_remote(path) else (path, *path.parents):
        if place.exists() and not place.is_dir():
            what = "is a file, not a folder. Remove it, or choose another output."
            raise ConfigError(f"{path}: {'' if place == path else f'{place} '}{what}")


@contextmanager
def makeable(path: Path) -> Iterator[None]:
    """Raise a ConfigError if the folders above an output cannot be created in the block."""
    try:
        yield
    except FileNotFoundError as error:
        what = f"cannot write to {path.parent}. Choose another output."
        raise ConfigError(f"{path}: {what}") from error


def as_json(data: Mapping[str, Any], indent: int | None = None) -> bytes:
    """Return JSON with a checksum, and a line's end."""
    text = json.dumps({**data, seal.KEY: seal.EMPTY}, indent=indent, sort_keys=True)
    return seal.sealed(text.encode() + b"\n")


def from_json(content: bytes, path: Path) -> Any:
    """Return the data of `as_json`, or of JSON without a checksum; ``path`` is for messages."""
    seal.check(content, path, _ADVICE)
    data = json.loads(content.decode())
    if isinstance(data, dict):
        data.pop(seal.KEY, None)
    return data


def as_yaml(text: str) -> bytes:
    """Return YAML with a checksum in a comment at its end."""
    return seal.sealed(f"{text}# {seal.EMPTY}\n".encode())


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write JSON with a checksum, completely or not at all."""
    put(path, as_json(data, indent=1))


def read_json(path: Path) -> Any:
    """Read a JSON file; raise a DataError if it is damaged."""
    try:
        return from_json(read_bytes(path), path)
    except (ValueError, RecursionError) as error:
        what = f"not readable as JSON ({one_line(error)}). Delete it and run the stage again."
        raise DataError(f"{path}: {what}") from error


@contextmanager
def recorded(path: Path) -> Iterator[None]:
    """Raise a DataError if the block finds something else in a file than hepflow writes there."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        why = f"{type(error).__name__}: {one_line(error)}"
        what = f"not what hepflow writes there ({why}). Delete it and run the stage again."
        raise DataError(f"{path}: {what}") from error


def inside(name: str) -> str:
    """Return a path in a record, or raise a ValueError if it leaves the folder of the record."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
        raise ValueError(f"{name!r} is no place in the folder")
    return name


def plain_name(name: str) -> str:
    """Return the name of a file or folder in a record; a path is a ValueError."""
    if "/" in inside(name):
        raise ValueError(f"{name!r} is a path, not a name")
    return name


def write_csv(
    path: Path, rows: Iterable[Sequence[object]], end: str = "\r\n", *, flush: bool = True
) -> None:
    """Write rows as CSV completely or not at all; spreadsheets take no name in it for a formula.

    For ``flush``, see `hepflow.system.publishing.publish`.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator=end).writerows(map(_no_formula, row) for row in rows)
    put(path, text.getvalue().encode(), flush=flush)


def _no_formula(cell: object) -> object:
    """Return a cell, with a quote in front of a text that a spreadsheet would compute."""
    if not isinstance(cell, str):
        return cell
    text = visible(cell)
    if text[:1] not in tuple("=+-@") or len(text) < 2:
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text
