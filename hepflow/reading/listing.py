"""Which ROOT files belong to which class: names, sizes and times from the file system, and nothing from inside the files."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Literal

import fsspec
from fsspec.implementations.local import LocalFileSystem

from hepflow.errors import DataError, MissingDependency
from hepflow.reading.ranges import SourceFile
from hepflow.reading.remote import as_io_error, is_remote, set_timeout
from hepflow.system.terminal import counted

log = logging.getLogger(__name__)

SUFFIX = ".root"
_VERSIONS = (
    "mtime",
    "ETag",
    "etag",
    "checksum",
    "LastModified",
    "Last-Modified",
    "last_modified",
    "created",
)


def list_files(root: str | Path, timeout_s: float = 60.0) -> list[SourceFile]:
    """Every ROOT file below ``root`` (or ``root`` itself), in the order of their names, not yet of a class.

    Files and folders whose name starts with ``.`` or ``_`` are left out.

    Parameters
    ----------
    root : path or URL
        A folder or a file: local, or any fsspec URL such as root://, s3://, hdfs://, http://.
    timeout_s : float
        Seconds to wait for a remote server.

    Raises
    ------
    DataError
        There is nothing at ``root``, or it cannot be listed.
    MissingDependency
        The URL's protocol needs a package that is not installed.
    """
    system, top = _file_system(str(root), timeout_s)
    try:
        system.invalidate_cache()  # or files that arrived since the last look stay unseen
        if top.endswith(SUFFIX) and system.isfile(
            top
        ):  # a web server's folder passes for a file, too
            found, place = {top: system.info(top)}, str(root).rsplit("/", 1)[0]
            top = str(PurePosixPath(top).parent)
        else:
            system.ls(top, detail=False)  # says what is wrong, as the next line and exists() do not
            strict = (
                {"on_error": "raise"} if isinstance(system, LocalFileSystem) else {}
            )  # a folder it may not enter is no empty one
            found, place = system.find(top, detail=True, **strict), str(root).rstrip("/")
    except Exception as error:
        if (reason := as_io_error(error)) is None:
            raise
        if isinstance(reason, FileNotFoundError):
            raise DataError(
                f"{root}: no such folder. Give the folder of ROOT files with --input, or make some with `hepflow simulate`."
            ) from error
        raise DataError(
            f"{root}: cannot be listed ({str(reason) or type(reason).__name__}). Check the path and your permissions."
        ) from error
    files = [_source_file(system, place, top, path, info) for path, info in sorted(found.items())]
    return [file for file in files if file.name.endswith(SUFFIX) and not _is_hidden(file.name)]


def assign(
    files: Iterable[SourceFile],
    samples: Mapping[str, Sequence[str]],
    root: str | Path,
    unmatched: Literal["refuse", "skip"] = "refuse",
) -> list[SourceFile]:
    """Give each file its class.

    Parameters
    ----------
    files : iterable of SourceFile
    samples : mapping
        Class -> folders, files or globs below the input.
    root : path or URL
        The input, for messages.
    unmatched : str
        Whether files of no class are an error, or left out.

    Raises
    ------
    DataError
        No file at all, a file of no class or of two, a class without files, or a pattern that matches none.
    """
    assigned, left, files = [], [], list(files)
    if not files:
        raise DataError(
            f"{root}: no *{SUFFIX} files here. Give the folder that holds them with --input, or make some with `hepflow simulate`."
        )
    for file in files:
        classes = [
            name
            for name, patterns in samples.items()
            if any(_matches(file.name, pattern) for pattern in patterns)
        ]
        if len(classes) > 1:
            raise DataError(
                f"{root}: {file.name} matches the samples of {' and '.join(classes)}. Make the globs in samples exclude each other."
            )
        if classes:
            assigned.append(SourceFile(classes[0], file.name, file.path, file.size, file.version))
        else:
            left.append(file)
    if left and (unmatched == "refuse" or not assigned):
        raise DataError(_no_class(left, assigned, samples, root))
    for name in samples:
        if not any(file.class_name == name for file in assigned):
            raise DataError(
                f"{root}: no *{SUFFIX} files of class {name!r} (samples: {_patterns(samples)}). Add some, or take it out of samples."
            )
    if idle := _idle(files, samples):
        raise DataError(f"{root}: {idle} Correct the pattern, or take it out of samples.")
    if left:
        log.info(
            "left out of the input: %s of no class, the first %s",
            counted(len(left), "file"),
            left[0].name,
        )
    return assigned


def _file_system(root: str, timeout_s: float) -> tuple[fsspec.AbstractFileSystem, str]:
    if is_remote(root):
        set_timeout(root, timeout_s)
    try:
        system, top = fsspec.core.url_to_fs(root)
    except (ImportError, ValueError) as error:
        raise MissingDependency(
            f"{root}: {error}. Install what the protocol needs (root:// needs `pip install 'hepflow[xrootd]'`, s3:// s3fs)."
        ) from error
    except OSError as error:
        hint = "hdfs:// needs Hadoop's client: libhdfs.so by ARROW_LIBHDFS_DIR, JAVA_HOME, CLASSPATH=$(hadoop classpath --glob)"
        raise MissingDependency(
            f"{root}: {error}. Check that the server is there, and that its client is installed ({hint})."
        ) from error
    return system, str(top).rstrip("/") or "/"


def _source_file(
    system: fsspec.AbstractFileSystem, place: str, top: str, path: str, info: Mapping[str, object]
) -> SourceFile:
    if info.get("size") is None:  # the index page of a web server does not say
        info = system.info(path)
    name = path.removeprefix(top).lstrip("/")
    version = next((str(info[key]) for key in _VERSIONS if info.get(key) is not None), "")
    where = (
        path if isinstance(system, LocalFileSystem) else f"{place}/{name}"
    )  # unstrip_protocol() forgets an hdfs:// host
    return SourceFile("", name, where, int(str(info.get("size") or 0)), version)


def _is_hidden(name: str) -> bool:
    return any(part[0] in "._" for part in PurePosixPath(name).parts)


def _matches(name: str, pattern: str) -> bool:
    """Whether the file, or a folder it lies in, matches the pattern part by part (``*`` never crosses a slash)."""
    wanted = PurePosixPath(pattern).parts
    parts = PurePosixPath(name).parts
    return len(wanted) <= len(parts) and all(
        fnmatchcase(part, want) for part, want in zip(parts, wanted, strict=False)
    )


def _no_class(
    left: Sequence[SourceFile],
    assigned: Sequence[SourceFile],
    samples: Mapping[str, Sequence[str]],
    root: str | Path,
) -> str:
    first = f"{'' if len(left) == 1 else 'the first '}{left[0].name!r}"
    what = f"{root}: {counted(len(left), 'file')} of no class, {first} (samples: {_patterns(samples)})."
    example = f"such as {_pattern_of(left[0], assigned)!r}"
    if idle := _idle([*assigned, *left], samples):
        return f"{what} {idle} Give folders, files or globs below the input, {example}."
    them = "it" if len(left) == 1 else "them"
    return f"{what} Add a folder, file or glob to samples, {example}, or leave {them} out with --unmatched skip."


def _pattern_of(file: SourceFile, assigned: Sequence[SourceFile]) -> str:
    """What matches a file, and probably those beside it, but none that has a class."""
    path = PurePosixPath(file.name)
    stem = path.stem.rstrip("0123456789_-.")
    wider = [str(path.parent)] if path.parent.name else []
    wider += [str(path.with_name(f"{stem}*"))] if stem else []
    return next(
        (
            pattern
            for pattern in wider
            if not any(_matches(other.name, pattern) for other in assigned)
        ),
        file.name,
    )


def _idle(files: Sequence[SourceFile], samples: Mapping[str, Sequence[str]]) -> str:
    """A sentence on the patterns that match no file, if there are any."""
    idle = [
        pattern
        for patterns in samples.values()
        for pattern in patterns
        if not any(_matches(file.name, pattern) for file in files)
    ]
    folders = sorted({str(PurePosixPath(file.name).parent) for file in files})
    meant = [name for pattern in idle for name in get_close_matches(pattern, folders, n=1)]
    hint = f" Did you mean {_listed(meant)}?" if meant else ""
    return (
        f"{_listed(idle)} in samples {'matches' if len(idle) == 1 else 'match'} nothing.{hint}"
        if idle
        else ""
    )


def _listed(patterns: Sequence[str]) -> str:
    """``'a', 'b' and 'c'``."""
    named = [repr(pattern) for pattern in patterns]
    return " and ".join(filter(None, [", ".join(named[:-1]), *named[-1:]]))


def _patterns(samples: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{name}: {', '.join(patterns)}" for name, patterns in samples.items())
