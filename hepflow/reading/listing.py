"""ROOT files of an input, and their classes, from names, sizes and times.

Every file that looks like ROOT is either listed, or named in a warning as left out. For that, local
files of other names are opened, the first of them.
"""

import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import fsspec
from fsspec.implementations.local import LocalFileSystem

from hepflow.errors import DataError
from hepflow.reading.ranges import SourceFile
from hepflow.system.places import require
from hepflow.system.remote import as_io_error, is_remote, set_timeout
from hepflow.system.storage import version_in
from hepflow.system.store_options import options_of
from hepflow.system.terminal import counted

log = logging.getLogger(__name__)

SUFFIX = ".root"
_ROOT = re.compile(r"\.root(\.\d+)?$", re.IGNORECASE)  # some sites number copies: x.pool.root.1
_MAGIC, _OPENED = b"root\0", 1000
"""First bytes of a ROOT file, the last of which begins the version of ROOT that wrote it; and the
number of files of other names that are opened for them."""
_AT_A_TIME = 16  # requests
_ADVICE = "Give the folder of ROOT files with --input, or make some with `hepflow simulate`."
Samples = Mapping[str, Sequence[str]]  # class -> folders, files or globs below the input


def list_files(root: str | Path, timeout_s: float = 60.0) -> list[SourceFile]:
    """Return the ROOT files below ``root`` (or ``root`` itself) by name, without a class.

    ``root`` is a path or any fsspec URL, such as root://, s3://, hdfs:// and http://. Links are
    followed. Files and folders whose names start with ``.`` or ``_`` are left out, and so are files
    of other names than ``*.root``; a warning names those that look like ROOT.
    """
    system, top = _file_system(str(root), timeout_s)
    local = isinstance(system, LocalFileSystem)
    try:
        system.invalidate_cache()  # or new files are not seen
        # A web server reports its folders as files, too.
        if _ROOT.search(top) and system.isfile(top):
            found, place = {top: system.info(top)}, str(root).rsplit("/", 1)[0]
            top = str(PurePosixPath(top).parent)
        else:
            system.ls(top, detail=False)  # raises the right error; find() and exists() do not
            # find() does not follow links to folders
            found = dict(_walk(Path(top), system)) if local else system.find(top, detail=True)
            place = str(root).rstrip("/")
    except Exception as error:
        if (reason := as_io_error(error)) is None:
            raise
        why = f"cannot be listed ({str(reason) or type(reason).__name__}). Check your permissions."
        if isinstance(reason, FileNotFoundError):
            why = f"no such folder. {_ADVICE}"
        raise DataError(f"{root}: {why}") from error
    files: list[SourceFile] = []
    hidden: list[str] = []
    others: list[str] = []
    for path, listed in sorted(found.items()):
        name = path.removeprefix(top).lstrip("/")
        if not _is_text(name):
            raise DataError(f"{root}: {name!r} is no UTF-8. Rename the file or its folder.")
        if any(part[0] in "._" for part in PurePosixPath(name).parts):
            hidden += [name] if _ROOT.search(name) else []
        elif not _ROOT.search(name):
            others += [name] if local and len(others) < _OPENED else []
        else:
            files.append(_source_file(system, path, name, place, listed))
    _warn_of(str(root), tuple(hidden), "whose names, or those of their folders, begin with . or _")
    unnamed = tuple(name for name in others if _begins_as_root(Path(top) / name))
    _warn_of(str(root), unnamed, f"whose names do not end in {SUFFIX}")
    return files


def find_files(root: str | Path, names: Iterable[str], timeout_s: float = 60.0) -> list[SourceFile]:
    """Return some files below ``root`` by name, without a class and without listing the others."""
    system, top = _file_system(str(root), timeout_s)
    place = str(root).rstrip("/")
    if _ROOT.search(top) and system.isfile(top):
        top, place = str(PurePosixPath(top).parent), place.rsplit("/", 1)[0]

    def find(name: str) -> SourceFile:
        try:
            found = _source_file(system, f"{top}/{name}", name, place)
        except Exception as error:
            if (reason := as_io_error(error)) is None:
                raise
            why = str(reason) or type(reason).__name__
            if isinstance(reason, FileNotFoundError):
                why = "no such file"
            advice = "Correct the list of files, or run without it."
            raise DataError(f"{root}: {name}: {why}. {advice}") from error
        return found

    system.invalidate_cache()
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        return list(pool.map(find, sorted(names)))


def _source_file(
    system: fsspec.AbstractFileSystem,
    path: str,
    name: str,
    place: str,
    listed: Mapping[str, Any] | None = None,
) -> SourceFile:
    """Return a file of a listing, or ask for its size and time."""
    local = isinstance(system, LocalFileSystem)
    info = listed or {}
    if info.get("size") is None:
        info = system.info(os.path.realpath(path) if local else path)
    # unstrip_protocol() drops the host of an hdfs:// URL
    where = path if local else f"{place}/{name}"
    return SourceFile("", name, where, int(info.get("size") or 0), version_in(info))


