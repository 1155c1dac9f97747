"""One writer at a time: a lock next to an output, released however the process ends.

On a disk the lock is flock's, not the existence of the file, so a stale file blocks nobody. The
filelock package neither names the holder nor removes the file.

A remote store has no such locks. There a run claims ``.NAME.lock.N`` and renews what it says every
`RENEW_S`. A claim that has not changed for `STALE_S` belongs to a run that died, and the next run
claims ``.NAME.lock.N+1``: no claim is ever taken away, so two runs cannot both replace a dead one.
"""

import contextlib
import fcntl
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from hepflow.errors import DataError
from hepflow.system.files import OUTPUT_ERRORS, makeable, require_folder
from hepflow.system.processes import runs
from hepflow.system.publishing import claim, remove_drafts, rewrite
from hepflow.system.remote import is_remote
from hepflow.system.storage import listed, make_folder, read_text, remove, require_no_links

log = logging.getLogger(__name__)
RENEW_S, STALE_S = 10.0, 40.0


@contextlib.contextmanager
def exclusive(output: Path, *own: str) -> Iterator[None]:
    """Hold the lock of an output folder, a hidden file next to it; a DataError names its holder.

    Drafts of killed runs in it are removed. Of its ``own`` folders and files, none may be a link
    that leads out of it. Folders that are created here and empty at the end are removed.
    """
    if is_remote(output):
        with _claimed(output):
            remove_drafts(output)
            yield
        return
    require_folder(output)
    require_no_links(output, own)
    created = [place for place in (output, *output.parents) if not place.exists()]
    path = output.parent / f".{output.name}.lock"
    with makeable(output):
        make_folder(output.parent)
        descriptor = _acquire(path, output)
    try:
        remove_drafts(output)
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
        # a link of this name, which others can guess, would have its target overwritten
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
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


@contextlib.contextmanager
def _claimed(output: Path) -> Iterator[None]:
    """Hold the claim of a remote output; another run's is waited for until it is known to live."""
    make_folder(output.parent)
    before = {path: _last_words(path, output) for path in _claims(output)}
    if None in before.values():
        raise _held(max(before), output)
    number = 1 + max((int(path.suffix[1:]) for path in before), default=0)
    own = output.parent / f".{output.name}.lock.{number:06d}"
    if not claim(own, _holder()):
        raise _held(own, output)
    done = threading.Event()
    renewer = threading.Thread(target=_renew, args=(own, done), name="hepflow-lock", daemon=True)
    try:
        # Others came at the same time; one may have the number of a run that has ended since.
        found = [path for path in _claims(output) if path != own]
        if others := [p for p in found if p not in before or _said(p) not in ("", before[p])]:
            raise _held(others[0], output)
        for path in before:
            remove(path)
        renewer.start()
        yield
        if _is_gone(own):
            what = "another run took it over, as this one was cut off. Run the same command again"
            raise DataError(f"{output}: {what}.")
    finally:
        done.set()
        if renewer.is_alive():
            renewer.join()
        remove(own)


def _claims(output: Path) -> list[Path]:
    beginning = f".{output.name}.lock."
    return [path for path in listed(output.parent) if path.name.startswith(beginning)]


def _holder() -> str:
    # unique: a claim that is there, with the same words, is taken for one's own (see `claim`)
    seen = f"seen {time.time():.3f}, {uuid.uuid4().hex}"
    return f"process {os.getpid()} on {socket.gethostname()}, {seen}"


def _said(path: Path) -> str:
    """Return what a claim says, or nothing if it is gone."""
    for _ in range(10):
        try:
            if said := read_text(path):
                return said
        except OSError:  # XRootD's has no type for a missing file
            if path.exists():
                raise
            break
        time.sleep(0.1)  # on XRootD it is empty for an instant, while it is written
    return ""


def _renew(path: Path, done: threading.Event) -> None:
    while not done.wait(RENEW_S):
        try:
            if _is_gone(path):  # another run took it over
                return
            rewrite(path, _holder().encode())
        except Exception as error:  # noqa: BLE001 - whatever a store raises, the run goes on
            log.warning("%s: could not be renewed (%s)", path, error)


def _is_gone(path: Path) -> bool:
    """Return whether a claim is missing, twice in a row: a store may err once."""
    if path.exists():
        return False
    time.sleep(min(1.0, RENEW_S))
    return not path.exists()


def _last_words(path: Path, output: Path) -> str | None:
    """Return what a claim said if its holder has ended, or None; that takes up to `STALE_S`."""
    said, deadline = _said(path), time.monotonic() + STALE_S
    if not said and not path.exists():
        return said
    pid, host = said.removeprefix("process ").partition(",")[0].partition(" on ")[::2]
    if host == socket.gethostname() and pid.isdecimal() and not runs(int(pid)):
        return said
    log.info("%s: another run was writing it; waiting whether it still does", output)
    while time.monotonic() < deadline:
        time.sleep(1)
        if _said(path) != said:
            return None if path.exists() else said
    return said


def _held(path: Path, output: Path) -> DataError:
    holder = _said(path).partition(", seen")[0] or "it has just ended"
    advice = "Wait for it, stop it, or choose another output."
    return DataError(f"{output}: another run is writing it ({holder}). {advice}")
