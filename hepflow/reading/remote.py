"""What remote file systems do each in their own way: how long to wait for a server, and which errors are not the file's fault."""

from contextlib import ExitStack
from http import HTTPStatus
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import fsspec

_AIOHTTP = import_module("aiohttp") if find_spec("aiohttp") else None
"""Without it no file is read over HTTP."""
_CONFIGURED = {protocol: dict(options) for protocol, options in fsspec.config.conf.items()}
_FOREIGN = {"aiohttp", "botocore"}
"""Packages whose errors come from the network, though not all of them are OSErrors."""
_XROOTD = {"[3011]": FileNotFoundError, "[3010]": PermissionError}
"""The codes in XRootD's messages that another try does not mend (kXR_NotFound and kXR_NotAuthorized)."""


def is_remote(path: str) -> bool:
    """Whether it is a URL."""
    return "://" in path


def set_timeout(url: str, timeout_s: float) -> None:
    """Make this process wait at most so long for an answer of ``url``'s server; what fsspec's own configuration says wins.

    Parameters
    ----------
    url : str
        Of root://, s3://, http:// or https://; others, such as hdfs://, keep the limits of their own configuration.
    timeout_s : float
        Seconds.
    """
    protocol = url.partition("://")[0]
    fsspec.config.conf[protocol] = {
        **_options(protocol, timeout_s),
        **_CONFIGURED.get(protocol, {}),
    }


def source(url: str, stack: ExitStack) -> tuple[Any, int | None]:
    """What uproot is to open: the URL where many ranges are read at once, else (hdfs://) a stream that the stack closes, and its bytes."""
    system, path = fsspec.core.url_to_fs(url)
    if system.async_impl:
        return url, None
    return stack.enter_context(system.open(path, "rb")), int(
        system.size(path)
    )  # fsspec's range reads of pyarrow's fail at byte 0


def as_io_error(error: Exception) -> OSError | None:
    """The error as one of Python's own kinds, if it is the network's or the remote file system's."""
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and (
        isinstance(cause, TimeoutError) or _package(cause) == "aiohttp"
    ):
        # over HTTP, fsspec calls every failure to learn a file's size a missing file
        return (
            error
            if getattr(cause, "status", None) == HTTPStatus.NOT_FOUND
            else OSError(str(cause) or type(cause).__name__)
        )
    if isinstance(error, OSError):
        text = str(error)
        return next((kind(text) for code, kind in _XROOTD.items() if code in text), error)
    return OSError(str(error) or type(error).__name__) if _package(error) else None


def _package(error: BaseException | None) -> str:
    """Which of `_FOREIGN` made the error, if any."""
    packages = (kind.__module__.split(".")[0] for kind in type(error).__mro__)
    return next((name for name in packages if name in _FOREIGN), "")


def _options(protocol: str, timeout_s: float) -> dict[str, Any]:
    if protocol in {"http", "https"} and _AIOHTTP is not None:
        return {
            "client_kwargs": {
                "timeout": _AIOHTTP.ClientTimeout(
                    total=None, connect=timeout_s, sock_read=timeout_s
                )
            }
        }
    if protocol == "s3":
        return {"config_kwargs": {"connect_timeout": timeout_s, "read_timeout": timeout_s}}
    return {"timeout": max(1, round(timeout_s))} if protocol == "root" else {}
