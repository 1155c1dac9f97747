"""A YARN for the tests on one machine: Hadoop's, or else a stand-in made of Spark's RPC classes.

Hadoop's ResourceManager and NodeManager come from HADOOP_HOME, or from jars that Maven has fetched
(see yarn/pom.xml).

The stand-in (yarn/MiniYarn.java) implements YARN's three protocols, localises files and runs
containers as processes; it has no scheduler, queues, users or isolation. It proves that Spark's
submission is complete, and that master and executors run from it.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hepflow.engines.spark import java_home
from hepflow.errors import MissingDependency

SOURCE, POM = (Path(__file__).parent / "yarn" / name for name in ("MiniYarn.java", "pom.xml"))
HADOOP_VERSION = POM.read_text().split("<hadoop>")[1].split("<")[0]
QUEUES = ("default", "research")
START_TIMEOUT_S, POLL_S = 120.0, 0.2
TO_THE_SCREEN = """
log4j.rootLogger=INFO,screen
log4j.appender.screen=org.apache.log4j.ConsoleAppender
log4j.appender.screen.layout=org.apache.log4j.PatternLayout
log4j.appender.screen.layout.ConversionPattern=%d %p %c{1} %m%n
"""


def _kind() -> str:
    if os.environ.get("HADOOP_HOME"):
        return "resourcemanager_of_hadoop_home"
    jars = (
        Path.home()
        / ".m2"
        / "repository"
        / "org"
        / "apache"
        / "hadoop"
        / "hadoop-client-minicluster"
        / HADOOP_VERSION
    )
    return (
        "resourcemanager_from_maven"
        if shutil.which("mvn") and any(jars.glob("*.jar"))
        else "stand_in"
    )


KIND = _kind()


def why_not() -> str | None:
    """The reason why no YARN can be started here, or None."""
    try:
        java_home()
    except MissingDependency as error:
        return str(error)
    if KIND == "stand_in" and shutil.which("javac") is None:
        missing = "no HADOOP_HOME, no jars from Maven, and no javac for the stand-in"
        return f"{missing}: apt-get install openjdk-17-jdk-headless"
    return None


@dataclass(frozen=True)
class YarnCluster:
    """Handle of a running cluster."""

    root: Path

    @property
    def environment(self) -> dict[str, str]:
        """Environment in which Spark finds this cluster."""
        return {
            **os.environ,
            "HADOOP_CONF_DIR": str(self.root / "conf"),
            "JAVA_HOME": str(java_home()),
        }

    @property
    def log(self) -> str:
        """Return the output of the cluster; one line per container for the stand-in."""
        return "".join(path.read_text() for path in sorted(self.root.glob("*.log")))


@contextmanager
def yarn_cluster(root: Path, spark_home: Path) -> Iterator[YarnCluster]:
    """A cluster of one node for the length of a ``with`` block.

    Parameters
    ----------
    root : Path
        Folder for configuration, logs and containers.
    spark_home : Path
        Of the pyspark package, whose jars the stand-in is built on.
    """
    cluster = YarnCluster(root)
    _write_configuration(root)
    commands = _stand_in(root, spark_home) if KIND == "stand_in" else _hadoop(root)
    running = []
    try:
        for name, command in commands.items():
            with (root / f"{name}.log").open("w") as log:
                running.append(
                    subprocess.Popen(
                        command, env=cluster.environment, stdout=log, stderr=subprocess.STDOUT
                    )
                )
        _wait_until_ready(cluster, running)
        yield cluster
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(timeout=60)


def _write_configuration(root: Path) -> None:
    ports = _free_ports(8)
    addresses = (
        "address",
        "scheduler.address",
        "resource-tracker.address",
        "admin.address",
        "webapp.address",
    )
    queues = {
        f"yarn.scheduler.capacity.root.{name}.capacity": 100 // len(QUEUES) for name in QUEUES
    }
    files: dict[str, Mapping[str, object]] = {
        "core-site": {"fs.defaultFS": "file:///"},
        "yarn-site": {
            **{f"yarn.resourcemanager.{name}": f"127.0.0.1:{ports.pop()}" for name in addresses},
            **{
                f"yarn.nodemanager.{name}": f"127.0.0.1:{ports.pop()}"
                for name in ("address", "localizer.address", "webapp.address")
            },
            "yarn.application.classpath": "",
            "yarn.nodemanager.local-dirs": root / "local",
            "yarn.nodemanager.log-dirs": root / "logs",
            "yarn.nodemanager.resource.memory-mb": 16384,
            "yarn.nodemanager.resource.cpu-vcores": 16,
            "yarn.nodemanager.vmem-check-enabled": "false",
            "yarn.nodemanager.disk-health-checker.max-disk-utilization-per-disk-percentage": 100,
            "yarn.scheduler.minimum-allocation-mb": 128,
        },
        "capacity-scheduler": {
            "yarn.scheduler.capacity.root.queues": ",".join(QUEUES),
            "yarn.scheduler.capacity.maximum-am-resource-percent": 1,
            **queues,
        },
    }
    (root / "conf").mkdir(parents=True)
    (root / "conf" / "log4j.properties").write_text(
        TO_THE_SCREEN
    )  # of Hadoop's own daemons, whose words are waited for
    for name, properties in files.items():
        lines = [
            f"<property><name>{key}</name><value>{value}</value></property>"
            for key, value in properties.items()
        ]
        (root / "conf" / f"{name}.xml").write_text(
            "\n".join(["<configuration>", *lines, "</configuration>"])
        )


def _stand_in(root: Path, spark_home: Path) -> dict[str, list[str]]:
    jars = [
        str(jar)
        for pattern in ("hadoop-client-*.jar", "*.jar")
        for jar in sorted((spark_home / "jars").glob(pattern))
    ]
    subprocess.run(
        [
            "javac",
            "-proc:none",
            "-cp",
            ":".join(jars[:2]),
            "-d",
            str(root / "classes"),
            str(SOURCE),
        ],
        check=True,
        timeout=120,
    )
    path = ":".join([str(root / "conf"), str(root / "classes"), *jars])
    quick = ("-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
    return {"yarn": [str(java_home() / "bin" / "java"), *quick, "-cp", path, "MiniYarn", str(root)]}


def _hadoop(root: Path) -> dict[str, list[str]]:
    servers = {"resourcemanager": "ResourceManager", "nodemanager": "NodeManager"}
    if home := os.environ.get("HADOOP_HOME"):
        return {
            name: [str(Path(home) / "bin" / "yarn"), "--config", str(root / "conf"), name]
            for name in servers
        }
    jars = root / "jars.txt"
    fetch = [
        "mvn",
        "--batch-mode",
        "--quiet",
        "--offline",
        f"--file={POM}",
        "dependency:build-classpath",
        f"-Dmdep.outputFile={jars}",
    ]
    subprocess.run(fetch, check=True, timeout=120)
    java = [
        str(java_home() / "bin" / "java"),
        "-Xmx512m",
        "-cp",
        f"{root / 'conf'}:{jars.read_text().strip()}",
    ]
    return {
        name: [*java, f"org.apache.hadoop.yarn.server.{name}.{main}"]
        for name, main in servers.items()
    }


def _wait_until_ready(cluster: YarnCluster, running: list[subprocess.Popen[bytes]]) -> None:
    words = ("READY", "registered with capability")  # of the stand-in, of the resource manager
    deadline = time.monotonic() + START_TIMEOUT_S
    while not any(word in cluster.log for word in words):
        if time.monotonic() > deadline or any(process.poll() is not None for process in running):
            msg = f"YARN did not start\n{cluster.log[-4000:]}"
            raise RuntimeError(msg)
        time.sleep(POLL_S)


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports
