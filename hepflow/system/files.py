"""Files that are there whole or not at all."""

import errno
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hepflow.errors import ConfigError, DataError

OF_THE_DISK = {
    errno.EACCES,
    errno.EPERM,
    errno.EEXIST,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENOTDIR,
    errno.EISDIR,
}
"""Errors of the system's that are the output's, and no bug."""


def require_folder(path: Path) -> None:
    """Refuse an output folder in whose place, or in that of a folder above it, there is a file.

    Raises
    ------
    ConfigError
        There is.
    """
    taken = next(
        (place for place in (path, *path.parents) if place.exists() and not place.is_dir()), None
    )
    if taken is not None:
        where = "" if taken == path else f"{taken} "
        raise ConfigError(
            f"{path}: {where}is a file, not a folder. Remove it, or choose another output."
        )


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
        raise ConfigError(
            f"{path}: nothing can be made in {path.parent}. Choose another output."
        ) from error


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a path to write to: it becomes the file if the block succeeds, and is removed if not.

    Each writer has a name of its own, ``.NAME.HEX.part``: two writers of the same file do not mix.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
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
        raise DataError(
            f"{path}: not readable as JSON ({error}). Delete it and run the stage again."
        ) from error