def _walk(
    folder: Path, system: LocalFileSystem, above: tuple[os.stat_result, ...] = ()
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the files in a folder of this machine and below, also behind links, as fsspec does."""
    here = folder.stat()
    if any(os.path.samestat(here, one) for one in above):
        _warn_of_cycle(folder)
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _walk(Path(entry.path), system, (*above, here))
                continue
            try:
                yield entry.path, system.info(os.path.realpath(entry.path))
            except FileNotFoundError as error:
                if entry.is_symlink() and _ROOT.search(entry.name):
                    what = "a link to a file that does not exist. Repair or remove it."
                    raise DataError(f"{entry.path}: {what}") from error  # else just removed


def _begins_as_root(path: Path) -> bool:
    with suppress(OSError), path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC
    return False


@cache  # a run may list its input many times
def _warn_of(root: str, names: tuple[str, ...], why: str) -> None:
    if names:
        n_files = counted(len(names), "file")
        message = "%s: left out %s that look like ROOT, the first %s, %s"
        log.warning(message, root, n_files, names[0], why)


@cache
def _warn_of_cycle(folder: Path) -> None:
    log.warning("%s: a link to a folder above it, which is not followed", folder)


def _is_text(name: str) -> bool:
    """Return whether a name can be written into a table: Linux allows any bytes."""
    return not any("\ud800" <= one <= "\udfff" for one in name)


def _file_system(root: str, timeout_s: float) -> tuple[fsspec.AbstractFileSystem, str]:
    if is_remote(root):
        set_timeout(root, timeout_s)
        require(root)
    system, top = fsspec.core.url_to_fs(root, **options_of(root))
    return system, str(top).rstrip("/") or "/"


def assign(
    files: Iterable[SourceFile],
    samples: Samples,
    root: str | Path,
    unmatched: Literal["refuse", "skip"] = "refuse",
    *,
    all_of_it: bool = True,
) -> list[SourceFile]:
    """Return the files with their classes; ``root`` is the input, for messages.

    Raises a DataError without a file, for a file of no class (unless ``unmatched`` is skip) or of
    two, and if this is ``all_of_it``, for a class without files and a pattern that matches none.
    """
    assigned, left, files = [], [], list(files)
    if not files:
        raise DataError(f"{root}: no *{SUFFIX} files here. {_ADVICE}")
    for file in files:
        parts = PurePosixPath(file.name).parts
        classes = [name for name, own in samples.items() if any(_matches(parts, p) for p in own)]
        if len(classes) > 1:
            what = f"{file.name} matches more than one sample ({' and '.join(classes)})"
            raise DataError(f"{root}: {what}. Make the patterns in samples disjoint.")
        if classes:
            assigned.append(replace(file, class_name=classes[0]))
        else:
            left.append(file)
    if left and (unmatched == "refuse" or not assigned):
        raise DataError(_no_class(left, assigned, samples, root))
    present = {file.class_name for file in assigned}
    if all_of_it and (absent := [name for name in samples if name not in present]):
        what = f"no *{SUFFIX} files of class {absent[0]!r} (samples: {_patterns(samples)})"
        raise DataError(f"{root}: {what}. Add some, or remove it from samples.")
    if all_of_it and (idle := _idle(files, samples)):
        raise DataError(f"{root}: {idle} Correct the pattern, or remove it from samples.")
    if left:
        n_files = counted(len(left), "file")
        log.info("left out of the input: %s of no class, the first %s", n_files, left[0].name)
    return assigned


def _matches(parts: tuple[str, ...], pattern: str) -> bool:
    """Return whether a file, or a folder above it, matches; ``*`` does not match a slash."""
    wanted = _parts(pattern)
    return len(wanted) <= len(parts) and all(map(fnmatchcase, parts, wanted))


@cache  # of a pattern, for each of 100,000 files
def _parts(pattern: str) -> tuple[str, ...]:
    return PurePosixPath(pattern).parts


def _no_class(
    left: Sequence[SourceFile], assigned: Sequence[SourceFile], samples: Samples, root: str | Path
) -> str:
    """Return a message with a pattern that matches the first file, and none that has a class."""
    name = left[0].name
    path = PurePosixPath(name)
    stem = path.stem.rstrip("0123456789_-.")
    wider = [str(path.parent)] if path.parent.name else []
    wider += [str(path.with_name(f"{stem}*"))] if stem else []
    example = next(iter(_without_match(wider, assigned)), name)
    first = f"{'' if len(left) == 1 else 'the first '}{name!r}"
    n_files, them = counted(len(left), "file"), "it" if len(left) == 1 else "them"
    message = f"{root}: {n_files} of no class, {first} (samples: {_patterns(samples)})."
    advice = "Give folders, files or globs below the input, such as"
    if idle := _idle([*assigned, *left], samples):
        return f"{message} {idle} {advice} {example!r}."
    return f"{message} {advice} {example!r}, or leave {them} out with --unmatched skip."


def _idle(files: Sequence[SourceFile], samples: Samples) -> str:
    """Return a sentence on the patterns that match no file, if there are any."""
    every = [pattern for patterns in samples.values() for pattern in patterns]
    idle = _without_match(every, files)
    if not idle:
        return ""
    folders = sorted({str(PurePosixPath(file.name).parent) for file in files})
    meant = [name for pattern in idle for name in get_close_matches(pattern, folders, n=1)]
    hint = f" Did you mean {_listed(meant)}?" if meant else ""
    return f"{_listed(idle)} in samples match{'es' if len(idle) == 1 else ''} nothing.{hint}"


def _without_match(patterns: Iterable[str], files: Iterable[SourceFile]) -> list[str]:
    left = list(patterns)
    for file in files:
        if not left:
            break
        parts = PurePosixPath(file.name).parts
        left = [pattern for pattern in left if not _matches(parts, pattern)]
    return left


def _listed(patterns: Sequence[str]) -> str:
    """Return ``'a', 'b' and 'c'``."""
    *rest, last = map(repr, patterns)
    return f"{', '.join(rest)} and {last}" if rest else last


def _patterns(samples: Samples) -> str:
    return "; ".join(f"{name}: {', '.join(patterns)}" for name, patterns in samples.items())
