"""Remote file systems: their timeouts, and which of their errors are worth a retry."""

import errno
import os
import re
import traceback
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from http import HTTPStatus
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fsspec

from hepflow.errors import NoCredentials
from hepflow.system.store_options import options_of

_CONFIGURED = {protocol: dict(options) for protocol, options in fsspec.config.conf.items()}
_FOREIGN = {"aiohttp", "botocore"}
"""Packages whose errors come from the network, though not all of them are OSErrors."""
_CLIENTS = {"fsspec", "s3fs", "fsspec_xrootd", "hdfs_native", "upath"} | _FOREIGN
_MESSAGES: dict[str, Callable[[str], OSError]] = {
    # of XRootD: kXR_NotFound, kXR_NotAuthorized, kXR_noserver, kXR_NoSpace, kXR_overQuota
    r"\[3011\]": FileNotFoundError,
    r"\[3010\]": PermissionError,
    r"\[3009\]": partial(OSError, errno.ENOSPC),
    r"\[3021\]": partial(OSError, errno.EDQUOT),
    # of Hadoop
    r"AccessControlException": PermissionError,
    r"QuotaExceededException": partial(OSError, errno.EDQUOT),
}
"""Messages of clients that have one type of error for all: pattern -> Python's own."""
_UNKNOWN_USER = {
    # of XRootD, Hadoop and botocore
    r"Auth failed": "Run voms-proxy-init or kinit, or name a token by BEARER_TOKEN_FILE",
    r"GSSAPI|SASL|InvalidToken": "Run kinit, or name a keytab by KRB5_CLIENT_KTNAME",
    r"(?i)credentials|Expired_?Token|InvalidAccessKeyId|SignatureDoesNotMatch": (
        "Name a profile by AWS_PROFILE, or give the keys by its other variables"
    ),
}
"""Messages about missing or expired credentials: pattern -> advice."""

_XROOTD_LIMITS = {
    "XRD_CONNECTIONWINDOW": "10",
    "XRD_CONNECTIONRETRY": "2",
    "XRD_STREAMERRORWINDOW": "10",
}
"""Seconds and attempts of its client, which by default gives a server up for half an hour."""
_LONGEST = 160  # characters of a message
_HELD: dict[str, fsspec.AbstractFileSystem] = {}


class ShortAnswer(OSError):
    """A store sent fewer bytes than it was asked for, and has."""


_VERDICTS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


def _hold_clients() -> None:
    """Keep the clients written in Rust (hdfs-native) until the process ends; called before a fork.

    fsspec forgets its file systems in a forked child. The destructor of such a client would wait
    there, for threads that a fork does not copy; Spark forks to start Java.
    """
    for protocol in ("hdfs", "viewfs"):
        if (kind := fsspec.registry.get(protocol)) is not None:
            _HELD.update(kind._cache)  # noqa: SLF001 - fsspec has no public way


os.register_at_fork(before=_hold_clients)
fsspec.register_implementation("hdfs", "hepflow.system.hdfs.HdfsFileSystem", clobber=True)


def is_remote(path: str | Path) -> bool:
    """Return whether a path is a URL."""
    return "://" in path if isinstance(path, str) else not isinstance(path, Path)


def set_timeout(url: str, timeout_s: float) -> None:
    """Limit the seconds per answer of a server, unless fsspec is configured otherwise.

    Protocols other than hdfs, root, s3, http and https keep their own limits. Listings are not
    cached: other programs and other processes of ours write to the same folders.
    """
    protocol = url.partition("://")[0]
    options: dict[str, Any] = {}
    if protocol in {"http", "https"} and find_spec("aiohttp"):  # takes 0.1 s to import
        client = import_module("aiohttp")
        limit = client.ClientTimeout(total=None, connect=timeout_s, sock_read=timeout_s)
        options = {"client_kwargs": {"timeout": limit}}
    elif protocol == "s3":
        limits = {"connect_timeout": timeout_s, "read_timeout": timeout_s}
        # s3fs tries again, too
        options = {"config_kwargs": {**limits, "retries": {"max_attempts": 2}}}
        options["use_listings_cache"] = False
    elif protocol == "root":
        options = {"timeout": max(1, round(timeout_s)), "use_listings_cache": False}
        for name, value in _XROOTD_LIMITS.items():
            os.environ.setdefault(name, value)
        # at the end its client looks at every object, also at deprecated ones of torch
        warnings.filterwarnings("ignore", module=r"XRootD\.client\.finalize")
    elif protocol in {"hdfs", "viewfs"}:
        # it cannot be interrupted meanwhile
        options = {"dfs.client.failover.max.attempts": str(_attempts(min(timeout_s, 10.0)))}
    fsspec.config.conf[protocol] = {**options, **_CONFIGURED.get(protocol, {})}


