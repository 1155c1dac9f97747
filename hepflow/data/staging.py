"""Copies of feature stores on a disk of this machine, for trainings that read them many times.

    DIR/hepflow-UID/            private, as others may write to DIR
        NAME-HASH.zarr/         a copy; the hash is of the store's place and metadata
            _staged.json        name -> bytes of each file, written last
        .NAME-HASH.zarr.lock    shared by the processes that use it, so that nobody removes it
        .NAME-HASH.zarr.copying held by the process that copies

The first process on a machine copies; the others wait for it. A killed copy is continued by the
next process. If the disk is full, the copies that nobody uses go, the longest unused first.
"""

import errno
import fcntl
import logging
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from rich.filesize import decimal

from hepflow.data.provenance import digest
from hepflow.data.store import EventStore
from hepflow.errors import DataError
from hepflow.system.files import read_json, write_json
from hepflow.system.publishing import whole
from hepflow.system.storage import fetch, make_folder, private_folder, remove_tree, sizes_below
from hepflow.system.terminal import bar

log = logging.getLogger(__name__)
RECORD = "_staged.json"
_DOWNLOADS = 16
_FULL = {errno.ENOSPC, errno.EDQUOT}
_HELD: list[IO[str]] = []
"""Locks of the copies that this process reads; the system releases them when it ends."""


def staged(store: EventStore, folder: Path) -> EventStore:
    """Return a copy of a store in a folder of this machine, or the store if it does not fit."""
    folder = private_folder(folder / f"hepflow-{os.geteuid()}")
    copy = folder / f"{store.path.stem}-{digest(str(store.path), store.attributes)}.zarr"
    used = _lock_of(copy).open("a")
    fcntl.flock(used, fcntl.LOCK_SH)
    with copy.with_name(f".{copy.name}.copying").open("a") as copying:
        fcntl.flock(copying, fcntl.LOCK_EX)
        if not _is_whole(copy) and not _copied(store, copy):
            used.close()
            return store
    _HELD.append(used)
    os.utime(copy / RECORD)
    return EventStore.open(copy)


def _lock_of(copy: Path) -> Path:
    return copy.with_name(f".{copy.name}.lock")


def _is_whole(copy: Path) -> bool:
    if not (copy / RECORD).is_file():
        return False
    found = sizes_below(copy)
    return all(found.get(name) == size for name, size in read_json(copy / RECORD).items())


def _copied(store: EventStore, copy: Path) -> bool:
    """Copy what is missing, and return whether there was room for it."""
    sizes, found = sizes_below(store.path), sizes_below(copy)
    for name in found.keys() - sizes.keys():  # drafts of a killed process
        (copy / name).unlink()
    missing = {name: size for name, size in sizes.items() if found.get(name) != size}
    needed = sum(missing.values())
    try:
        if not _make_room(copy, needed):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        _copy(store, copy, missing)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        text = "%s: no room for %s in %s; the store is read where it is"
        log.warning(text, store.path, decimal(needed), copy.parent)
        return False
    write_json(copy / RECORD, sizes)
    log.info("copied %s (%s) to %s", store.path, decimal(sum(sizes.values())), copy)
    return True


def _copy(store: EventStore, copy: Path, sizes: Mapping[str, int]) -> None:
    def one(name: str) -> int:
        make_folder((copy / name).parent)
        with whole(copy / name) as part:
            fetch(store.path / name, part)
            if (size := part.stat().st_size) != sizes[name]:
                what = f"{size} bytes arrived of {sizes[name]}. Run the same command again"
                raise DataError(f"{store.path / name}: {what}.")
        return size

    with ThreadPoolExecutor(_DOWNLOADS) as pool, bar("copying", sum(sizes.values())) as progress:
        for size in pool.map(one, sizes):
            progress.advance(size)


def _make_room(copy: Path, needed: int) -> bool:
    """Remove unused copies until there is room, and return whether there is."""
    folder = copy.parent
    others = (one for one in folder.glob("*.zarr") if one != copy and _lock_of(one).is_file())
    for other in sorted(others, key=_last_use):
        if shutil.disk_usage(folder).free >= needed:
            break
        with _lock_of(other).open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # somebody reads it
                continue
            log.info("removing %s: the disk is full", other)
            remove_tree(other)
    return shutil.disk_usage(folder).free >= needed


def _last_use(copy: Path) -> float:
    record = copy / RECORD
    return (record if record.is_file() else copy).stat().st_mtime
