"""Faults of Kafka: each event is scored once, or its loss is counted and named."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from hepflow.config.score import KafkaConfig, ScoreConfig
from hepflow.data.ledger import Ledger
from hepflow.errors import DataError
from hepflow.schema import CLASSES
from hepflow.score.kafka import job as structured
from hepflow.score.kafka.deleted import n_messages
from hepflow.score.kafka.topic import Topic
from hepflow.score.scorer import Scorer
from hepflow.score.tables import read_scores
from hepflow.system.files import read_json
from hepflow_bench.copies import copy_as_new
from tests.support.commands import Command
from tests.support.jars import spark_kafka
from tests.support.kafka_broker import broker, brokers, messages, publish, send
from tests.support.toy_trigger import (
    TEMPLATE_EVENTS,
    all_ids,
    events_of,
    scored_ids,
    untrained,
    write_raw,
)

pytestmark = [pytest.mark.slow, pytest.mark.kafka]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with broker(tmp_path_factory.mktemp("broker")) as running:
        yield running.address


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "template.root"
    return write_raw(path, [TEMPLATE_EVENTS], seed=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, template: Path) -> Path:
    return untrained(tmp_path_factory.mktemp("model"), template)


@pytest.fixture(params=["python", "spark"])
def connector(request: pytest.FixtureRequest, spark: Any) -> str:
    """Return the name of each source in turn."""
    if request.param == "spark" and not spark_kafka():
        pytest.skip("the jars of Spark's connector are not here: make servers")
    return request.param


@pytest.fixture
def score(tmp_path: Path, model: Path, connector: str) -> Callable[..., Ledger]:
    """Return a function that scores a topic until nothing more arrives, and returns the ledger."""

    def run(topic: str, allowed: int = 0, **more: Any) -> Ledger:
        kafka = {"connector": connector, **more.pop("kafka", {})}
        options = {"idle_stop_s": 2.0, "poll_s": 0.1, "stream": True, "max_lost_files": allowed}
        structured.run(
            ScoreConfig(
                model=model,
                input=topic,
                output=tmp_path / "scores",
                kafka=KafkaConfig(**kafka),
                **options | more,
            )
        )
        return ledger(tmp_path / "scores")

    return run


def ledger(output: Path) -> Ledger:
    return Ledger.from_dict(read_json(output / "_hepflow.json")["ledger"]).check()


def records(output: Path) -> list[dict[str, Any]]:
    return [read_json(path) for path in sorted((output / "_records").glob("*.json"))]


def places(output: Path) -> list[str]:
    """Return the names of the scored messages: their records are merged."""
    return sorted(read_json(output / "_recent" / "messages.json").values())


@contextmanager
def meanwhile(ready: Callable[[], bool], act: Callable[[], object]) -> Iterator[None]:
    """Act in a thread once a condition holds, and raise its error at the end of the block."""
    failed: list[BaseException] = []

    def work() -> None:
        try:
            deadline = time.monotonic() + 120
            while not ready():
                assert time.monotonic() < deadline, "nothing happened"
                time.sleep(0.02)
            act()
        except BaseException as error:  # noqa: BLE001 - of the test itself
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if failed:
        raise failed[0]


def delete_until(topic: str, offset: int) -> None:
    """Let the broker delete the messages before an offset of the first partition."""
    address, _, name = topic.removeprefix("kafka://").partition("/")
    place = TopicPartition(name, 0, offset)
    admin = AdminClient({"bootstrap.servers": address})
    done = admin.delete_records([place])
    assert done[TopicPartition(name, 0)].result(30).low_watermark == offset


def test_events_of_new_partitions_are_scored_once(
    server: str, tmp_path: Path, template: Path, connector: str, score: Callable[..., Ledger]
) -> None:
    raw, output, name = tmp_path / "raw", tmp_path / "scores", f"growing-{connector}"
    topic = f"kafka://{server}/{name}"
    copy_as_new(template, raw / "first" / "0.root", 1)
    for number in range(1, 4):
        copy_as_new(template, raw / "more" / f"{number}.root", number + 1)
    publish(raw / "first", topic, partitions=1)

    def grow() -> None:
        admin = AdminClient({"bootstrap.servers": server})
        admin.create_partitions([NewPartitions(name, 4)])[name].result(30)
        publish(raw / "more", topic, events_per_message=5)

    with meanwhile(lambda: len(records(output)) > 0, grow):
        n_in = score(topic, idle_stop_s=5.0).n_in
    assert n_in == 4 * TEMPLATE_EVENTS
    assert scored_ids(output) == all_ids(raw)
    found = places(output)
    for partition in range(1, 4):
        assert any(place.startswith(f"{name}[{partition}]") for place in found)
    assert len(found) == len({*found}) == len(messages(topic, 4))


def test_messages_deleted_while_the_stream_is_down_are_counted_and_named(
    server: str, tmp_path: Path, template: Path, connector: str, score: Callable[..., Ledger]
) -> None:
    """Also in the first micro-batch, where nothing is read before: these were never there."""
    raw, output, name = tmp_path / "raw", tmp_path / "scores", f"down-{connector}"
    topic = f"kafka://{server}/{name}"
    copy_as_new(template, raw / "0.root", 1)
    publish(raw, topic, partitions=1, events_per_message=5)  # 12 messages
    delete_until(topic, 2)
    assert score(topic).n_in == TEMPLATE_EVENTS - 10
    assert not ledger(output).lost
    copy_as_new(template, raw / "1.root", 2)
    publish(tmp_path / "raw", topic, events_per_message=5)  # offsets 12 to 35, with copies
    delete_until(topic, 31)
    with pytest.raises(DataError, match=rf"19 messages lost events .*{name}\[0\]@12-30: 19 mes"):
        score(topic)
    counted = ledger(output)
    assert counted.n_in == TEMPLATE_EVENTS - 10 + 25
    assert [(one.file, one.reason, one.events) for one in counted.lost] == [
        (f"{name}[0]@12-30", "19 messages deleted before being read", None)
    ]
    ids = scored_ids(output)
    assert len(ids) == len({*ids}) == counted.n_in
    assert {*ids} < {*all_ids(raw)}
    with pytest.raises(DataError, match="Allow it with --max-lost-files 19"):
        score(topic, 18)
    assert score(topic, 19) == counted


def test_messages_deleted_while_the_stream_runs_are_counted_and_named(
    server: str, tmp_path: Path, template: Path, connector: str, score: Callable[..., Ledger]
) -> None:
    """Neither the publisher nor Java's client holds more than a message in a batch."""
    raw, output, name = tmp_path / "raw", tmp_path / "scores", f"overtaken-{connector}"
    topic = f"kafka://{server}/{name}"
    copy_as_new(template, raw / "0.root", 1)
    alone = {"batch.num.messages": "1"}
    publish(raw, topic, partitions=1, events_per_message=3, properties=alone)  # 20 messages
    small = {"kafka.max.poll.records": "1", "kafka.max.partition.fetch.bytes": "1"}
    overtake = meanwhile(lambda: len(records(output)) > 1, lambda: delete_until(topic, 17))
    with overtake, pytest.raises(DataError, match=r"\d+ messages lost events"):
        score(topic, kafka={"max_messages": 1, "options": small})
    counted = ledger(output)
    n_lost = sum(n_messages(one.file) for one in counted.lost)
    assert 0 < n_lost <= 15
    assert all("deleted before being read" in one.reason for one in counted.lost)
    assert counted.n_in == TEMPLATE_EVENTS - 3 * n_lost
    ids = scored_ids(output)
    assert len(ids) == len({*ids}) == counted.n_in


