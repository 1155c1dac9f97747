"""Run hepflow commands without their start-up: in forks of a process that has imported everything.

Importing torch, Lightning, Spark and Dask takes 10 to 20 seconds of a processor, and a fork of the
process that did takes milliseconds. Everything else is that of a command: a process in a session of
its own, with arguments, environment, folder, signals, exit status and both outputs. Tests of the
start itself start Python instead (:func:`started`).

What a library reads from the environment while it is imported keeps the value that it had in the
server; ``OMP_NUM_THREADS`` is applied to torch by hand.
"""

import atexit
import ctypes
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[2]
CLONE_NEWNS = 0x00020000
FORKS = multiprocessing.get_context("forkserver")


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a command: on this machine alone, and ``tests`` can be imported."""
    here = {"MASTER_ADDR": "127.0.0.1", "SPARK_LOCAL_IP": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    return os.environ | {"PYTHONPATH": str(ROOT)} | here | more


def started(*arguments: str) -> list[str]:
    """Return the command line that starts hepflow in a new Python."""
    return [sys.executable, "-m", "hepflow", *arguments]


def start_server() -> None:
    """Start the server of which commands are forks, if it does not run yet."""
    FORKS.set_forkserver_preload(["tests.support.imported_once"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        forkserver.ensure_running()


class Command:
    """A running command, with a part of the interface of :class:`subprocess.Popen`.

    Parameters
    ----------
    merged : bool
        Write stderr to stdout, as a terminal shows them.
    tmp : Path, optional
        Folder that it sees as /tmp, in which its folder and the code stay where they are.
    """

    def __init__(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        merged: bool = False,
        tmp: Path | None = None,
    ) -> None:
        start_server()
        self.arguments = arguments
        self._folder = Path(tempfile.mkdtemp(prefix="command-"))
        outputs = [self._folder / name for name in ("stdout", "stdout" if merged else "stderr")]
        self._process = FORKS.Process(
            target=_run,
            args=(arguments, environment(**env or {}), cwd or Path.cwd(), outputs, tmp),
        )
        self._process.start()

    @property
    def pid(self) -> int:
        """Number of the process, of its group and of its session."""
        return self._process.pid or 0

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal, or None while it runs."""
        return self._process.exitcode

    def kill(self) -> None:
        """Kill it, as with ``kill -9``."""
        self._process.kill()
        self._process.join()

    def wait(self, timeout: float = 300) -> int:
        """Return the exit status at its end, which is an error if it comes too late."""
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            self.kill()
            raise AssertionError(f"no end after {timeout:g} s: {self.printed()}")
        return code

    def printed(self) -> str:
        """Return its outputs until now."""
        files = sorted(self._folder.glob("*"))
        return "\n".join(path.read_text() for path in files)

    def wait_for(self, text: str, timeout: float = 120) -> None:
        """Wait until it has printed a text."""
        deadline = time.monotonic() + timeout
        while text not in self.printed():
            assert self.poll() is None, f"it ended: {self.printed()}"
            assert time.monotonic() < deadline, f"not after {timeout:g} s: {self.printed()}"
            time.sleep(0.1)

    def finish(self, timeout: float = 550) -> subprocess.CompletedProcess[str]:
        """Wait for its end, and return its outputs, like :func:`subprocess.run`."""
        code = self.wait(timeout)
        stdout, stderr = (
            path.read_text() if (path := self._folder / name).exists() else ""
            for name in ("stdout", "stderr")
        )
        shutil.rmtree(self._folder)
        return subprocess.CompletedProcess(self.arguments, code, stdout, stderr)


def hepflow(
    *arguments: str,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 550,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, like :func:`subprocess.run` of ``python -m hepflow`` would."""
    return Command(*arguments, env=env, cwd=cwd).finish(timeout)


def listening_of(pid: int) -> list[Any]:
    """Return the addresses where a process and those that it started listen."""
    opened = []
    with suppress(psutil.Error):  # one has just ended
        first = psutil.Process(pid)
        for process in (first, *first.children(recursive=True)):
            with suppress(psutil.Error):
                opened += process.net_connections()
    return [each.laddr for each in opened if each.status == psutil.CONN_LISTEN]


def _run(
    arguments: tuple[str, ...],
    variables: dict[str, str],
    folder: Path,
    outputs: list[Path],
    tmp: Path | None,
) -> None:
    os.setsid()
    os.environ.clear()
    os.environ.update(variables)
    for descriptor, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), descriptor)
    tempfile.tempdir = None  # the server may have chosen it
    if tmp is not None:
        _mount_as_tmp(tmp, folder)
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = [str(Path(sys.executable).with_name("hepflow")), *arguments]
    from hepflow.__main__ import run  # noqa: PLC0415

    if threads := variables.get("OMP_NUM_THREADS"):
        import torch  # noqa: PLC0415

        torch.set_num_threads(int(threads))
    try:
        run()
    except Exception:  # noqa: BLE001
        sys.excepthook(*sys.exc_info())  # as Python does, and a fork of multiprocessing does not
        sys.exit(1)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        atexit._run_exitfuncs()


def _mount_as_tmp(tmp: Path, folder: Path) -> None:
    assert ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS) == 0, ctypes.get_errno()
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    for kept in (folder, ROOT, Path(sys.prefix)):
        if kept.is_relative_to("/tmp"):
            (tmp / kept.relative_to("/tmp")).mkdir(parents=True)
            subprocess.run(["mount", "--bind", kept, tmp / kept.relative_to("/tmp")], check=True)
    subprocess.run(["mount", "--rbind", tmp, "/tmp"], check=True)
