"""Run hepflow commands without their start-up: in forks of a process that has imported everything.

Importing torch, Lightning, Spark and Dask takes 5 to 15 seconds of a processor, and a fork of the
process that did takes milliseconds. Everything else is that of a command: a process, arguments,
environment, folder, exit status and both outputs of its own. Tests of the start itself, of signals
and of kills start Python instead (:func:`started`).

What a library reads from the environment while it is imported keeps the value that it had in the
server; ``OMP_NUM_THREADS`` is applied to torch by hand.
"""

import atexit
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
_IMPORTED_ONCE = [
    "numba",
    "pytorch_lightning",
    "distributed",
    "pyspark.sql",
    "hepflow.train.cli",
    "hepflow.features.job",
]
_FORKS = multiprocessing.get_context("forkserver")


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a command: on this machine alone, and ``tests`` can be imported."""
    here = {"MASTER_ADDR": "127.0.0.1", "SPARK_LOCAL_IP": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    return os.environ | {"PYTHONPATH": str(ROOT)} | here | more


def started(*arguments: str) -> list[str]:
    """Return the command line that starts hepflow in a new Python."""
    return [sys.executable, "-m", "hepflow", *arguments]


def hepflow(
    *arguments: str,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 550,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, like :func:`subprocess.run` of ``python -m hepflow`` would."""
    _FORKS.set_forkserver_preload(_IMPORTED_ONCE)
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder) / name for name in ("stdout", "stderr")]
        process = _FORKS.Process(
            target=_run, args=(arguments, environment(**env or {}), str(cwd or Path.cwd()), outputs)
        )
        process.start()
        process.join(timeout)
        late = process.exitcode is None
        if late:
            process.kill()
            process.join()
        stdout, stderr = (path.read_text() if path.exists() else "" for path in outputs)
    assert not late, f"no end after {timeout} s:\n{stdout}\n{stderr}"
    return subprocess.CompletedProcess(arguments, process.exitcode, stdout, stderr)


def _run(
    arguments: tuple[str, ...], variables: dict[str, str], folder: str, outputs: list[Path]
) -> None:
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    for descriptor, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), descriptor)
    sys.argv = [str(Path(sys.executable).with_name("hepflow")), *arguments]
    from hepflow.__main__ import run  # noqa: PLC0415

    if threads := variables.get("OMP_NUM_THREADS"):
        import torch  # noqa: PLC0415

        torch.set_num_threads(int(threads))
    try:
        run()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        atexit._run_exitfuncs()
