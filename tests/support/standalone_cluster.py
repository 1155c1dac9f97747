"""A standalone Spark cluster on this machine: a master and workers, one process each."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyspark
import pytest

from hepflow.engines.java import java_home


@dataclass(frozen=True)
class StandaloneCluster:
    """Handle of a running cluster."""

    url: str
    status: str
    """Address of the master's status."""
    nodes: tuple[psutil.Popen, ...]
    home: Path
    environment: dict[str, str]


@contextmanager
def standalone_cluster(
    work: Path, *, workers: int, cores: int, memory: str, apart: bool = False
) -> Iterator[StandaloneCluster]:
    """A cluster for the length of a ``with`` block.

    Parameters
    ----------
    work : Path
        Folder for what its workers write.
    workers, cores : int
        Workers, and cores that each claims to have.
    memory : str
        Of each worker, for executors' heaps.
    apart : bool
        Each worker has an address of its own: for Spark, it is another machine.
    """
    home = Path(pyspark.__file__).parent
    environment = os.environ | {
        "SPARK_HOME": str(home),
        "JAVA_HOME": str(java_home()),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",  # a Java that starts fast
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
    }
    port, web = _free_ports(2)
    url = f"spark://127.0.0.1:{port}"

    def start(name: str, *options: str, number: int = 1) -> psutil.Popen:
        command = [
            home / "bin" / "spark-class",
            f"org.apache.spark.deploy.{name}",
            "--host",
            f"127.0.0.{number}",
            *options,
        ]
        return psutil.Popen(
            command, env=environment, cwd=work, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    with ExitStack() as stack:
        master = start("master.Master", "--port", str(port), "--webui-port", str(web))
        stack.callback(end, master)
        sizes = ("--cores", str(cores), "--memory", memory, "--webui-port", "0")
        nodes = tuple(
            start(
                "worker.Worker",
                *sizes,
                "--work-dir",
                str(work / f"worker-{n}"),
                url,
                number=n if apart else 1,
            )
            for n in range(1, workers + 1)
        )
        for node in nodes:
            stack.callback(end, node)
        status = f"http://127.0.0.1:{web}/json/"
        _wait_for_workers(status, workers)
        yield StandaloneCluster(url, status, nodes, home, environment)


def end(process: psutil.Popen) -> None:
    """It and all that it started."""
    with suppress(psutil.NoSuchProcess):
        for child in (*process.children(recursive=True), process):
            with suppress(psutil.NoSuchProcess):
                child.kill()
    process.wait()


def ask(status: str) -> dict[str, Any]:
    """Return the master's status."""
    with urllib.request.urlopen(status, timeout=10) as answer:
        return json.load(answer)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _wait_for_workers(status: str, wanted: int) -> None:
    for _ in range(600):
        with suppress(OSError, ValueError):
            if ask(status)["aliveworkers"] == wanted:
                return
        time.sleep(0.1)
    pytest.fail(f"the master at {status} does not have {wanted} workers")
