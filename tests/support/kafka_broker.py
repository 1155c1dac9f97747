"""Apache Kafka on this machine: brokers that a test may kill, and messages of a topic."""

import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from hepflow.config.score import ReplayConfig
from hepflow.engines.java import java_home
from hepflow.score.kafka import replay
from hepflow.score.kafka.topic import Topic
from tests.support.hadoop_cluster import QUICK, START_TIMEOUT_S, free_ports
from tests.support.jars import KAFKA, why_not

_CLUSTER = "hepflow-test-broker-22"  # any 22 letters


@dataclass
class Broker:
    """Handle of a broker; the first of a cluster is its controller."""

    folder: Path
    port: int
    controller_port: int
    node: int = 1
    more: Mapping[str, object] = field(default_factory=dict)  # properties
    users: Mapping[str, str] = field(default_factory=dict)  # and their passwords, for SCRAM
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def address(self) -> str:
        """``host:port`` for clients."""
        return f"127.0.0.1:{self.port}"

    def format(self) -> None:
        """Write the configuration, and make an empty log."""
        first = self.node == 1
        listeners = f"PLAINTEXT://{self.address}"
        of_the_controller = f",CONTROLLER://127.0.0.1:{self.controller_port}" if first else ""
        one_broker = ("offsets.topic.replication.factor", "transaction.state.log.min.isr")
        one_broker += ("transaction.state.log.replication.factor",)
        properties = {
            "process.roles": "broker,controller" if first else "broker",
            "node.id": self.node,
            "controller.quorum.voters": f"1@127.0.0.1:{self.controller_port}",
            "controller.listener.names": "CONTROLLER",
            "listeners": listeners + of_the_controller,
            "advertised.listeners": listeners,
            "log.dirs": self.folder / "log",
            "auto.create.topics.enable": "false",
            "group.initial.rebalance.delay.ms": 0,
            "broker.session.timeout.ms": 3000,
            "broker.heartbeat.interval.ms": 500,
            **dict.fromkeys(one_broker, 1),
        }
        for name, value in self.more.items():
            added = f"{properties[name]},{value}" if name.endswith("listeners") else value
            properties[name] = added
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = [f"{name}={value}" for name, value in properties.items()]
        (self.folder / "server.properties").write_text("\n".join(lines))
        options = ["format", "--config", f"{self.folder}/server.properties"]
        for name, password in self.users.items():
            options += ["--add-scram", f"SCRAM-SHA-512=[name={name},password={password}]"]
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
def broker(
    folder: Path,
    more: Mapping[str, object] | None = None,
    users: Mapping[str, str] | None = None,
) -> Iterator[Broker]:
    """Yield a running broker without topics."""
    with brokers(folder, 1, more, users) as (running,):
        yield running


@contextmanager
def brokers(
    folder: Path,
    number: int,
    more: Mapping[str, object] | None = None,
    users: Mapping[str, str] | None = None,
) -> Iterator[list[Broker]]:
    """Yield the running brokers of a cluster without topics."""
    if (reason := why_not(KAFKA)) is not None:
        pytest.skip(reason)
    controller, *ports = free_ports(number + 1)
    cluster = [
        Broker(folder / str(node), port, controller, node, more or {}, users or {})
        for node, port in enumerate(ports, 1)
    ]
    try:
        for one in cluster:
            one.format()
            one.start()
        yield cluster
    finally:
        for one in cluster:
            if one.process is not None:
                one.kill()


def publish(raw: Path, topic: str, **more: Any) -> None:
    """Publish the events of files, as fast as possible if no rate is given."""
    replay.run(
        ReplayConfig(input=raw, output=topic, **{"rate": 0, "events_per_message": 20} | more)
    )


def messages(topic: str, n_partitions: int) -> list[bytes]:
    """Return all messages of a topic, by partition and offset."""
    where = Topic.parse(topic, {})
    consumer = Consumer(where.client(**{"group.id": "test", "enable.partition.eof": True}))
    consumer.assign([TopicPartition(where.name, partition, 0) for partition in range(n_partitions)])
    found: dict[tuple[int, int], bytes] = {}
    ended: set[int] = set()
    while len(ended) < n_partitions:
        message = consumer.poll(20)
        if message.error() is not None:
            ended.add(message.partition())
        else:
            found[message.partition(), message.offset()] = message.value()
    consumer.close()
    return [value for _, value in sorted(found.items())]


def send(topic: str, *values: bytes | None) -> None:
    """Publish messages to the first partition of a topic."""
    producer, refused = Producer(Topic.parse(topic, {}).client()), []
    for value in values:
        producer.produce(
            Topic.parse(topic, {}).name,
            value,
            partition=0,
            on_delivery=lambda error, _: refused.append(error),
        )
    assert producer.flush(60) == 0
    assert refused == [None] * len(values)
