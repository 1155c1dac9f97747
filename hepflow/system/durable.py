"""Flush files and folders to the disk, so that they survive a power cut.

A rename keeps a file whole for readers, but a disk may have the new name before the content, or
neither, until both were flushed. So a file's content is flushed before it gets its name, and the
folder after that; the entry of a new folder, in the folder above. Without flushing, a file that was
written and named long ago may be empty, or gone, after a power cut, while a record that says it is
there survives.
"""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SWITCH = "HEPFLOW_FSYNC"
"""Environment variable: 0 leaves it to the system when to flush, as in tests on a slow disk."""
_AT_A_TIME = 16
_NOT_OF_FOLDERS = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM}
"""Errors of file systems that cannot flush a folder, and of folders that may not be listed."""


def enabled() -> bool:
    """Return whether files are flushed to the disk."""
    return os.environ.get(SWITCH, "1") != "0"


def flush_file(path: Path) -> None:
    """Return when the content of a local file is on the disk."""
    if enabled():
        _flush(path, os.O_RDONLY)


def flush_folder(path: Path) -> None:
    """Return when the names in a local folder are on the disk, where the file system can."""
    if enabled():
        try:
            _flush(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            if error.errno not in _NOT_OF_FOLDERS:
                raise


def flush_below(folder: Path) -> None:
    """Return when all files in a local folder, and their names, are on the disk."""
    if enabled():
        with ThreadPoolExecutor(_AT_A_TIME) as pool:  # the disk writes them together
            list(pool.map(flush_file, (path for path in folder.iterdir() if path.is_file())))
        flush_folder(folder)


def make_folders(path: Path) -> None:
    """Create a local folder and those above it, and flush the entry of each new one."""
    new = []
    for place in (path, *path.parents):
        if place.is_dir():
            break
        new.append(place)
    path.mkdir(parents=True, exist_ok=True)
    for place in reversed(new):
        flush_folder(place.parent)


def _flush(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
