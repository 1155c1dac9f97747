"""The features stage with killed workers and a killed client: always the same bytes in the end."""

import signal
import threading
import time

import psutil
import pytest

from hepflow.config.engines import ClusterConfig
from hepflow.config.stages import FeaturesConfig
from hepflow.data.store import EventStore
from hepflow.features.job import run
from tests.support.calm_store import contents, made_calmly
from tests.support.commands import Command, hepflow
from tests.support.delphes_events import write_dataset

pytestmark = pytest.mark.slow

PART_MB = 0.001  # a part for each fragment
LOCAL = ClusterConfig(workers=2, memory="2GiB")
SLOW_PHYSICS = """
import time
from hepflow.physics.features import compute_features

def features(events, definitions):
    time.sleep(0.3 if len(events) else 0)
    return compute_features(events, definitions)
"""


def n_parts(config: FeaturesConfig) -> int:
    return len(list(config.output.glob("_parts/[0-9]*.json")))


def is_worker(process: psutil.Process) -> bool:
    try:
        return "spawn_main" in " ".join(process.cmdline()) and not process.children()
    except psutil.Error:  # a zombie, or gone
        return False


def test_a_run_survives_workers_that_are_killed(tmp_path):
    config = FeaturesConfig(
        input=write_dataset(tmp_path / "events", fragments=20),
        output=tmp_path / "s.zarr",
        part_mb=PART_MB,
        cluster=LOCAL,
    )
    done, killed = threading.Event(), []

    def kill_workers():
        """Kill two workers, one at a time, once work has begun."""
        while not done.wait(0.2) and len(killed) < 2:
            workers = [p for p in psutil.Process().children(recursive=True) if is_worker(p)]
            if n_parts(config) > 5 * len(killed) and workers:
                killed.append(workers[0].pid)
                workers[0].send_signal(signal.SIGKILL)

    killer = threading.Thread(target=kill_workers)
    killer.start()
    try:
        run(config)
    finally:
        done.set()
        killer.join()
    assert killed
    assert EventStore.open(config.output).ledger().n_in == 20 * 20
    assert contents(config.output) == made_calmly(config, tmp_path / "calm.zarr")


@pytest.mark.once
def test_after_the_client_and_its_scheduler_are_killed_the_same_command_resumes(
    tmp_path, monkeypatch
):
    (tmp_path / "slow.py").write_text(SLOW_PHYSICS)
    monkeypatch.chdir(tmp_path)
    config = FeaturesConfig(
        input=write_dataset(tmp_path / "events", fragments=12),
        output=tmp_path / "s.zarr",
        part_mb=PART_MB,
        physics="slow:features",
    )
    options = {
        "input": config.input,
        "output": config.output,
        "physics": config.physics,
        "part_mb": PART_MB,
        "cluster.workers": 2,
        "cluster.memory": "2GiB",
    }
    words = tuple(word for key, value in options.items() for word in (f"--{key}", str(value)))
    command = ("features", *words)
    client = Command(*command)
    deadline = time.monotonic() + 120
    while n_parts(config) < 4:
        assert client.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    workers = psutil.Process(client.pid).children(recursive=True)
    client.kill()
    numbers = [int(path.stem) for path in config.output.glob("_parts/[0-9]*.json")]
    shards = [config.output / "label" / f"c.{number}" for number in numbers]
    done = {path: path.stat().st_mtime_ns for path in shards if path.is_file()}
    again = hepflow(*command)
    assert again.returncode == 0, again.stderr
    assert f"{len(done)} of 12 parts" in again.stderr
    assert 4 <= len(done) < 12
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert contents(config.output) == made_calmly(config, tmp_path / "calm.zarr")
    _, orphans = psutil.wait_procs(workers, timeout=60)
    assert not orphans, "workers outlive their client"