def test_a_topic_that_was_created_again_is_one_line(
    server: str, tmp_path: Path, template: Path, connector: str, score: Callable[..., Ledger]
) -> None:
    raw, name = tmp_path / "raw", f"again-{connector}"
    topic = f"kafka://{server}/{name}"
    copy_as_new(template, raw / "0.root", 1)
    publish(raw, topic, partitions=1, events_per_message=5)
    before = score(topic)
    admin = AdminClient({"bootstrap.servers": server})
    admin.delete_topics([name])[name].result(30)
    deadline = time.monotonic() + 30
    while Topic.parse(topic, {}).partitions(30):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    publish(raw, topic, partitions=1, events_per_message=60)
    for _ in range(2):
        with pytest.raises(DataError, match=r"partition 0 ends at 1, 12 messages were read\. If"):
            score(topic, retries=0)
    assert ledger(tmp_path / "scores") == before


def transaction(server: str, name: str, values: Sequence[bytes]) -> Producer:
    """Return a producer that has published messages in a transaction, and not ended it."""
    own = {"transactional.id": uuid.uuid4().hex, "transaction.timeout.ms": 900_000}
    producer = Producer({"bootstrap.servers": server, **own})
    producer.init_transactions(60)
    producer.begin_transaction()
    for value in values:
        producer.produce(name, value, partition=0)
    assert producer.flush(60) == 0
    return producer


