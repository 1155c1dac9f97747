"""Files that appear whole, on a disk of this machine and in remote stores; and claims of names.

    store         a file appears whole by         a name is claimed by
    local disk    rename                          a hard link
    S3 and alike  one upload                      a PUT with If-None-Match
    HDFS          rename with overwrite           rename without
    XRootD        removal of the old, rename      open of a new file

On a disk, content is flushed before a file gets its name, and the name after that (`durable`).
Nothing is committed by renaming folders: data files have names of their own, and a record that
names them is put last. On XRootD a reader may find no record for an instant, never half of one.
"""

import atexit
import contextlib
import os
import shutil
import socket
import tempfile
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from upath import UPath

from hepflow.system import durable
from hepflow.system.patience import patiently
from hepflow.system.places import TIMEOUT_S
from hepflow.system.processes import runs
from hepflow.system.remote import is_remote
from hepflow.system.storage import (
    AT_ONCE,
    listed,
    make_folder,
    private_folder,
    read_text,
    remove_all,
    system_of,
)
from hepflow.system.store_options import WORK_DIR

_COPY_BYTES = 8 << 20
_UPLOADS = 16
_DRAFT = f".*.{'[0-9a-f]' * 32}.part"


def draft(path: Path) -> Path:
    """Return a local path of its own for content that `publish` will put at ``path``."""
    name = f".{path.name}.{uuid.uuid4().hex}.part"
    return scratch() / name if is_remote(path) else path.with_name(name)


def remove_drafts(folder: Path) -> None:
    """Remove drafts that killed processes have left in a folder and in those right below it.

    Stores in which an upload is visible when it is complete have none.
    """
    if is_remote(folder) and cast(UPath, folder).protocol in AT_ONCE:
        return
    for pattern in (_DRAFT, f"*/{_DRAFT}"):
        remove_all(listed(folder, pattern, links=False))


def scratch(disk: Path | None = None) -> Path:
    """Return the folder of this process for what is on its way to a store, or within ``disk``.

    By default it is on a disk of this machine. Only its user sees what is in it, and it is removed
    at the end of the process; that of a process that was killed, by the next process there.
    """
    where = disk or os.environ.get(WORK_DIR) or tempfile.gettempdir()
    folder = _scratch(str(where), os.getpid())
    return private_folder(folder)  # again, if somebody has tidied up


@cache
def _scratch(disk: str, pid: int) -> Path:
    Path(disk).mkdir(parents=True, exist_ok=True)
    host = socket.gethostname()
    for left in Path(disk).glob("hepflow-*-*-*"):
        own, _, of_host = left.name.removeprefix("hepflow-").rpartition("-")[0].partition("-")
        if of_host == host and own.isdecimal() and not runs(int(own)):
            with contextlib.suppress(FileNotFoundError):  # another process removes it too
                if left.lstat().st_uid == os.geteuid():
                    shutil.rmtree(left, ignore_errors=True)
    folder = tempfile.mkdtemp(prefix=f"hepflow-{pid}-{host}-", dir=disk)
    atexit.register(_remove_own, folder, pid)
    return Path(folder)


def _remove_own(folder: str, pid: int) -> None:
    if pid == os.getpid():  # and not a fork of it
        shutil.rmtree(folder, ignore_errors=True)


def new_folder() -> Path:
    """Return a new folder in `scratch`."""
    return Path(tempfile.mkdtemp(dir=scratch()))


@contextmanager
def filled(folder: Path) -> Iterator[Path]:
    """Yield a local folder for many files: the folder itself, or a new one that is then uploaded.

    Several uploads at a time hide the time that each one waits for the store.
    """
    if not is_remote(folder):
        make_folder(folder)
        yield folder
        durable.flush_below(folder)  # at once, if they were put there without
        return
    with tempfile.TemporaryDirectory(dir=scratch()) as new:
        yield Path(new)
        publish_folder(Path(new), folder)


def publish(written: Path, path: Path, *, flush: bool = True) -> None:
    """Put a local file at ``path``: readers see the old one or the new one, whole.

    With ``flush``, so do those after a power cut, and from the return on, the new one.
    """
    if not is_remote(path):
        if flush:
            durable.flush_file(written)
        written.replace(path)
        if flush:
            durable.flush_folder(path.parent)
        return
    patiently(path, lambda: _upload(written, path))
    written.unlink()


