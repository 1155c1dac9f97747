"""Files on a disk of this machine and in remote stores: listed, read, fetched, removed.

Only what stores do in different ways is here and in `publishing`, which writes; the rest are
methods of a path (see `places`), and `byte_ranges` reads parts of files.
"""

import contextlib
import os
import shutil
import stat
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from glob import has_magic
from pathlib import Path, PurePosixPath
from typing import Any, cast

from upath import UPath

from hepflow.errors import DataError
from hepflow.system import durable
from hepflow.system.patience import patiently
from hepflow.system.remote import is_remote

AT_ONCE = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oci", "oss", "memory"}
"""Stores without folders, in which an upload is visible when it is complete, and not before."""
_AT_A_TIME = 16  # requests
_VERSIONS: tuple[str, ...] = ("mtime", "modification_time", "ETag", "etag", "checksum")
_VERSIONS += ("LastModified", "Last-Modified", "last_modified", "created")
"""Keys of an fsspec info; the first found is the version of a file."""


def system_of(path: Path) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, and the path in it."""
    url = cast(UPath, path)
    return url.fs, url.path


def make_folder(path: Path) -> None:
    """Create a folder and those above it, where the store has folders."""
    if not is_remote(path):
        durable.make_folders(path)
        return
    system, where = system_of(path)
    if cast(UPath, path).protocol not in AT_ONCE and not path.is_dir():
        patiently(path, lambda: system.makedirs(where, exist_ok=True))


def private_folder(path: Path) -> Path:
    """Return a folder that only this user enters; somebody else's, or a link, is a DataError.

    Others may make folders in its place, such as ``/tmp``, and know its name.
    """
    path.mkdir(0o700, parents=True, exist_ok=True)
    about = path.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid():
        raise DataError(f"{path}: a link, or another user's folder. Choose another place.")
    if about.st_mode & 0o077:
        path.chmod(0o700)
    return path


def user_cache(name: str) -> Path:
    """Return a folder of this user's cache, as `private_folder` does; without a home, an error."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return private_folder(cache.expanduser() / "hepflow" / name)


def require_no_links(output: Path, names: Iterable[str]) -> None:
    """Raise a DataError if a folder or file of an output is a link that leads out of it."""
    for name in () if is_remote(output) else names:
        if not (output / name).resolve().is_relative_to(output.resolve()):
            what = "a link that leads out of the output, where hepflow would write and remove files"
            raise DataError(f"{output / name}: {what}. Remove it, or choose another output.")


def listed(folder: Path, pattern: str = "*", *, links: bool = True) -> list[Path]:
    """Return the files and folders of a pattern such as ``*/*.parquet``, sorted; often none.

    Unlike ``glob``, in which file systems differ on missing folders, on those at the top, and on
    names with brackets. Names that start with a dot match like others. Without ``links``, linked
    folders are not entered: for those who remove what they find.
    """
    first, _, rest = pattern.partition("/")
    found = [one for one in _entries(folder, links=links) if fnmatchcase(one[0], first)]
    if not rest:
        return [folder / name for name, _ in found]
    below = [folder / name for name, is_folder in found if is_folder]
    return [one for inner in below for one in listed(inner, rest, links=links)]


