"""Processes that are left of a command, by its session."""

import contextlib
import os
import time
from collections.abc import Iterator

import psutil

GRACE_S = 20
"""Time for processes that end after the one that started them, such as Spark's JVM."""


def left_in(session: int) -> list[str]:
    """Return the command lines of processes that are left in a session after a while."""
    deadline = time.monotonic() + GRACE_S
    while (left := lines_in(session)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def lines_in(session: int) -> list[str]:
    """Return the command lines of all processes of a session."""
    return [line for _, line in members(session)]


def members(session: int) -> Iterator[tuple[psutil.Process, str]]:
    """Yield the processes of a session, with their command lines."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                yield process, " ".join(process.cmdline())
