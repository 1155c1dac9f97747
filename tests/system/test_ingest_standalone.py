"""A standalone cluster of two workers: by configuration, by spark-submit, and losing a node."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import hepflow
from hepflow.system.files import read_json
from hepflow_bench.copies import copy_as_new
from tests.support.commands import Command
from tests.support.root_files import passing_ids, write_delphes

pytest.importorskip("pyspark", reason="needs hepflow[ingest]")

from tests.support.standalone_cluster import StandaloneCluster, ask, end, standalone_cluster

pytestmark = [pytest.mark.spark, pytest.mark.slow]
CONFIGS = Path(__file__).parents[2] / "configs"
N_FILES = 16


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("standalone")
    template = write_delphes(root / "template", [300] * 3)
    for number in range(N_FILES):
        copy_as_new(template, root / "raw" / "qcd" / f"{number:02d}.root", number + 1)
    return root / "raw"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandaloneCluster]:
    # each worker has room for one executor of configs/spark/standalone.yaml
    with standalone_cluster(
        tmp_path_factory.mktemp("cluster"), workers=2, cores=4, memory="2g"
    ) as running:
        yield running


def ids(output: Path) -> list[int]:
    fragments = read_json(output / "_hepflow.json")["fragments"]
    return sorted(
        each
        for name in fragments
        for each in pq.read_table(output / name, columns=["event_id"])["event_id"].to_pylist()
    )


def options(raw: Path, output: Path) -> list[str]:
    return [
        f"--input={raw}",
        f"--output={output}",
        "--samples={qcd: [qcd]}",
        "--target_partition_mb=1",
    ]


def test_a_cluster_that_loses_a_node_gives_the_same_events(
    cluster: StandaloneCluster, raw: Path, tmp_path: Path
) -> None:
    files = [f"--config={CONFIGS / name}" for name in ("ingest.yaml", "spark/standalone.yaml")]
    command = [
        sys.executable,
        "-m",
        "hepflow",
        "ingest",
        *files,
        *options(raw, tmp_path / "out"),
        f"--spark.master={cluster.url}",
    ]
    with subprocess.Popen(
        command, env=cluster.environment, stderr=subprocess.PIPE, text=True
    ) as driver:
        while driver.poll() is None and not list((tmp_path / "out" / "_records").glob("*.json")):
            time.sleep(0.01)
        running = driver.poll() is None
        end(cluster.nodes[0])
        said = driver.communicate(timeout=300)[1]
    assert driver.returncode == 0, said
    assert running
    assert f"on {cluster.url}, UI at http" in said.replace("\n", " ")
    assert ids(tmp_path / "out") == passing_ids(raw)


def test_spark_submit_runs_the_same_job(
    cluster: StandaloneCluster, raw: Path, tmp_path: Path
) -> None:
    job = Path(hepflow.__file__).with_name("__main__.py")
    command = [
        cluster.home / "bin" / "spark-submit",
        "--master",
        cluster.url,
        "--executor-memory",
        "1g",
        job,
        "ingest",
    ]
    command += options(raw, tmp_path / "out")
    before = len(ask(cluster.status)["completedapps"])
    done = subprocess.run(
        command, env=cluster.environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    names = [app["name"] for app in ask(cluster.status)["completedapps"]]
    assert len(names) == before + 1, "spark-submit's word on the master holds"
    assert names.count("hepflow ingest") == len(names)
    assert ids(tmp_path / "out") == passing_ids(raw)


def test_a_cluster_without_room_is_named_while_a_run_waits(
    cluster: StandaloneCluster, raw: Path, tmp_path: Path
) -> None:
    too_much = json.dumps({"spark.executor.memory": "64g"})
    on = ("--spark.master", cluster.url, "--spark.conf", too_much)
    waits = Command("ingest", *options(raw, tmp_path / "events"), *on)
    waits.wait_for(f"{cluster.url} has started no executor of 64g")
    os.kill(waits.pid, signal.SIGINT)
    assert waits.wait() == 130
