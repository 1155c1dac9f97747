"""Features and scores of Dask workers in Spark, with processes that are killed or cannot start."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from hepflow.config.stages import FeaturesConfig
from hepflow.score.tables import read_scores
from tests.support.calm_store import contents, made_calmly
from tests.support.commands import Command, hepflow
from tests.support.delphes_events import write_dataset
from tests.support.left_over import left_in, members
from tests.support.toy_trigger import untrained, write_raw

pytest.importorskip("pyspark", reason="needs hepflow[ingest]")

from tests.support.standalone_cluster import StandaloneCluster, standalone_cluster

pytestmark = [pytest.mark.slow, pytest.mark.spark]
FRAGMENTS = 12
SLOW_PHYSICS = """
import os, pathlib, time
import numpy as np
from hepflow.physics.features import compute_features

def features(events, definitions):
    time.sleep(0.3 if len(events) else 0)
    return compute_features(events, definitions)

def greedy(events, definitions):
    mark = pathlib.Path(os.environ["MARK"])
    if len(events) and not mark.exists():
        mark.touch()
        much = np.ones(3 * 2**27)
        time.sleep(60)
    return compute_features(events, definitions)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working folder with events, and physics that no other folder has."""
    write_dataset(tmp_path / "events", fragments=FRAGMENTS)
    (tmp_path / "slow.py").write_text(SLOW_PHYSICS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*more: str, physics: str = "features", master: str = "local[2]") -> tuple[str, ...]:
    """Return a command with relative paths, which are those of the folder that it is run in."""
    paths = ("--input", "events", "--output", "s.zarr", "--physics", f"slow:{physics}")
    paths += ("--part-mb", "0.001")
    own = ("--cluster.kind", "spark", "--cluster.memory", "2GiB", "--cluster.spark.master", master)
    return ("features", *paths, *own, "--cluster.spark.driver_memory", "512m", *more)


def calm(folder: Path, physics: str = "features") -> dict[str, bytes]:
    places = {"input": folder / "events", "output": folder / "s.zarr"}
    config = FeaturesConfig(**places, physics=f"slow:{physics}", part_mb=0.001)
    return made_calmly(config, folder / "calm.zarr")


def begun(*words: str, cwd: Path, parts: int = 3) -> Command:
    """Start a command, and wait until it has made some parts."""
    running = Command(*words, cwd=cwd)
    deadline = time.monotonic() + 120
    while len(list((cwd / "s.zarr" / "_parts").glob("[0-9]*.json"))) < parts:
        assert running.poll() is None, running.printed()
        assert time.monotonic() < deadline, running.printed()
        time.sleep(0.05)
    return running


def kill(session: int, what: str) -> None:
    """Kill a process of a session whose command line has a word."""
    next(process for process, line in members(session) if what in line).send_signal(signal.SIGKILL)


def test_when_the_driver_is_killed_nothing_remains(folder: Path) -> None:
    running = begun(*command(), cwd=folder, parts=1)
    running.kill()
    assert left_in(running.pid) == []


def test_when_spark_s_java_dies_the_command_ends_in_one_line_and_resumes(folder: Path) -> None:
    running = begun(*command(), cwd=folder)
    kill(running.pid, "SparkSubmit")
    ended = running.finish(60)
    assert ended.returncode == 2
    assert "error: Spark's Java process died (out of memory?). Run the same" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert left_in(running.pid) == []
    again = hepflow(*command(), cwd=folder)
    assert again.returncode == 0, again.stderr
    assert f"of {FRAGMENTS} parts" in again.stderr
    assert contents(folder / "s.zarr") == calm(folder)


def test_workers_that_cannot_start_end_the_command_with_the_reason(folder: Path) -> None:
    python = "--cluster.spark.conf.spark.pyspark.python"
    ended = hepflow(*command(python, "/no/such/python"), cwd=folder)
    assert ended.returncode == 2
    said = 'the Spark job of the Dask workers failed: Cannot run program "/no/such/python"'
    assert said in " ".join(ended.stderr.split())
    assert "Traceback" not in ended.stderr


def test_a_worker_that_needs_more_than_its_memory_is_replaced(folder: Path) -> None:
    words = command(physics="greedy")
    ended = hepflow(*words, cwd=folder, env={"MARK": str(folder / "mark")})
    assert ended.returncode == 0, ended.stderr
    assert (folder / "mark").exists()
    assert "a Dask worker used " in ended.stderr
    os.environ["MARK"] = str(folder / "mark")
    assert contents(folder / "s.zarr") == calm(folder, "greedy")


def test_where_spark_wants_a_secret_the_connections_of_dask_are_encrypted() -> None:
    pytest.importorskip("cryptography", reason="pip install cryptography")
    code = """
