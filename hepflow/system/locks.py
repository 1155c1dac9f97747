"""One writer at a time: a lock next to an output, released however the process ends.

The lock is flock's, not the existence of the file, so a stale file blocks nobody. The filelock
package neither names the holder nor removes the file.
"""

import contextlib
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from hepflow.errors import DataError
from hepflow.system.files import OUTPUT_ERRORS, makeable, require_folder

log = logging.getLogger(__name__)


@contextlib.contextmanager
def exclusive(output: Path) -> Iterator[None]:
    """Hold the lock of an output folder, a hidden file next to it; a DataError names its holder.

    Folders that are created here and empty at the end are removed.
    """
    require_folder(output)
    created = [place for place in (output, *output.parents) if not place.exists()]
    path = output.parent / f".{output.name}.lock"
    with makeable(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _acquire(path, output)
    try:
        yield
    except OSError as error:
        if error.errno in OUTPUT_ERRORS and error.filename is None:  # such as a full disk
            error.filename = str(output)
        raise
    finally:
        path.unlink(missing_ok=True)  # while it is held, see _acquire
        os.close(descriptor)
        for place in created:
            with contextlib.suppress(OSError):  # not empty, or never created
                place.rmdir()


def _acquire(path: Path, output: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(descriptor, 200).decode(errors="replace").strip() or "just started"
            os.close(descriptor)
            advice = "Wait for it, stop it, or choose another output."
            raise DataError(f"{output}: another run is writing it ({holder}). {advice}") from error
        except OSError as error:
            message = "%s: this file system does not support locks (%s). Start only one run there."
            log.warning(message, path.parent, error)
            return descriptor
        # The previous holder may have removed the file between open and flock: then this lock
        # excludes nobody, and the next attempt creates a new file.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
                return descriptor
        os.close(descriptor)
