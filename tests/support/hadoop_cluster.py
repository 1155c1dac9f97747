"""Hadoop's own servers on this machine, each a process that a test may kill.

HDFS is a NameNode and a DataNode, YARN a ResourceManager and NodeManagers.
"""

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from hepflow.engines.java import java_home
from tests.support.jars import HADOOP

QUEUES = ("default", "research")
START_TIMEOUT_S, POLL_S = 120.0, 0.1
QUICK = ("-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto")
HDFS, YARN = ("namenode", "datanode"), ("resourcemanager", "nodemanager")
SECOND = "nodemanager-2"
_MAIN = {
    "namenode": "hdfs.server.namenode.NameNode",
    "datanode": "hdfs.server.datanode.DataNode",
    "resourcemanager": "yarn.server.resourcemanager.ResourceManager",
    "nodemanager": "yarn.server.nodemanager.NodeManager",
    "dfsadmin": "hdfs.tools.DFSAdmin",
}
_READY = {  # server -> the server in whose log a word says that it is there, and the word
    "namenode": ("namenode", "Starting services required for active state"),
    "datanode": ("namenode", "registerDatanode: from"),
    "resourcemanager": ("resourcemanager", "Transitioned to active state"),
    "nodemanager": ("resourcemanager", "registered with capability"),
}
_TO_THE_LOG = """
log4j.rootLogger=INFO,screen
log4j.appender.screen=org.apache.log4j.ConsoleAppender
log4j.appender.screen.layout=org.apache.log4j.PatternLayout
log4j.appender.screen.layout.ConversionPattern=%d %p %c{1} %m%n
"""


