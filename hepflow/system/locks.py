"""One writer at a time: a lock beside an output that the operating system releases with the process, however that ends."""

import contextlib
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from hepflow.errors import DataError
from hepflow.system.files import OF_THE_DISK, makeable, require_folder

log = logging.getLogger(__name__)


@contextlib.contextmanager
def exclusive(output: Path) -> Iterator[None]:
    """Hold the lock of an output. Folders that stay empty, of those made for it, are removed in the end.

    Parameters
    ----------
    output : Path
        The folder that is about to be written; the lock is a hidden file beside it.

    Raises
    ------
    ConfigError
        It cannot be a folder.
    DataError
        Another process holds it.
    """
    require_folder(output)
    made = [place for place in (output, *output.parents) if not place.exists()]
    path = output.parent / f".{output.name}.lock"
    with makeable(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _acquire(path, output)
    try:
        yield
    except OSError as error:
        if error.errno in OF_THE_DISK and error.filename is None:  # such as that of a full disk
            error.filename = str(output)
        raise
    finally:
        path.unlink(
            missing_ok=True
        )  # while it is held: who waits for it finds out below that it is gone
        os.close(descriptor)
        for place in made:
            with contextlib.suppress(OSError):  # it holds something, or was never made
                place.rmdir()


def _acquire(path: Path, output: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = (
                os.read(descriptor, 200).decode(errors="replace").strip()
                or "a process that has just started"
            )
            os.close(descriptor)
            raise DataError(
                f"{output}: another run is writing it ({holder}). Wait for it, stop it, or choose another output."
            ) from error
        except OSError as error:
            log.warning(
                "%s: this file system has no locks (%s): see to it yourself that only one run writes there",
                path.parent,
                error,
            )
            return descriptor
        if _is_current(descriptor, path):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            return descriptor
        os.close(descriptor)


def _is_current(descriptor: int, path: Path) -> bool:
    """Whether the path still is the locked file: an earlier holder removes it."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