def _entries(folder: Path, *, links: bool) -> list[tuple[str, bool]]:
    """Return the sorted names in a folder, and whether each is a folder; none if it is missing."""
    try:
        if not is_remote(folder):
            with os.scandir(folder) as found:
                return sorted((one.name, one.is_dir(follow_symlinks=links)) for one in found)
        infos = _remote_entries(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted((name, info["type"] == "directory") for name, info in infos.items())


def _remote_entries(folder: Path) -> dict[str, Mapping[str, Any]]:
    """Return what fsspec reports of each file and folder in a remote folder, by name."""
    system, where = system_of(folder)
    found = patiently(folder, lambda: system.ls(where, detail=True))
    infos = {info["name"].strip("/"): info for info in found}
    infos.pop(where.strip("/"), None)  # a file lists itself, and some stores list the folder
    names = ((PurePosixPath(name).name, info) for name, info in infos.items())
    return {name: info for name, info in names if name != ".."}  # an object's name may be anything


def flush_names(folder: Path) -> None:
    """Return when the names in a folder, if it is on a disk of this machine, are on that disk."""
    if not is_remote(folder):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            durable.flush_folder(folder)


def read_bytes(path: Path) -> bytes:
    """Return the content of a file that others may replace meanwhile: the old or the new one."""
    if not is_remote(path):
        return path.read_bytes()
    if cast(UPath, path).protocol == "root":  # whose cat_file keeps files open
        return patiently(path, path.read_bytes)
    system, where = system_of(path)
    # one request, unlike that of an opened file
    return patiently(path, lambda: bytes(system.cat_file(where, start=None, end=None)))


def read_text(path: Path) -> str:
    """Return the text of a file that others may replace meanwhile: the old or the new one."""
    return read_bytes(path).decode()


def version_of(path: Path) -> str:
    """Return what changes whenever a file is written: a time, or a checksum of the store's."""
    if not is_remote(path):
        return str(path.stat().st_mtime_ns)
    system, where = system_of(path)
    return version_in(patiently(path, lambda: system.info(where)))


def version_in(info: Mapping[str, Any]) -> str:
    """Return a file's version from what fsspec says of it; empty if the store has none."""
    return next((str(info[key]) for key in _VERSIONS if info.get(key) is not None), "")


def sizes_below(folder: Path) -> dict[str, int]:
    """Return the bytes of every file below a folder, by its path in there."""
    if is_remote(folder):
        system, where = system_of(folder)
        top = f"{where.strip('/')}/"
        found = patiently(folder, lambda: system.find(where, detail=True))
        return {_below(n.strip("/"), top): int(found[n]["size"] or 0) for n in found}
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def file_sizes(folder: Path, names: Iterable[str]) -> dict[str, int]:
    """Return the bytes of those of some files below a folder that are there.

    That takes one listing of each folder in which a file would be. Linked folders are entered.
    """
    wanted = set(names)
    found: dict[str, int] = {}
    for parent in {PurePosixPath(name).parent for name in wanted}:
        try:
            sizes = _sizes_in(folder.joinpath(*parent.parts))
        except (FileNotFoundError, NotADirectoryError):
            continue
        found |= {str(parent / name): n_bytes for name, n_bytes in sizes.items()}
    return {name: n_bytes for name, n_bytes in found.items() if name in wanted}


def _sizes_in(folder: Path) -> dict[str, int]:
    if is_remote(folder):
        infos = _remote_entries(folder).items()
        return {name: int(i["size"] or 0) for name, i in infos if i["type"] != "directory"}
    with os.scandir(folder) as found:
        return {one.name: one.stat().st_size for one in found if one.is_file()}


def _below(name: str, top: str) -> str:
    """Return a name relative to the folder in which a store lists it."""
    below = name.removeprefix(top)
    if ".." in PurePosixPath(below).parts:  # an object's name may be anything
        raise DataError(f"{name}: a name that leaves its folder. Rename the object.")
    return below


def fetch(path: Path, target: Path) -> None:
    """Copy a file to a local path."""
    if is_remote(path):
        system, where = system_of(path)
        patiently(path, lambda: system.get_file(where, str(target)))
    else:
        shutil.copyfile(path, target)


def remove_tree(path: Path) -> None:
    """Remove a folder with all that it holds, if it is there."""
    if is_remote(path):
        with contextlib.suppress(FileNotFoundError):
            patiently(path, lambda: _remove_remote_tree(path))
    else:
        shutil.rmtree(path, ignore_errors=True)
        flush_names(path.parent)


def _remove_remote_tree(path: Path) -> None:
    system, where = system_of(path)
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


def remove_all(paths: Iterable[Path]) -> None:
    """Remove files of one store, if they are there: several at a time, on S3 in few requests.

    They stay removed after a power cut.
    """
    gone = list(paths)
    if gone and is_remote(gone[0]) and cast(UPath, gone[0]).protocol in {"s3", "s3a"}:
        plain = [path for path in gone if not has_magic(str(path))]  # s3fs expands patterns
        names = [system_of(path)[1] for path in plain]
        if names:
            patiently(gone[0], lambda: system_of(gone[0])[0].rm(names))
        gone = [path for path in gone if has_magic(str(path))]
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        together = pool.map if gone and is_remote(gone[0]) else map
        list(together(remove, gone))
    for folder in {path.parent for path in gone}:
        flush_names(folder)


def remove(path: Path, *, flush: bool = False) -> None:
    """Remove a file, if it is there; only with ``flush``, it stays removed after a power cut."""
    if not is_remote(path):
        path.unlink(missing_ok=True)
        if flush:
            flush_names(path.parent)
        return
    system, where = system_of(path)

    def gone() -> None:
        try:
            system.rm_file(where)
        except OSError:
            if path.exists():
                raise

    patiently(path, gone)
