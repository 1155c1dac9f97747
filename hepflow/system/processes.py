"""Cores and versions of this process, and commands run in processes of their own."""

import os
import platform
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

TOLD_S, GRACE_S = 5.0, 60.0
"""After which an interrupted command has evidently not been told; and for what it has to put away."""


def cores() -> int:
    """Cores that this process may use, of those that the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Package -> version, Python first; those that are not installed are left out."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def run(
    words: Sequence[str], *, quiet: bool = False, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end. After Ctrl-C, which its terminal gives to both, it is waited for: Python's own `run` would kill it.

    Parameters
    ----------
    words : sequence of str
    quiet : bool
        Keep what it prints.
    environment : mapping, optional
        In place of this process's.
    """
    pipe = subprocess.PIPE if quiet else None
    with subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        try:
            printed, errors = process.communicate()
        except KeyboardInterrupt:
            if not _ended(process, TOLD_S):
                process.send_signal(signal.SIGINT)
                if not _ended(process, GRACE_S):
                    process.kill()
            raise
    return subprocess.CompletedProcess(words, process.returncode, printed, errors)


def _ended(process: subprocess.Popen[str], seconds: float) -> bool:
    try:
        process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        return False
    return True
