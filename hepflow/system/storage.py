"""Files on a disk of this machine and in remote stores: whole, claimed, listed, removed.

Only what stores do in different ways is here; the rest are methods of a path (see `places`), and
`byte_ranges` reads parts of files.

    store         a file appears whole by         a name is claimed by
    local disk    rename                          a hard link
    S3 and alike  one upload                      a PUT with If-None-Match
    HDFS          rename with overwrite           rename without
    XRootD        removal of the old, rename      open of a new file

Nothing is committed by renaming folders: data files have names of their own, and a record that
names them is put last. On XRootD a reader may find no record for an instant, never half of one.
"""

import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any, cast

from upath import UPath

from hepflow.system.places import TIMEOUT_S
from hepflow.system.remote import as_io_error, is_remote
from hepflow.system.store_options import WORK_DIR

_AT_ONCE = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oci", "oss", "memory"}
"""Stores in which an upload is visible when it is complete, and not before."""
_VERSIONS: tuple[str, ...] = ("mtime", "modification_time", "ETag", "etag", "checksum")
_VERSIONS += ("LastModified", "Last-Modified", "last_modified", "created")
"""Keys of an fsspec info; the first found is the version of a file."""
_COPY_BYTES = 8 << 20
_UPLOADS = 16


def system_of(path: Path) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, and the path in it."""
    url = cast(UPath, path)
    return url.fs, url.path


def make_folder(path: Path) -> None:
    """Create a folder and those above it, where the store has folders."""
    if not is_remote(path):
        path.mkdir(parents=True, exist_ok=True)
        return
    system, where = system_of(path)
    if cast(UPath, path).protocol not in _AT_ONCE and not system.isdir(where):
        system.makedirs(where, exist_ok=True)


def listed(folder: Path, pattern: str = "*") -> list[Path]:
    """Return the files and folders of a pattern such as ``*/*.parquet``, sorted; often none.

    Unlike ``glob``, in which file systems differ on missing folders, on those at the top, and on
    names with brackets. Names that start with a dot match like others.
    """
    first, _, rest = pattern.partition("/")
    found = [one for one in _entries(folder) if fnmatchcase(one[0], first)]
    if not rest:
        return [folder / name for name, _ in found]
    return [one for name, is_folder in found if is_folder for one in listed(folder / name, rest)]


def _entries(folder: Path) -> list[tuple[str, bool]]:
    """Return the sorted names in a folder, and whether each is a folder; none if it is missing."""
    try:
        if not is_remote(folder):
            with os.scandir(folder) as found:
                return sorted((one.name, one.is_dir()) for one in found)
        system, where = system_of(folder)
        infos = system.ls(where, detail=True)
    except OSError as error:
        if isinstance(as_io_error(error), (FileNotFoundError, NotADirectoryError)):
            return []
        raise
    here = where.strip("/")
    kinds = {info["name"].strip("/"): info["type"] == "directory" for info in infos}
    kinds.pop(here, None)  # a file lists itself, and some stores list the folder
    return sorted((PurePosixPath(name).name, kind) for name, kind in kinds.items())


def read_bytes(path: Path) -> bytes:
    """Return the content of a file that others may replace meanwhile: the old or the new one."""
    if not is_remote(path) or cast(UPath, path).protocol == "root":  # which keeps files open
        return path.read_bytes()
    system, where = system_of(path)
    # one request, unlike that of an opened file
    return bytes(system.cat_file(where, start=None, end=None))


def read_text(path: Path) -> str:
    """Return the text of a file that others may replace meanwhile: the old or the new one."""
    return read_bytes(path).decode()


def version_of(path: Path) -> str:
    """Return what changes whenever a file is written: a time, or a checksum of the store's."""
    if not is_remote(path):
        return str(path.stat().st_mtime_ns)
    system, where = system_of(path)
    return version_in(system.info(where))


def version_in(info: Mapping[str, Any]) -> str:
    """Return a file's version from what fsspec says of it; empty if the store has none."""
    return next((str(info[key]) for key in _VERSIONS if info.get(key) is not None), "")


def sizes_below(folder: Path) -> dict[str, int]:
    """Return the bytes of every file below a folder, by its path in there."""
    if is_remote(folder):
        system, where = system_of(folder)
        top, found = f"{where.strip('/')}/", system.find(where, detail=True)
        return {n.strip("/").removeprefix(top): int(found[n]["size"] or 0) for n in found}
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def fetch(path: Path, target: Path) -> None:
    """Copy a file to a local path."""
    if is_remote(path):
        system, where = system_of(path)
        system.get_file(where, str(target))
    else:
        shutil.copyfile(path, target)


def remove_tree(path: Path) -> None:
    """Remove a folder with all that it holds, if it is there."""
    if not is_remote(path):
        shutil.rmtree(path, ignore_errors=True)
        return
    system, where = system_of(path)
    with contextlib.suppress(FileNotFoundError):
        if cast(UPath, path).protocol != "root":
            system.rm(where, recursive=True)
            return
        found = system.find(where, withdirs=True, detail=True)  # its rm() fails on folders
        for name, info in sorted(found.items(), reverse=True):
            (system.rmdir if info["type"] == "directory" else system.rm_file)(name)
        if system.isdir(where):
            system.rmdir(where)


def remove_empty_folder(path: Path) -> bool:
    """Remove a folder, and return whether it is gone; one that holds something stays."""
    if listed(path):
        return False
    if is_remote(path):
        remove_tree(path)
    elif path.exists():
        with contextlib.suppress(OSError):  # somebody has just put a file there
            path.rmdir()
    return not path.exists()


def remove(path: Path) -> None:
    """Remove a file, if it is there."""
    if not is_remote(path):
        path.unlink(missing_ok=True)
        return
    system, where = system_of(path)
    try:
        system.rm_file(where)
    except OSError:
        if path.exists():
            raise


def draft(path: Path) -> Path:
    """Return a local path of its own for content that `publish` will put at ``path``."""
    name = f".{path.name}.{uuid.uuid4().hex}.part"
    return scratch() / name if is_remote(path) else path.with_name(name)


def scratch() -> Path:
    """Return the folder of this machine for what is on its way to a store."""
    folder = Path(os.environ.get(WORK_DIR) or tempfile.gettempdir())
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def new_folder() -> Path:
    """Return a new folder in `scratch`."""
    return Path(tempfile.mkdtemp(prefix="hepflow-", dir=scratch()))


@contextmanager
def filled(folder: Path) -> Iterator[Path]:
    """Yield a local folder for many files: the folder itself, or a new one that is then uploaded.

    Several uploads at a time hide the time that each one waits for the store.
    """
    if not is_remote(folder):
        make_folder(folder)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="hepflow-", dir=scratch()) as new:
        yield Path(new)
        publish_folder(Path(new), folder)


def publish(written: Path, path: Path) -> None:
    """Put a local file at ``path``: readers see the old one or the new one, whole."""
    if not is_remote(path):
        written.replace(path)
        return
    system, where = system_of(path)
    if cast(UPath, path).protocol in _AT_ONCE:
        system.put_file(str(written), where)
    else:
        with _uploaded(written, path) as hidden:
            _rename(system, hidden, where, cast(UPath, path).protocol)
    written.unlink()


def publish_folder(written: Path, path: Path) -> None:
    """Put a local folder of files at ``path``; a record that is put afterwards says that it is all.

    On a disk it is renamed, and elsewhere its files are uploaded at the same time.
    """
    if is_remote(path):
        files = [file for file in written.rglob("*") if file.is_file()]
        with ThreadPoolExecutor(_UPLOADS) as pool:
            places = [path / file.relative_to(written).as_posix() for file in files]
            list(pool.map(publish, files, places))
        return
    make_folder(path.parent)
    try:
        written.rename(path)
    except OSError:  # another writer of the same folder has just put it there
        remove_tree(path)
        written.rename(path)


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
        remove(hidden)


def _rename(system: Any, source: str, target: str, protocol: str) -> None:
    if protocol in {"hdfs", "viewfs"}:
        system.mv(source, target, overwrite=True)
        return
    with contextlib.suppress(FileNotFoundError):
        if system.exists(target):
            system.rm_file(target)
    system.mv(source, target)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a local path to write to: it becomes the file if the block succeeds.

    Each writer has a draft of its own: two writers of the same file do not mix.
    """
    written = draft(path)
    try:
        yield written
        publish(written, path)
    finally:
        written.unlink(missing_ok=True)


def put(path: Path, content: bytes) -> None:
    """Write a file whole: readers see the old content or the new one."""
    with whole(path) as written:
        written.write_bytes(content)


def rewrite(path: Path, content: bytes) -> None:
    """Replace a small file without its name ever missing, though on XRootD not at once."""
    if is_remote(path) and cast(UPath, path).protocol == "root":
        system, where = system_of(path)
        with system.open(where, "wb") as file:
            file.write(content)
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
        return _claim_remote(written, path)
    except FileExistsError:
        return False
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
