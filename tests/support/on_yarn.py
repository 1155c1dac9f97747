"""Commands on Hadoop's YARN, by hepflow itself or by spark-submit, in small containers."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

import hepflow
from hepflow.config.shipped import shipped
from tests.support.commands import ROOT
from tests.support.hadoop_cluster import Hadoop

_SPARK = importlib.util.find_spec("pyspark")
SPARK_HOME = Path(str(_SPARK and _SPARK.origin)).parent
MAIN = str(Path(hepflow.__path__[0]) / "__main__.py")
_QUICK = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
SMALL = {
    "spark.yarn.jars": f"local:{SPARK_HOME}/jars/*",
    "spark.yarn.queue": "research",
    "spark.yarn.maxAppAttempts": "1",
    **{f"spark.{one}.extraJavaOptions": _QUICK for one in ("driver", "yarn.am", "executor")},
    "spark.executor.memory": "512m",
    "spark.executor.memoryOverhead": "1g",
    "spark.executor.cores": "1",
    "spark.dynamicAllocation.maxExecutors": "1",
}
"""Properties of quick starts: the nodes have Spark's jars, and a container gets 1.5 GB."""
PACKED = {
    "spark.yarn.dist.archives": "environment.tar.gz#environment",
    "spark.pyspark.python": "./environment/bin/python",
}
"""Properties of containers with a packed environment."""
OURS = {
    "spark.pyspark.python": sys.executable,
    "spark.executorEnv.PYTHONPATH": str(ROOT),
    "spark.yarn.appMasterEnv.PYTHONPATH": str(ROOT),
}
"""Properties of containers with the Python and the hepflow of the tests."""


def yarn_yaml(folder: Path, **properties: str | None) -> str:
    """Write the shipped configuration of YARN with some properties, and return its option."""
    text = yaml.safe_load(shipped("spark/yarn.yaml").read_text())
    conf = {**text["spark"]["conf"], **SMALL, **properties}
    text["spark"] |= {"driver_memory": "512m", "conf": conf}
    path = folder / "yarn.yaml"
    path.write_text(yaml.safe_dump(text))
    return f"--config={path}"


def environment(cluster: Hadoop | None) -> dict[str, str]:
    """Return the environment of a command; containers have a Python of their own."""
    found = {**(cluster.environment if cluster else os.environ)}
    for name in ("PYSPARK_PYTHON", "PYTHONPATH"):
        found.pop(name, None)
    here = {"SPARK_LOCAL_IP": "127.0.0.1", "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    return found | here


def run(
    command: Sequence[str], folder: Path, cluster: Hadoop | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    return subprocess.run(
        command,
        cwd=folder,
        env=environment(cluster),
        capture_output=True,
        text=True,
        check=False,
        timeout=550,
    )


def hepflow_here(
    folder: Path, *arguments: str, cluster: Hadoop | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command with its driver on this machine."""
    return run([sys.executable, "-m", "hepflow", *arguments], folder, cluster)


def submission(*arguments: str, properties: Mapping[str, str], executors: int) -> list[str]:
    """Return the command line of spark-submit for a command with its driver in the cluster."""
    command = [str(SPARK_HOME / "bin" / "spark-submit"), "--master", "yarn"]
    command += ["--deploy-mode", "cluster", "--driver-memory", "512m"]
    command += ["--num-executors", str(executors)]
    for name, value in properties.items():
        command += ["--conf", f"{name}={value}"]
    return [*command, MAIN, *arguments]