from hepflow.config.engines import ClusterConfig, DaskOnSparkConfig
from hepflow.engines.dask import dask_client
spark = DaskOnSparkConfig(master="local[1]", conf={"spark.authenticate": "true"})
with dask_client(ClusterConfig(kind="spark", memory="1GiB", spark=spark), 1) as client:
    print(client.scheduler.address, client.submit(sum, [1, 2]).result())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert re.fullmatch(r"tls://\S+ 3\n", done.stdout), done.stderr


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandaloneCluster]:
    with standalone_cluster(
        tmp_path_factory.mktemp("cluster"), workers=2, cores=2, memory="1g"
    ) as running:
        yield running


def test_a_cluster_that_loses_an_executor_makes_the_same_store(
    cluster: StandaloneCluster, folder: Path
) -> None:
    """Executors run in other folders, where relative paths and the physics are not found."""
    words = command("--cluster.workers", "4", master=cluster.url)
    running = begun(*words, cwd=folder)
    (executor, *others) = [
        child
        for node in cluster.nodes
        for child in node.children(recursive=True)
        if "CoarseGrainedExecutorBackend" in " ".join(child.cmdline())
    ]
    executor.kill()
    ended = running.finish()
    assert ended.returncode == 0, ended.stderr
    assert len(others) == 1, "two workers in each"
    assert "to open the Dask dashboard from outside: ssh -N -L " in ended.stderr
    assert contents(folder / "s.zarr") == calm(folder)
    _, alive = psutil.wait_procs([executor, *others], timeout=30)
    assert not alive, "executors outlive the application"


def test_while_no_worker_has_come_the_terminal_says_so(
    cluster: StandaloneCluster, folder: Path
) -> None:
    """A Python that starts late stands for a slow disk, or a firewall."""
    late = folder / "python"
    late.write_text(f'#!/bin/sh\nsleep 14\nexec {sys.executable} "$@"\n')
    late.chmod(0o755)
    python = ("--cluster.spark.conf.spark.pyspark.python", str(late))
    waits = Command(*command("--cluster.workers", "1", *python, master=cluster.url), cwd=folder)
    waits.wait_for("Spark runs, but no Dask worker has reached the scheduler at tcp:")
    ended = waits.finish()
    assert ended.returncode == 0, ended.stderr


def test_scores_are_those_of_a_local_cluster(cluster: StandaloneCluster, folder: Path) -> None:
    for number in range(3):
        write_raw(folder / "raw" / "qcd" / f"{number}.root", [60], seed=number)
    model = untrained(folder / "model", folder / "raw" / "qcd" / "0.root")
    own = ("score", "--input", "raw", "--model", str(model.relative_to(folder)))
    spark = ("--cluster.kind", "spark", "--cluster.spark.master", cluster.url)
    for output, more in {"here": (), "there": (*spark, "--cluster.memory", "2GiB")}.items():
        ended = hepflow(*own, "--output", output, "--cluster.workers", "2", *more, cwd=folder)
        assert ended.returncode == 0, ended.stderr
    here, there = (read_scores(folder / name).sort_by("event_id") for name in ("here", "there"))
    assert here == there
    assert len(here) > 0