def _attempts(timeout_s: float) -> int:
    """Return how often hdfs-native asks again within some seconds: after 0.5, 1, ... 15, 15 s."""
    n, waited = 1, 0.5
    while waited + (pause := min(0.5 * 2**n, 15.0)) <= timeout_s:
        n, waited = n + 1, waited + pause
    return n


def source(url: str, stack: ExitStack) -> tuple[Any, int | None]:
    """Return the URL for uproot, if fsspec reads many ranges at once.

    Else (hdfs://) return a stream that the stack closes, and its size in bytes.
    """
    system, path = fsspec.core.url_to_fs(url, **options_of(url))
    if system.async_impl:
        return url, None
    return stack.enter_context(system.open(path, "rb")), int(system.size(path))


def as_io_error(error: Exception) -> OSError | None:
    """Return an error of the network or the remote file system as one of Python's own, or None."""
    if isinstance(error, NoCredentials):
        return error
    cause = error.__cause__
    from_http = isinstance(cause, TimeoutError) or _package(cause) == "aiohttp"
    if isinstance(error, FileNotFoundError) and from_http:
        # fsspec reports any failure to get a file's size over HTTP as a missing file
        if getattr(cause, "status", None) == HTTPStatus.NOT_FOUND:
            return error
        return OSError(str(cause) or type(cause).__name__)
    of_hadoop = isinstance(error, RuntimeError) and "hdfs_native" in _packages(error)
    if isinstance(error, OSError) or _package(error) or of_hadoop:
        return _by_message(error, str(error) or type(error).__name__)
    return None


def _by_message(error: Exception, text: str) -> OSError:
    """Return an error of the type that its message means."""
    for pattern, advice in _UNKNOWN_USER.items():
        if re.search(pattern, f"{text} {error.__cause__}"):
            return NoCredentials(f"no valid credentials ({_cut(text)}). {advice}.")
    for pattern, kind in _MESSAGES.items():
        if re.search(pattern, text):
            return kind(_cut(text))
    return error if isinstance(error, OSError) else OSError(_cut(text))


def _cut(text: str) -> str:
    """Return the beginning of a message: those of Hadoop have up to thousands of characters."""
    if of_kerberos := re.search(r'GSSAPIError\(.*\}, \d+, "([^"]*)', text):
        text = of_kerberos[1]
    elif of_hadoop := re.match(r'\w+\("([\w.$]+)", "(?:\1: )?(.*)', text, re.DOTALL):
        message = of_hadoop[2].partition(r"\n")[0]  # a stack of Java follows
        text = f"{of_hadoop[1].rpartition('.')[2]}: {message}"
    return text if len(text) <= _LONGEST else text[:_LONGEST].rsplit(" ", 1)[0] + " ..."


def is_of_a_store(error: BaseException) -> bool:
    """Return whether an error was raised by a client of a remote store, and not by a bug."""
    cause = error.__cause__
    if isinstance(error, ShortAnswer):
        return True
    return bool(_packages(error) & _CLIENTS) or (cause is not None and is_of_a_store(cause))


def may_pass(error: BaseException) -> bool:
    """Return whether a disk or a store failed, so that a retry may help, and not what was read.

    Libraries report damaged content as OSErrors, too, but without a number.
    """
    if not isinstance(error, OSError) or isinstance(error, _VERDICTS):
        return False
    return error.errno is not None or is_of_a_store(error)


def _packages(error: BaseException) -> set[str]:
    """Return the packages whose functions an error has passed."""
    frames = traceback.walk_tb(error.__traceback__)
    return {str(frame.f_globals.get("__name__", "")).partition(".")[0] for frame, _ in frames}


def _package(error: BaseException | None) -> str:
    """Return the package in `_FOREIGN` that an error is of, or an empty string."""
    packages = (kind.__module__.split(".")[0] for kind in type(error).__mro__)
    return next((name for name in packages if name in _FOREIGN), "")