def _upload(written: Path, path: Path) -> None:
    system, where = system_of(path)
    if cast(UPath, path).protocol in AT_ONCE:
        system.put_file(str(written), where)
        return
    with _uploaded(written, path) as hidden:
        _rename(system, hidden, where, cast(UPath, path).protocol)


def publish_folder(written: Path, path: Path) -> None:
    """Upload the files of a local folder to ``path``, many at the same time.

    A record that is put afterwards says that it is all.
    """
    files = [file for file in written.rglob("*") if file.is_file()]
    with ThreadPoolExecutor(_UPLOADS) as pool:
        places = [path / file.relative_to(written).as_posix() for file in files]
        list(pool.map(publish, files, places))


@contextmanager
def _uploaded(written: Path, path: Path) -> Iterator[str]:
    """Upload a file next to its place, and remove it if it is still there at the end."""
    hidden = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    make_folder(path.parent)
    system, where = system_of(hidden)
    try:
        with written.open("rb") as source, system.open(where, "wb") as target:
            shutil.copyfileobj(source, target, _COPY_BYTES)
        yield where
    finally:
        with contextlib.suppress(OSError):  # it was renamed, or the store is gone
            system.rm_file(where)


def _rename(system: Any, source: str, target: str, protocol: str) -> None:
    if protocol in {"hdfs", "viewfs"}:
        system.mv(source, target, overwrite=True)
        return
    with contextlib.suppress(FileNotFoundError):
        if system.exists(target):
            system.rm_file(target)
    system.mv(source, target)


@contextmanager
def whole(path: Path, *, flush: bool = True) -> Iterator[Path]:
    """Yield a local path to write to: it becomes the file if the block succeeds.

    Each writer has a draft of its own: two writers of the same file do not mix. For ``flush``, see
    `publish`.
    """
    written = draft(path)
    try:
        yield written
        publish(written, path, flush=flush)
    finally:
        written.unlink(missing_ok=True)


def put(path: Path, content: bytes, *, flush: bool = True) -> None:
    """Write a file whole: readers see the old content or the new one; ``flush`` as in `publish`."""
    with whole(path, flush=flush) as written:
        written.write_bytes(content)


def rewrite(path: Path, content: bytes) -> None:
    """Replace a small file without its name ever missing, though on XRootD not at once."""
    if is_remote(path) and cast(UPath, path).protocol == "root":
        system, where = system_of(path)

        def write() -> None:
            with system.open(where, "wb") as file:
                file.write(content)

        patiently(path, write)
    else:
        put(path, content)


def claim(path: Path, text: str) -> bool:
    """Create a file with a text, or return False if there is one: only one of many succeeds."""
    written = draft(path)
    written.write_text(text)
    try:
        if not is_remote(path):
            os.link(written, path)  # whole or not at all, and never over another claim
            return True
        return patiently(path, lambda: _claim_remote(written, path))
    except FileExistsError:  # perhaps our own, if its answer was lost
        return is_remote(path) and read_text(path) == text
    finally:
        written.unlink(missing_ok=True)


def _claim_remote(written: Path, path: Path) -> bool:
    system, where = system_of(path)
    protocol = cast(UPath, path).protocol
    if protocol in {"s3", "s3a", "memory"}:
        system.pipe_file(where, written.read_bytes(), mode="create")
        return True
    if protocol == "root":
        return _claim_on_xrootd(path, written.read_bytes())
    with _uploaded(written, path) as hidden:
        if system.exists(where):
            return False
        system.mv(hidden, where)
        return True


def _claim_on_xrootd(path: Path, content: bytes) -> bool:
    client, flags = import_module("XRootD.client"), import_module("XRootD.client.flags")
    make_folder(path.parent)
    file = client.File()
    status, _ = file.open(str(path), flags.OpenFlags.NEW, timeout=round(TIMEOUT_S))
    if not status.ok:
        if path.exists():
            return False
        raise OSError(f"{path}: {status.message.strip()}")
    status, _ = file.write(content)
    closed, _ = file.close()
    if not (status.ok and closed.ok):
        raise OSError(f"{path}: {status.message.strip()}")
    return True
