"""Files that are there whole or not at all."""

import errno
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hepflow.errors import ConfigError, DataError

OF_THE_DISK = {errno.EACCES, errno.EPERM, errno.EEXIST, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR}
"""Errors of the system's that are the output's, and no bug."""


def require_folder(path: Path) -> None:
    """Refuse an output folder in whose place, or in that of a folder above it, there is a file.

    Raises
    ------
    ConfigError
        There is.
    """
    taken = next((place for place in (path, *path.parents) if place.exists() and not place.is_dir()), None)
    if taken is not None:
        where = "" if taken == path else f"{taken} "
        msg = f"{path}: {where}is a file, not a folder. Remove it, or choose another output."
        raise ConfigError(msg)


@contextmanager
def makeable(path: Path) -> Iterator[None]:
    """Where folders above an output, and the first file there, are made.

    Raises
    ------
    ConfigError
        They cannot be: no folder is ever missing otherwise.
    """
    try:
        yield
    except FileNotFoundError as error:
        msg = f"{path}: nothing can be made in {path.parent}. Choose another output."
        raise ConfigError(msg) from error


def refuse_to_replace(output: Path, held: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse an output that holds what was made with other settings.

    Parameters
    ----------
    output : Path
    held : str
        What it holds.
    before, now : mapping
        Setting -> value; one that either does not name is not compared.

    Raises
    ------
    ConfigError
        A setting differs.
    """
    named = [f"{name} {before[name]} (now {value})" for name, value in now.items() if name in before and before[name] != value]
    if named:
        msg = f"{output} holds {held} with {', '.join(named)}. Give another --output, or --overwrite to replace it."
        raise ConfigError(msg)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A place to write a file to, which becomes the file when the block ends well, and nothing when it does not."""
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, data: Any) -> None:
    """Write JSON whole or not at all."""
    with whole(path) as part:
        part.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON that `write_json` wrote.

    Raises
    ------
    DataError
        The file is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        msg = f"{path}: not readable as JSON ({error}). Delete it and run the stage again."
        raise DataError(msg) from error
