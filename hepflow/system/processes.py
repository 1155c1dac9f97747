"""Cores of this process, versions of its packages, and other processes: commands, who runs."""

import ctypes
import gc
import multiprocessing
import os
import platform
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

T = TypeVar("T")
SIGNALLED_S, GRACE_S = 5.0, 60.0
"""Seconds that an interrupted child gets to end: if the terminal sent it Ctrl-C too, and after that
if it needs a SIGINT of its own."""
LAUNCHER = "HEPFLOW_LAUNCHER"  # variable: id of the process that starts the others of a training
RANKS = "HEPFLOW_RANKS"  # variable: private folder where the ranks on one machine meet
RANKS_KEY = "HEPFLOW_RANKS_KEY"  # variable: secret that the ranks on several machines share
PR_SET_PDEATHSIG = 1  # of prctl(2)


def cores() -> int:
    """Return the number of the machine's cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_bytes() -> int:
    """Return the most memory that this program has used; getrusage includes that of its parent."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.is_file() else None
    kilobytes = found.group(1) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return 1024 * int(kilobytes)


def begin(function: Callable[..., object], *arguments: Any) -> None:
    """Prepare a worker process: call a function, leave Ctrl-C to the parent, and end with it.

    An error of the function is left to the first task, which the parent learns of.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent and parent.pid:
        end_with(parent.pid)
    with suppress(Exception):
        function(*arguments)


def timed(function: Callable[..., T], *arguments: Any) -> tuple[T, float, int]:
    """Return the result of a call, its seconds, and the most memory that this process has used.

    Seconds in which the call has waited for a core do not count: others use this machine too.
    """
    started, (_, waited) = time.perf_counter(), scheduled("thread-self")
    result = function(*arguments)
    seconds = time.perf_counter() - started - (scheduled("thread-self")[1] - waited)
    return result, max(seconds, 1e-9), peak_bytes()


def scheduled(thread: str) -> tuple[float, float]:
    """Return the seconds in which a thread, a path in /proc, has had a core, and waited for one."""
    with suppress(OSError):  # there is none, or the thread has ended
        ran, waited, _ = Path(f"/proc/{thread}/schedstat").read_text().split()
        return int(ran) / 1e9, int(waited) / 1e9
    return 0.0, 0.0


def share_of_core() -> float:
    """Return the fraction of time in which this thread has had a core when it wanted one."""
    ran, waited = scheduled("thread-self")
    return ran / (ran + waited) if ran else 1.0


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return package -> version, Python first, without packages that are not installed."""
    found = {"python": platform.python_version()}
    for name in packages:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def imported(module: str) -> ModuleType:
    """Import the module of a command, and let the garbage collector forget what it brings.

    The collector would look for cycles among the million objects of torch again and again: 4.5 of
    the 12 s of a training of one second.
    """
    gc.disable()
    try:
        return import_module(module)
    finally:
        gc.freeze()
        gc.enable()


def runs(pid: int) -> bool:
    """Return whether a process of this machine is there, of whatever user."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def program(name: str, variable: str) -> Path | None:
    """Return a program, from the folder in an environment variable or else from the PATH."""
    folder = os.environ.get(variable)
    places = os.pathsep.join((folder, f"{folder}/bin")) if folder else None
    found = shutil.which(name, path=places)
    return Path(found) if found else None


def end_with(parent: int) -> None:
    """End this process when its parent dies, even by ``kill -9``, or at once if it has died."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def run(
    words: Sequence[str], *, quiet: bool = False, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command; after Ctrl-C, which a terminal sends to both processes, wait for it to end.

    Python's own `subprocess.run` would kill it. If ``quiet``, its output is returned, not shown.
    """
    pipe = subprocess.PIPE if quiet else None
    with subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        try:
            printed, errors = process.communicate()
        except KeyboardInterrupt:
            if not _ended(process, SIGNALLED_S):
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


@contextmanager
def terminated() -> Iterator[None]:
    """End the run on SIGTERM as on an interrupt: the next run resumes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
