"""A standalone cluster of two workers on this machine: by configuration, by spark-submit, and with one node lost on the way."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pyspark
import pytest
from root_files import copy_as_new, passing_ids, write_delphes

import hepflow
from hepflow.ledger import read_json
from hepflow.spark import java_home

pytestmark = [pytest.mark.spark, pytest.mark.slow]
CONFIGS = Path(__file__).parents[1] / "configs"
N_FILES = 16


@dataclass(frozen=True)
class Cluster:
    url: str
    status: str
    nodes: tuple[psutil.Popen, ...]
    home: Path
    environment: dict[str, str]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("standalone")
    template = write_delphes(root / "template", [300] * 3)
    for number in range(N_FILES):
        copy_as_new(template, root / "raw" / "qcd" / f"{number:02d}.root", number + 1)
    return root / "raw"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    home, work = Path(pyspark.__file__).parent, tmp_path_factory.mktemp("cluster")
    environment = os.environ | {
        "SPARK_HOME": str(home),
        "JAVA_HOME": str(java_home()),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
    }
    port, web = free_ports(2)
    url = f"spark://127.0.0.1:{port}"

    def start(name: str, *options: str) -> psutil.Popen:
        command = [home / "bin" / "spark-class", f"org.apache.spark.deploy.{name}", "--host", "127.0.0.1", *options]
        return psutil.Popen(command, env=environment, cwd=work, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    with ExitStack() as stack:
        master = start("master.Master", "--port", str(port), "--webui-port", str(web))
        stack.callback(end, master)
        sizes = ("--cores", "4", "--memory", "2g", "--webui-port", "0")  # an executor of configs/spark/standalone.yaml
        nodes = tuple(start("worker.Worker", *sizes, "--work-dir", str(work / name), url) for name in ("one", "two"))
        for node in nodes:
            stack.callback(end, node)
        status = f"http://127.0.0.1:{web}/json/"
        wait_for_workers(status, len(nodes))
        yield Cluster(url, status, nodes, home, environment)


def end(process: psutil.Popen) -> None:
    """It and all that it started."""
    with suppress(psutil.NoSuchProcess):
        for child in (*process.children(recursive=True), process):
            with suppress(psutil.NoSuchProcess):
                child.kill()
    process.wait()


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait_for_workers(status: str, wanted: int) -> None:
    for _ in range(600):
        with suppress(OSError, ValueError):
            if ask(status)["aliveworkers"] == wanted:
                return
        time.sleep(0.1)
    pytest.fail(f"the master at {status} does not have {wanted} workers")


def ask(status: str) -> dict[str, Any]:
    with urllib.request.urlopen(status, timeout=10) as answer:
        return json.load(answer)


def ids(output: Path) -> list[int]:
    fragments = read_json(output / "_hepflow.json")["fragments"]
    return sorted(each for name in fragments for each in pq.read_table(output / name, columns=["event_id"])["event_id"].to_pylist())


def options(raw: Path, output: Path) -> list[str]:
    return [f"--input={raw}", f"--output={output}", "--samples={qcd: [qcd]}", "--target_partition_mb=1"]


def test_a_cluster_that_loses_a_node_gives_the_same_events(cluster: Cluster, raw: Path, tmp_path: Path) -> None:
    files = [f"--config={CONFIGS / name}" for name in ("ingest.yaml", "spark/standalone.yaml")]
    command = [sys.executable, "-m", "hepflow", "ingest", *files, *options(raw, tmp_path / "out"), f"--spark.master={cluster.url}"]
    with subprocess.Popen(command, env=cluster.environment, stderr=subprocess.PIPE, text=True) as driver:
        while driver.poll() is None and not list((tmp_path / "out" / "_records").glob("*.json")):
            time.sleep(0.01)
        running = driver.poll() is None
        end(cluster.nodes[0])
        said = driver.communicate(timeout=300)[1]
    assert driver.returncode == 0, said
    assert running
    assert f"on {cluster.url}, UI at http" in said.replace("\n", " ")
    assert ids(tmp_path / "out") == passing_ids(raw)


def test_spark_submit_runs_the_same_job(cluster: Cluster, raw: Path, tmp_path: Path) -> None:
    job = Path(hepflow.__file__).with_name("__main__.py")
    command = [cluster.home / "bin" / "spark-submit", "--master", cluster.url, "--executor-memory", "1g", job, "ingest"]
    command += options(raw, tmp_path / "out")
    before = len(ask(cluster.status)["completedapps"])
    done = subprocess.run(command, env=cluster.environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    names = [app["name"] for app in ask(cluster.status)["completedapps"]]
    assert len(names) == before + 1, "spark-submit's word on the master holds"
    assert names.count("hepflow ingest") == len(names)
    assert ids(tmp_path / "out") == passing_ids(raw)
