"""`hepflow features` with its Dask workers in the jobs of a batch system, as a child process."""

import stat
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from hepflow.config.engines import ClusterConfig
from hepflow.config.stages import FeaturesConfig
from hepflow.features.job import run
from tests.support.delphes_events import write_dataset

SLOW_PHYSICS = """
import time
from hepflow.physics.features import compute_features

def features(events, definitions):
    time.sleep(1.0 if len(events) else 0)
    return compute_features(events, definitions)
"""


def write_input(folder: Path, fragments: int) -> None:
    """Write a dataset whose fragments take a second each."""
    write_dataset(folder / "events", fragments=fragments, events=5)
    (folder / "slow.py").write_text(SLOW_PHYSICS)


class Features:
    """A run in a folder, of two jobs of one worker each unless the options differ."""

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str],
        kind: str,
        *directives: str,
        prefix: Sequence[str] = (),
        **options: str,
    ) -> None:
        self.folder = folder
        words = "features --input events --output s.zarr --physics slow:features --part-mb 0.001"
        jobs = {"interface": "lo", "workers_per_job": "1", "max_jobs": "2", **options}
        more = [word for key, value in jobs.items() for word in (f"--cluster.jobs.{key}", value)]
        if directives:
            more += ["--cluster.jobs.directives", f"[{', '.join(directives)}]"]
        more += ["--cluster.kind", kind, "--cluster.memory", "1GiB"]
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "hepflow", *words.split(), *more],
            cwd=folder,
            env=dict(environment),
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, what: str, timeout_s: float = 120) -> None:
        """Wait until something is printed."""
        assert self.process.stderr is not None
        deadline, printed = time.monotonic() + timeout_s, ""
        while what not in printed:
            line = self.process.stderr.readline()
            printed += line
            assert line, f"no {what!r} in {printed}"
            assert time.monotonic() < deadline, f"no {what!r} in {printed}"

    def wait_for_parts(self, n: int, timeout_s: float = 240) -> None:
        """Wait until so many parts of the store are finished."""
        deadline = time.monotonic() + timeout_s
        while len(list((self.folder / "s.zarr" / "_parts").glob("[0-9]*.json"))) < n:
            assert self.process.poll() is None, self.end()
            assert time.monotonic() < deadline
            time.sleep(0.2)

    def end(self, timeout_s: float = 300) -> tuple[int, str]:
        """Return the exit status, and the rest of standard error."""
        _, errors = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, errors

    def interrupt(self) -> None:
        """End the run."""
        self.process.terminate()
        self.end(60)


def same_as_local(folder: Path) -> bool:
    """Whether the run's store has the bytes of one that is made without a batch system."""
    local = ClusterConfig(workers=2, memory="1GiB")
    options = {"input": folder / "events", "output": folder / "t.zarr", "physics": "slow:features"}
    run(FeaturesConfig(cluster=local, part_mb=0.001, **options))
    return _contents(folder / "s.zarr") == _contents(folder / "t.zarr")


def _contents(path: Path) -> dict[str, bytes]:
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def private_keys(folder: Path) -> list[Path]:
    """Return the files with the keys of runs in a folder, which nobody else can read."""
    keys = [*folder.glob("hepflow-*/*.pem")]
    for key in keys:
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700
    return keys


def only_tls(logs: Iterable[Path]) -> bool:
    """Whether the workers of jobs have connected by TLS alone, by their logs."""
    printed = "".join(log.read_text() for log in logs)
    return "tls://" in printed and "tcp://" not in printed


def reason_in(errors: str) -> str:
    """Return the last line, which gives the mistake without a traceback."""
    assert "Traceback" not in errors, errors
    last = errors.strip().rpartition("\n")[2]
    assert last.startswith("hepflow: error: cluster."), errors
    return last
