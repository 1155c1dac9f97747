"""ROOT files of an input, and their classes, from names, sizes and times: no file is opened."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Literal

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
_ADVICE = "Give the folder of ROOT files with --input, or make some with `hepflow simulate`."
Samples = Mapping[str, Sequence[str]]  # class -> folders, files or globs below the input


def list_files(root: str | Path, timeout_s: float = 60.0) -> list[SourceFile]:
    """Return the ROOT files below ``root`` (or ``root`` itself) by name, without a class.

    ``root`` is a path or any fsspec URL, such as root://, s3://, hdfs:// and http://. Files and
    folders whose names start with ``.`` or ``_`` are left out.
    """
    system, top = _file_system(str(root), timeout_s)
    local = isinstance(system, LocalFileSystem)
    try:
        system.invalidate_cache()  # or new files are not seen
        # A web server reports its folders as files, too.
        if top.endswith(SUFFIX) and system.isfile(top):
            found, place = {top: system.info(top)}, str(root).rsplit("/", 1)[0]
            top = str(PurePosixPath(top).parent)
        else:
            system.ls(top, detail=False)  # raises the right error; find() and exists() do not
            options = {"on_error": "raise"} if local else {}  # or forbidden folders seem empty
            found, place = system.find(top, detail=True, **options), str(root).rstrip("/")
    except Exception as error:
        if (reason := as_io_error(error)) is None:
            raise
        why = f"cannot be listed ({str(reason) or type(reason).__name__}). Check your permissions."
        if isinstance(reason, FileNotFoundError):
            why = f"no such folder. {_ADVICE}"
        raise DataError(f"{root}: {why}") from error
    files = []
    for path, listed in sorted(found.items()):
        name = path.removeprefix(top).lstrip("/")
        if not _is_text(name):
            raise DataError(f"{root}: {name!r} is no UTF-8. Rename the file or its folder.")
        info = listed if listed.get("size") is not None else system.info(path)
        if name.endswith(SUFFIX) and not any(p[0] in "._" for p in PurePosixPath(name).parts):
            version = version_in(info)
            # unstrip_protocol() drops the host of an hdfs:// URL
            where = path if local else f"{place}/{name}"
            files.append(SourceFile("", name, where, int(info.get("size") or 0), version))
    return files


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
) -> list[SourceFile]:
    """Return the files with their classes; ``root`` is the input, for messages.

    Raises a DataError without a file, for a file of no class (unless ``unmatched`` is skip) or of
    two, for a class without files, and for a pattern that matches none.
    """
    assigned, left, files = [], [], list(files)
    if not files:
        raise DataError(f"{root}: no *{SUFFIX} files here. {_ADVICE}")
    for file in files:
        classes = [name for name, patterns in samples.items() if _matches_any(file.name, patterns)]
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
    if absent := [name for name in samples if name not in present]:
        what = f"no *{SUFFIX} files of class {absent[0]!r} (samples: {_patterns(samples)})"
        raise DataError(f"{root}: {what}. Add some, or remove it from samples.")
    if idle := _idle(files, samples):
        raise DataError(f"{root}: {idle} Correct the pattern, or remove it from samples.")
    if left:
        n_files = counted(len(left), "file")
        log.info("left out of the input: %s of no class, the first %s", n_files, left[0].name)
    return assigned


def _matches_any(name: str, patterns: Iterable[str]) -> bool:
    """Return whether a file, or a folder above it, matches; ``*`` does not match a slash."""
    parts = PurePosixPath(name).parts
    for pattern in patterns:
        wanted = PurePosixPath(pattern).parts
        if len(wanted) <= len(parts) and all(map(fnmatchcase, parts, wanted)):
            return True
    return False


def _no_class(
    left: Sequence[SourceFile], assigned: Sequence[SourceFile], samples: Samples, root: str | Path
) -> str:
    """Return a message with a pattern that matches the first file, and none that has a class."""
    name = left[0].name
    path = PurePosixPath(name)
    stem = path.stem.rstrip("0123456789_-.")
    wider = [str(path.parent)] if path.parent.name else []
    wider += [str(path.with_name(f"{stem}*"))] if stem else []
    free = [p for p in wider if not any(_matches_any(other.name, [p]) for other in assigned)]
    example = (free or [name])[0]
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
    idle = [p for p in every if not any(_matches_any(file.name, [p]) for file in files)]
    if not idle:
        return ""
    folders = sorted({str(PurePosixPath(file.name).parent) for file in files})
    meant = [name for pattern in idle for name in get_close_matches(pattern, folders, n=1)]
    hint = f" Did you mean {_listed(meant)}?" if meant else ""
    return f"{_listed(idle)} in samples match{'es' if len(idle) == 1 else ''} nothing.{hint}"


def _listed(patterns: Sequence[str]) -> str:
    """Return ``'a', 'b' and 'c'``."""
    *rest, last = map(repr, patterns)
    return f"{', '.join(rest)} and {last}" if rest else last


def _patterns(samples: Samples) -> str:
    return "; ".join(f"{name}: {', '.join(patterns)}" for name, patterns in samples.items())