def test_only_committed_transactions_are_scored(
    server: str, tmp_path: Path, template: Path, connector: str, score: Callable[..., Ledger]
) -> None:
    """Micro-batches end amid aborted messages, and nothing waits for these."""
    raw, output, name = tmp_path / "raw", tmp_path / "scores", f"transactions-{connector}"
    values: dict[str, list[bytes]] = {}
    for number, kind in enumerate(("kept", "late", "aborted", "aborted too")):
        copy_as_new(template, raw / kind / f"{number}.root", number + 1)
        publish(raw / kind, plain := f"kafka://{server}/{uuid.uuid4().hex}", partitions=1)
        values[kind] = messages(plain, 1)
    topic = f"kafka://{server}/{name}"
    assert Topic.parse(topic, {}).create(1, timeout_s=30)
    for value, kind in zip(values["kept"], ("aborted", "aborted too", "aborted"), strict=True):
        transaction(server, name, [value]).commit_transaction(60)
        transaction(server, name, values[kind]).abort_transaction(60)
    pending = transaction(server, name, values["late"])
    send(topic, values["aborted"][0])  # waits behind it
    score(topic, kafka={"max_messages": 5})
    assert places(output) == [f"{name}[0]@{offset}" for offset in (0, 12, 6)]
    assert scored_ids(output) == all_ids(raw / "kept")
    pending.commit_transaction(60)
    found = score(topic, kafka={"max_messages": 5})
    assert not found.lost
    assert found.n_in == 2 * TEMPLATE_EVENTS + 20
    ids = scored_ids(output)
    assert len(ids) == len({*ids}) == found.n_in
    assert {*ids} > {*all_ids(raw / "kept"), *all_ids(raw / "late")}


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_scores_do_not_depend_on_the_compression(
    server: str,
    tmp_path: Path,
    template: Path,
    connector: str,
    score: Callable[..., Ledger],
    model: Path,
    codec: str,
) -> None:
    raw, topic = tmp_path / "raw", f"kafka://{server}/{codec}-{connector}"
    copy_as_new(template, raw / "0.root", 1)
    publish(raw, topic, properties={"compression.type": codec})
    assert score(topic).n_in == TEMPLATE_EVENTS
    wanted = Scorer(model).score(events_of(raw / "0.root"))
    table = read_scores(tmp_path / "scores").sort_by("entry")
    assert table["reason"].fill_null("").to_pylist() == wanted.reason.tolist()
    logits = np.array([table[f"logit_{name}"] for name in CLASSES], np.float32).T
    np.testing.assert_allclose(logits, wanted.logits, rtol=1e-5, atol=1e-6)


def test_a_broker_killed_amid_the_stream_and_started_again_loses_and_doubles_nothing(
    tmp_path: Path, template: Path, connector: str, score: Callable[..., Ledger]
) -> None:
    raw, output = tmp_path / "raw", tmp_path / "scores"
    for number in range(2):
        copy_as_new(template, raw / f"{number}.root", number + 1)
    with broker(tmp_path / "broker") as running:
        topic = f"kafka://{running.address}/events"
        publish(raw, topic, events_per_message=5)  # 24 messages

        def restart() -> None:
            running.kill()
            time.sleep(3)  # down for a while
            running.start()

        with meanwhile(lambda: len(records(output)) > 1, restart):
            found = score(topic, kafka={"max_messages": 2}, idle_stop_s=10.0, retries=6)
    assert found.n_in == 2 * TEMPLATE_EVENTS
    assert not found.lost
    assert scored_ids(output) == all_ids(raw)


def test_another_broker_takes_over_from_a_killed_one(
    tmp_path: Path, template: Path, connector: str, score: Callable[..., Ledger]
) -> None:
    """While events are published to it and read from it."""
    raw, output = tmp_path / "raw", tmp_path / "scores"
    for number in range(4):
        copy_as_new(template, raw / f"{number}.root", number + 1)
    with brokers(tmp_path / "brokers", 2) as (first, second):
        both = f"{first.address},{second.address}"
        admin = AdminClient({"bootstrap.servers": both})
        new = NewTopic("events", 2, replica_assignment=[[2, 1], [2, 1]])
        admin.create_topics([new])["events"].result(30)
        topic = f"kafka://{both}/events"
        replay = Command(
            "replay",
            f"--input={raw}",
            f"--output={topic}",
            "--rate=15",
            "--events-per-message=5",
        )
        try:
            with meanwhile(lambda: len(records(output)) > 1, second.kill):
                found = score(topic, kafka={"max_messages": 4}, idle_stop_s=30.0, retries=6)
            said = replay.finish(60)
        finally:
            replay.kill()
        leaders = admin.list_topics("events", 30).topics["events"].partitions.values()
        assert {one.leader for one in leaders} == {1}
    assert said.returncode == 0, said.stderr
    assert found.n_in == 4 * TEMPLATE_EVENTS
    assert not found.lost
    assert scored_ids(output) == all_ids(raw)
