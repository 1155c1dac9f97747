"""Apache Kafka on this machine, a process that a test may kill."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from hepflow.engines.java import java_home
from tests.support.hadoop_cluster import QUICK, START_TIMEOUT_S, free_ports
from tests.support.jars import KAFKA, why_not

_CLUSTER = "hepflow-test-broker-22"  # any 22 letters


@dataclass
class Broker:
    """Handle of a broker that is its own controller."""

    folder: Path
    port: int
    controller_port: int
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def address(self) -> str:
        """``host:port`` for clients."""
        return f"127.0.0.1:{self.port}"

    def format(self) -> None:
        """Write the configuration, and make an empty log."""
        listeners = f"PLAINTEXT://{self.address},CONTROLLER://127.0.0.1:{self.controller_port}"
        one_broker = ("offsets.topic.replication.factor", "transaction.state.log.min.isr")
        one_broker += ("transaction.state.log.replication.factor",)
        properties = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@127.0.0.1:{self.controller_port}",
            "controller.listener.names": "CONTROLLER",
            "listeners": listeners,
            "advertised.listeners": f"PLAINTEXT://{self.address}",
            "log.dirs": self.folder / "log",
            "auto.create.topics.enable": "false",
            "group.initial.rebalance.delay.ms": 0,
            **dict.fromkeys(one_broker, 1),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = [f"{name}={value}" for name, value in properties.items()]
        (self.folder / "server.properties").write_text("\n".join(lines))
        options = ("format", "--config", f"{self.folder}/server.properties")
        process = self._java("kafka.tools.StorageTool", *options, "--cluster-id", _CLUSTER)
        assert process.wait(START_TIMEOUT_S) == 0, self.log

    @property
    def log(self) -> str:
        """The end of what the broker has printed."""
        return (self.folder / "broker.log").read_text()[-4000:]

    def start(self) -> None:
        """Start the broker, and wait until it answers."""
        self.process = self._java("kafka.Kafka", f"{self.folder}/server.properties")
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                AdminClient({"bootstrap.servers": self.address, "log_level": 0}).list_topics(
                    timeout=2
                )
            except KafkaException as error:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    msg = f"Kafka did not start: {self.log}"
                    raise RuntimeError(msg) from error
            else:
                return

    def kill(self) -> None:
        """End the broker without a chance to clean up."""
        self.process.kill()
        self.process.wait(timeout=60)

    def _java(self, main: str, *arguments: str) -> "subprocess.Popen[bytes]":
        command = [str(java_home() / "bin" / "java"), *QUICK, "-cp", f"{KAFKA}/*", main, *arguments]
        with (self.folder / "broker.log").open("a") as log:
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


@contextmanager
def broker(folder: Path) -> Iterator[Broker]:
    """Yield a running broker without topics."""
    if (reason := why_not(KAFKA)) is not None:
        pytest.skip(reason)
    running = Broker(folder, *free_ports(2))
    running.format()
    running.start()
    try:
        yield running
    finally:
        running.kill()
