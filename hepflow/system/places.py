"""Places of data: a path of this machine, or a URL of any file system that fsspec knows.

A URL becomes a `upath.UPath`, which has the methods of `pathlib.Path`; a local path stays a
`pathlib.Path`, and signatures say `Path` for both.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import fsspec
from fsspec.utils import get_protocol
from upath import UPath
from upath.implementations.cloud import AzurePath, GCSPath, S3Path
from upath.registry import available_implementations, register_implementation

from hepflow.errors import ConfigError, MissingDependency
from hepflow.system.patience import patiently
from hepflow.system.remote import set_timeout
from hepflow.system.secret import require_none
from hepflow.system.store_options import options_of

TIMEOUT_S = 60.0
"""Seconds to wait for an answer of a server, unless a stage is told otherwise."""
_EXTRAS = {"hdfs": "hdfs", "viewfs": "hdfs", "s3": "s3", "s3a": "s3", "root": "xrootd"}


class _Asked(UPath):
    """A path whose store is asked what is there; an error is not taken for a missing file.

    fsspec's own answers do that. A run that a store could not tell of would be started afresh.
    """

    __slots__ = ()

    @classmethod
    def _fs_factory(cls, urlpath: str, protocol: str, storage_options: Mapping[str, Any]) -> Any:
        options = {**options_of(urlpath), **storage_options}
        return super()._fs_factory(urlpath, protocol, options)

    def exists(self, **_: Any) -> bool:
        """Return whether there is a file or a folder."""
        return bool(self._kind())

    def is_file(self, **_: Any) -> bool:
        """Return whether there is a file."""
        return self._kind() == "file"

    def is_dir(self, **_: Any) -> bool:
        """Return whether there is a folder."""
        return self._kind() == "directory"

    def _kind(self) -> str:
        try:
            return str(patiently(cast(Path, self), lambda: self.fs.info(self.path)["type"]))
        except (FileNotFoundError, NotADirectoryError):
            return ""


class BucketPath(_Asked, S3Path):
    """A path in a bucket."""

    __slots__ = ()


class GooglePath(_Asked, GCSPath):
    """A path in a bucket of Google Cloud Storage."""

    __slots__ = ()


class ContainerPath(_Asked, AzurePath):
    """A path in a container of Azure."""

    __slots__ = ()


class OtherPath(_Asked):
    """A path in a file system that another package has brought to fsspec."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        """Unpickle by `place`, which makes the protocol known to that process."""
        return place, (str(self), dict(self.storage_options))


class ServerPath(_Asked):
    """A path on a named server. UPath's own leaves the server out of the URL."""

    __slots__ = ()

    def __str__(self) -> str:
        if self._relative_base is not None:
            return super().__str__()
        options, path = self.storage_options, self.path
        if "hostid" in options:  # root://HOST//PATH
            return f"{self.protocol}://{options['hostid']}/{path}"
        port = f":{options['port']}" if options.get("port") else ""
        return f"{self.protocol}://{options.get('host') or ''}{port}{path}"

    def __reduce__(self) -> tuple[Any, ...]:
        """Unpickle by `place`: UPath's own way loses a path whose file system is not imported."""
        return place, (str(self), dict(self.storage_options))


_OWN: dict[type[UPath], tuple[str, ...]] = {
    ServerPath: ("hdfs", "viewfs", "root"),
    BucketPath: ("s3", "s3a"),
    GooglePath: ("gs", "gcs"),
    ContainerPath: ("az", "abfs", "abfss", "adl"),
}
for _class, _protocols in _OWN.items():
    for _protocol in _protocols:
        register_implementation(_protocol, _class, clobber=True)
for _protocol in _EXTRAS:  # in every process, as paths come to workers by pickle
    set_timeout(f"{_protocol}://", TIMEOUT_S)


def is_url(value: object) -> bool:
    """Return whether a value is the path that `place` makes of a URL."""
    return isinstance(value, UPath) and not isinstance(value, Path)


def expanded(text: str) -> str:
    """Return a path as a user gives it, with ``~`` and variables of the environment filled in.

    A shell does that in some places only, and a YAML file nowhere.
    """
    if text[:1] != "~" and ("$" not in text or os.path.lexists(text)):
        return text
    found = os.path.expandvars(os.path.expanduser(text))  # noqa: PTH111 - keeps :// of a URL
    if found[:1] == "~":
        raise ConfigError(f"{text}: no home of this user. Write the path in full.")
    if missing := re.search(r"\$(\w+|{\w+})", found):
        what = f"no variable {missing[1].strip('{}')} in the environment"
        raise ConfigError(f"{text}: {what}. Set it, or write the path in full.")
    return found


def place(text: str | Path, options: Mapping[str, Any] | None = None) -> Path:
    """Return the path that a text names: a UPath for a URL, and a `pathlib.Path` otherwise.

    ``options`` are the file system's.
    """
    if not isinstance(text, str):
        return text
    if "://" not in text:
        return Path(text)
    protocol = get_protocol(text)
    if protocol in {"file", "local"}:
        return Path(UPath(text).path)
    require(text)
    if protocol not in available_implementations():
        register_implementation(protocol, OtherPath)
    return cast(Path, UPath(text.rstrip("/"), **options or {}))


def require(url: str) -> None:
    """Refuse a URL of a protocol that nobody knows or whose package is missing."""
    protocol = get_protocol(url)
    require_none(url)
    try:
        fsspec.get_filesystem_class(protocol)
    except ValueError as error:
        known = ", ".join(f"{name}://" for name in ("hdfs", "s3", "root"))
        what = f"no file system for {protocol}://. Give a path, or a URL such as {known}."
        raise ConfigError(f"{url}: {what}") from error
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        install = f"`pip install 'hepflow[{extra}]'`" if extra else "its package"
        raise MissingDependency(f"{url}: {error}. Install {install}.") from error
    if protocol not in fsspec.config.conf:
        set_timeout(url, TIMEOUT_S)
