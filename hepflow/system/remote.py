"""Remote file systems: their timeouts, and which of their errors are worth a retry."""

import os
import traceback
import warnings
from contextlib import ExitStack
from http import HTTPStatus
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fsspec

from hepflow.system.store_options import options_of

_AIOHTTP = import_module("aiohttp") if find_spec("aiohttp") else None  # needed to read over HTTP
_CONFIGURED = {protocol: dict(options) for protocol, options in fsspec.config.conf.items()}
_FOREIGN = {"aiohttp", "botocore"}
"""Packages whose errors come from the network, though not all of them are OSErrors."""
_CLIENTS = {"fsspec", "s3fs", "fsspec_xrootd", "hdfs_native", "upath"} | _FOREIGN
_XROOTD = {"[3011]": FileNotFoundError, "[3010]": PermissionError}
"""Codes in XRootD's messages that a retry does not help: kXR_NotFound and kXR_NotAuthorized."""

_HELD: dict[str, fsspec.AbstractFileSystem] = {}


def _hold_clients() -> None:
    """Keep the clients written in Rust (hdfs-native) until the process ends; called before a fork.

    fsspec forgets its file systems in a forked child. The destructor of such a client would wait
    there, for threads that a fork does not copy; Spark forks to start Java.
    """
    for protocol in ("hdfs", "viewfs"):
        if (kind := fsspec.registry.get(protocol)) is not None:
            _HELD.update(kind._cache)  # noqa: SLF001 - fsspec has no public way


os.register_at_fork(before=_hold_clients)


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
    if protocol in {"http", "https"} and _AIOHTTP is not None:
        limit = _AIOHTTP.ClientTimeout(total=None, connect=timeout_s, sock_read=timeout_s)
        options = {"client_kwargs": {"timeout": limit}}
    elif protocol == "s3":
        options = {"config_kwargs": {"connect_timeout": timeout_s, "read_timeout": timeout_s}}
        options["use_listings_cache"] = False
    elif protocol == "root":
        options = {"timeout": max(1, round(timeout_s)), "use_listings_cache": False}
        # at the end its client looks at every object, also at deprecated ones of torch
        warnings.filterwarnings("ignore", module=r"XRootD\.client\.finalize")
    elif protocol in {"hdfs", "viewfs"}:
        options = {"dfs.client.failover.max.attempts": str(_attempts(timeout_s))}
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
    cause = error.__cause__
    from_http = isinstance(cause, TimeoutError) or _package(cause) == "aiohttp"
    if isinstance(error, FileNotFoundError) and from_http:
        # fsspec reports any failure to get a file's size over HTTP as a missing file
        if getattr(cause, "status", None) == HTTPStatus.NOT_FOUND:
            return error
        return OSError(str(cause) or type(cause).__name__)
    if isinstance(error, OSError):
        text = str(error)
        return next((kind(text) for code, kind in _XROOTD.items() if code in text), error)
    return OSError(str(error) or type(error).__name__) if _package(error) else None


def is_of_a_store(error: BaseException) -> bool:
    """Return whether an error was raised by a client of a remote store, and not by a bug."""
    frames = traceback.walk_tb(error.__traceback__)
    packages = {str(frame.f_globals.get("__name__", "")).partition(".")[0] for frame, _ in frames}
    return bool(packages & _CLIENTS)


def _package(error: BaseException | None) -> str:
    """Return the package in `_FOREIGN` that an error is of, or an empty string."""
    packages = (kind.__module__.split(".")[0] for kind in type(error).__mro__)
    return next((name for name in packages if name in _FOREIGN), "")