@dataclass
class Hadoop:
    """Handle of running servers."""

    root: Path
    url: str
    """The root of the file system, without a slash."""
    java: tuple[str, ...] = ()
    """Further options of each JVM."""
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """Environment in which clients find the servers."""
        return os.environ | {
            "HADOOP_CONF_DIR": str(self.root / "conf"),
            "JAVA_HOME": str(java_home()),
        }

    @property
    def log(self) -> str:
        """What all servers have printed."""
        return "".join(path.read_text() for path in sorted(self.root.glob("*.log")))

    def start(self, *servers: str) -> None:
        """Start servers, and wait until they can be used."""
        counts = {name: self._said(name) for name in servers}
        for name in servers:
            self.running[name] = self._java(name)
        deadline = time.monotonic() + START_TIMEOUT_S
        while any(self._said(name) == count for name, count in counts.items()):
            ended = [name for name in servers if self.running[name].poll() is not None]
            if ended or time.monotonic() > deadline:
                what = f"{', '.join(ended)} ended" if ended else "no answer"
                msg = f"Hadoop did not start: {what}\n{self.log[-4000:]}"
                raise RuntimeError(msg)
            time.sleep(POLL_S)

    def kill(self, name: str) -> None:
        """End a server, and all that it started, without a chance to clean up."""
        process = self.running.pop(name)
        for one in (process, *psutil.Process(process.pid).children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait(timeout=60)

    def stop(self) -> None:
        """End all servers."""
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            process.wait(timeout=60)
        self.running.clear()

    def format(self) -> None:
        """Make an empty file system."""
        process = self._java("namenode", "-format", "-nonInteractive")
        assert process.wait(timeout=START_TIMEOUT_S) == 0, self.log[-4000:]

    def admin(self, *arguments: str) -> None:
        """Run ``hdfs dfsadmin``, which takes two seconds."""
        process = self._java("dfsadmin", *arguments)
        assert process.wait(timeout=START_TIMEOUT_S) == 0, self.log[-4000:]

    def _java(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        own = f"{self.root}/conf-{name}:{self.root}/conf:{HADOOP}/*"
        command = [str(java_home() / "bin" / "java"), *QUICK, *self.java, "-cp", own]
        command += [f"org.apache.hadoop.{_MAIN[_kind(name)]}", *arguments]
        with (self.root / f"{name}.log").open("a") as log:
            return subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=subprocess.STDOUT
            )

    def _said(self, name: str) -> int:
        where, word = _READY[_kind(name)]
        log = self.root / f"{where}.log"
        return log.read_text().count(word) if log.exists() else 0


def _kind(name: str) -> str:
    """Return the kind of a server: that of ``nodemanager-2`` is ``nodemanager``."""
    return name.partition("-")[0]


@contextmanager
def hadoop_cluster(
    root: Path,
    *servers: str,
    more: Mapping[str, Mapping[str, object]] | None = None,
    host: str = "127.0.0.1",
    java: tuple[str, ...] = (),
) -> Iterator[Hadoop]:
    """Yield running servers, such as ``*HDFS``; their files and logs are below ``root``.

    ``SECOND`` is another NodeManager. ``more`` are properties by file, such as yarn-site.
    """
    free = (f"{host}:{port}" for port in free_ports(16))
    url = f"hdfs://{next(free)}"
    files = _configuration(root, free)
    files["core-site"] = {"fs.defaultFS": url if "namenode" in servers else "file:///"}
    for name, properties in (more or {}).items():
        files[name] |= properties
    for name, properties in files.items():
        _write_xml(root / "conf" / f"{name}.xml", properties)
    (root / "conf" / "log4j.properties").write_text(_TO_THE_LOG)
    second = files["yarn-site"] | _of_a_node(root / SECOND, free)
    _write_xml(root / f"conf-{SECOND}" / "yarn-site.xml", second)
    cluster = Hadoop(root, url, java)
    try:
        if "namenode" in servers:
            cluster.format()
        cluster.start(*(name for name in servers if name != SECOND))
        if SECOND in servers:  # after the first, since both are announced by the same words
            cluster.start(SECOND)
        yield cluster
    finally:
        cluster.stop()


def _configuration(root: Path, free: Iterator[str]) -> dict[str, dict[str, object]]:
    """Return the properties of all servers by file."""
    queues = {f"root.{name}.capacity": 100 // len(QUEUES) for name in QUEUES}
    return {
        "hdfs-site": {
            "dfs.replication": 1,
            "dfs.namenode.name.dir": (root / "name").as_uri(),
            "dfs.datanode.data.dir": (root / "blocks").as_uri(),
            "dfs.namenode.http-address": next(free),
            **{f"dfs.datanode.{kind}": next(free) for kind in ("address", "http.address")},
            "dfs.datanode.ipc.address": next(free),
            "dfs.permissions.superusergroup": "hadoop",
        },
        "yarn-site": {
            **{
                f"yarn.resourcemanager.{kind}address": next(free)
                for kind in ("", "scheduler.", "resource-tracker.", "admin.", "webapp.")
            },
            **_of_a_node(root / "node", free),
            "yarn.application.classpath": "",
            "yarn.nodemanager.resource.memory-mb": 16384,
            "yarn.nodemanager.resource.cpu-vcores": 16,
            "yarn.nodemanager.vmem-check-enabled": "false",
            "yarn.nodemanager.disk-health-checker.max-disk-utilization-per-disk-percentage": 100,
            "yarn.scheduler.minimum-allocation-mb": 128,
        },
        "capacity-scheduler": {
            f"yarn.scheduler.capacity.{key}": value
            for key, value in {
                "root.queues": ",".join(QUEUES),
                "maximum-am-resource-percent": 1,
                **queues,
            }.items()
        },
    }


def _of_a_node(folder: Path, free: Iterator[str]) -> dict[str, object]:
    """Return the properties in which the NodeManagers of one machine differ."""
    own = {kind: next(free) for kind in ("address", "localizer.address", "webapp.address")}
    own |= {f"{kind}-dirs": str(folder / kind) for kind in ("local", "log")}
    return {f"yarn.nodemanager.{name}": value for name, value in own.items()}


def _write_xml(path: Path, properties: Mapping[str, object]) -> None:
    lines = [
        f"<property><name>{key}</name><value>{value}</value></property>"
        for key, value in properties.items()
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["<configuration>", *lines, "</configuration>"]))


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback address that nobody listens on."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports
