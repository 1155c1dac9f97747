"""Scoring of a topic: each event once whatever dies, bounded micro-batches, bad messages named.

The broker is Apache Kafka, and it is read by our source and by Spark's own connector.
"""

import logging
import re
import sys
import threading
import time
from _thread import interrupt_main
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pyspark.sql.types import StructType

from hepflow.config.score import KafkaConfig, ScoreConfig
from hepflow.data.ledger import Ledger
from hepflow.errors import ConfigError, DataError
from hepflow.schema import CLASSES
from hepflow.score.kafka import connector, query
from hepflow.score.kafka import job as structured
from hepflow.score.kafka.deleted import n_messages, place_of
from hepflow.score.kafka.messages import decode, encode
from hepflow.score.kafka.source import KafkaSource, fair, options
from hepflow.score.kafka.task import score_messages
from hepflow.score.kafka.topic import Topic
from hepflow.score.scorer import Scorer
from hepflow.score.tables import read_scores
from hepflow.score.task import prepare, scorer_of
from hepflow.system.files import read_json
from hepflow_bench.copies import copy_as_new
from tests.support.jars import spark_kafka
from tests.support.kafka_broker import broker, messages, publish, send
from tests.support.long_stream import lengthen
from tests.support.toy_trigger import (
    TEMPLATE_EVENTS,
    all_ids,
    events_of,
    ingest,
    rewritten,
    scored_ids,
)

pytestmark = [pytest.mark.slow, pytest.mark.kafka]
LOSS = 1 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with broker(tmp_path_factory.mktemp("broker")) as running:
        yield running.address


def test_replayed_events_are_those_of_the_files(
    server: str, tmp_path: Path, template: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The same event_ids twice, the chosen rate, halves of too large messages, damaged files."""
    copy_as_new(template, tmp_path / "raw" / "qcd" / "a.root", 1)
    topic = f"kafka://{server}/replayed"
    started = time.monotonic()
    with caplog.at_level(logging.INFO, logger="hepflow"):
        publish(tmp_path / "raw", topic, rate=40, events_per_message=5, partitions=1)
        assert time.monotonic() - started >= (TEMPLATE_EVENTS - 5) / 40
        publish(tmp_path / "raw", topic, limit=30, properties={"message.max.bytes": "20000"})
    assert sum("published" in text for text in caplog.messages) == 2
    found = [decode(value, LOSS) for value in messages(topic, 1)]
    assert [len(content.events) for content in found[:12]] == [5] * 12
    assert max(len(content.events) for content in found[12:]) < 20
    ids = [event_id for content in found for event_id in content.identity["event_id"].to_pylist()]
    assert sorted(ids[:TEMPLATE_EVENTS]) == all_ids(tmp_path / "raw")
    assert ids[TEMPLATE_EVENTS:] == ids[:30]
    assert found[0].identity["file"].to_pylist() == ["qcd/a.root"] * 5
    (tmp_path / "raw" / "qcd" / "bad.root").write_text("no ROOT file at all")
    with pytest.raises(DataError, match="1 file lost events, 0 allowed"):
        publish(tmp_path / "raw", topic)


def test_a_replay_stops_at_its_limit_of_events(server: str, tmp_path: Path, template: Path) -> None:
    for number, name in enumerate(CLASSES):
        copy_as_new(template, tmp_path / "raw" / name / "a.root", number + 1)
    ingest(tmp_path / "raw", tmp_path / "events")
    for path in (tmp_path / "events").rglob("*.parquet"):
        pq.write_table(pq.read_table(path), path, row_group_size=10)
    topic = f"kafka://{server}/limited"
    publish(tmp_path / "events", topic, limit=13, events_per_message=5, partitions=1)
    assert [len(decode(value, LOSS).events) for value in messages(topic, 1)] == [5, 5, 3]


def test_an_interrupted_replay_has_published_what_it_reports(
    server: str, tmp_path: Path, template: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy_as_new(template, tmp_path / "raw" / "qcd" / "a.root", 1)
    topic = f"kafka://{server}/interrupted"
    threading.Timer(1.0, interrupt_main).start()
    with caplog.at_level(logging.INFO, logger="hepflow"), pytest.raises(KeyboardInterrupt):
        publish(tmp_path / "raw", topic, rate=10, events_per_message=5, partitions=1)
    (summary,) = (text for text in caplog.messages if text.startswith("published"))
    assert f"in {len(messages(topic, 1))} messages" in summary


def test_a_wrong_address_or_a_missing_broker_is_one_line(
    server: str, tmp_path: Path, template: Path, model: Path
) -> None:
    copy_as_new(template, tmp_path / "raw" / "a.root", 1)
    with pytest.raises(ConfigError, match="'kafka://broker' is not a topic"):
        publish(tmp_path / "raw", "kafka://broker")
    with pytest.raises(DataError, match=r"no broker answers within 0\.5 s"):
        publish(tmp_path / "raw", "kafka://127.0.0.1:1/events", timeout_s=0.5)
    with pytest.raises(DataError, match=r"topic does not exist\. Create it"):
        structured.run(
            ScoreConfig(
                model=model, input=f"kafka://{server}/none", output=tmp_path / "scores", stream=True
            )
        )
    with pytest.raises(ConfigError, match="a topic has no end"):
        ScoreConfig(input=f"kafka://{server}/none")


PHYSICS = """
import os
import awkward as ak
from hepflow.physics.features import compute_features
def checked(events, definitions):
    if len(events) and ak.any(events["MissingET", "MET"] == 666):
        raise ValueError("a number that nobody expected")
    if len(events) and ak.any(events["MissingET", "MET"] == 667):
        os._exit(1)  # as when there is not enough memory
    return compute_features(events, definitions)
"""


def changed(table: pa.Table, collection: str, field: str, value: float, first: int) -> pa.Table:
    """The same events under other ids, with a value in every element of a collection."""
    ids = pa.array(range(first, first + len(table)))
    column = table[collection].combine_chunks()
    members = {
        member.name: column.flatten().field(member.name) for member in column.type.value_type
    }
    members[field] = pa.array(np.full(len(members[field]), value, np.float32))
    offsets = pa.array(column.offsets.to_numpy() - column.offsets[0].as_py())
    content = pa.StructArray.from_arrays(
        list(members.values()), fields=list(column.type.value_type)
    )
    lists = pa.ListArray.from_arrays(offsets, content, type=column.type)
    table = table.set_column(
        table.schema.get_field_index(collection), table.schema.field(collection), lists
    )
    return table.set_column(0, table.schema.field("event_id"), ids)


@pytest.mark.spark
@pytest.mark.parametrize("connector", ["python", pytest.param("spark", marks=pytest.mark.system)])
def test_messages_are_scored_as_files_are_and_bad_ones_named(
    server: str,
    tmp_path: Path,
    template: Path,
    model: Path,
    spark: Any,
    connector: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The logits of the events in files, in bounded micro-batches; a bad message costs itself.

    This includes a message on which a user's own physics raises an error, and, in the longer test,
    one that ends the process.
    """
    if connector == "spark" and not spark_kafka():
        pytest.skip("the jars of Spark's connector are not here: make servers")
    (tmp_path / "odd_physics.py").write_text(PHYSICS)
    monkeypatch.chdir(tmp_path)
    model = rewritten(model, tmp_path / "model.onnx", physics="odd_physics:checked@0")
    raw, topic = tmp_path / "raw", f"kafka://{server}/mixed-{connector}"
    for number in range(2):
        copy_as_new(template, raw / f"{number}.root", number + 1)
    publish(raw, topic)
    good = messages(topic, 2)
    table = pa.ipc.open_stream(good[0]).read_all()
    nan, poison, deadly = (
        changed(table.slice(0, 3), "EFlowTrack", "PT", np.nan, 1),
        changed(table.slice(0, 3), "MissingET", "MET", 666, 11),
        changed(table.slice(0, 3), "MissingET", "MET", 667, 21),
    )
    kill = [encode(deadly)] * (connector == "spark")
    at = len(messages(topic, 1))
    send(
        topic,
        b"garbage",
        None,
        b"x" * 300_000,
        encode(table.drop_columns(["Jet"])),
        encode(nan),
        good[0],
        good[0][:-400],
        encode(poison),
        *kill,
    )
    options = ScoreConfig(
        model=model,
        physics="odd_physics:checked",
        input=topic,
        output=tmp_path / "scores",
        stream=True,
        poll_s=0.1,
        idle_stop_s=1.0,
        max_lost_files=8 + len(kill),
        kafka=KafkaConfig(max_messages=4, max_message_mb=0.2, connector=connector),
    )
    structured.run(options)
    about = read_json(tmp_path / "scores" / "_hepflow.json")
    ledger = Ledger.from_dict(about["ledger"]).check()
    assert about["complete"]
    assert ledger.n_in == 2 * TEMPLATE_EVENTS + 3 + 20
    lost = {item.file.partition("@")[2]: (item.reason, item.events) for item in ledger.lost}
    reasons = [lost[str(at + i)] for i in range(8)]
    assert len(lost) == 8 + len(kill)
    assert all("scoring it fails (" in lost[str(at + 8 + i)][0] for i in range(len(kill)))
    assert all(item.file.startswith(f"mixed-{connector}[0]@") for item in ledger.lost)
    assert [events for _, events in reasons] == [None, None, None, None, 3, 20, None, None]
    texts = (
        "not an Arrow IPC stream",
        "empty",
        "300,000 bytes, 209,715 allowed",
        "no column 'Jet'",
        "NaN or infinite values",
        "a copy of mixed-",
        "or a damaged one",
        "scoring it fails (ValueError: a number that nobody expected)",
    )
    assert all(text in reason for text, (reason, _) in zip(texts, reasons, strict=True))
    scores = read_scores(tmp_path / "scores")
    assert sorted(set(scores["event_id"].to_pylist()) - {1, 2, 3}) == all_ids(raw)
    assert len(scores) == 2 * TEMPLATE_EVENTS + 3
    scorer, rows = (
        Scorer(model, "odd_physics:checked"),
        {row["event_id"]: row for row in scores.to_pylist()},
    )
    for number in range(2):
        wanted = scorer.score(events_of(raw / f"{number}.root"))
        got = [
            row
            for row in rows.values()
            if row["file"] == f"{number}.root" and row["event_id"] not in {1, 2, 3}
        ]
        got.sort(key=lambda row: row["entry"])
        assert [row["reason"] or "" for row in got] == wanted.reason.tolist()
        logits = np.array(
            [[row[f"logit_{name}"] for name in scorer.inputs.classes] for row in got],
            dtype=np.float32,
        )
        np.testing.assert_allclose(logits, wanted.logits, rtol=1e-5, atol=1e-6)
    assert rows[1]["reason"] == "NaN or infinite values"
    assert about["files"] >= (6 + 8 + len(kill)) / 4, "a micro-batch is larger than allowed"
    with pytest.raises(DataError, match=f"{8 + len(kill)} messages lost events"):
        structured.run(ScoreConfig(**{**options.__dict__, "max_lost_files": 7}))
    assert len(read_scores(tmp_path / "scores")) == 2 * TEMPLATE_EVENTS + 3, "nothing is read again"


def test_an_error_that_is_no_message_s_costs_none(tmp_path: Path, model: Path) -> None:
    """A model that changed, and one that is gone, as on a disk that is not there."""
    _, task, _ = prepare(ScoreConfig(model=model, output=tmp_path / "scores"))
    row = {"topic": "t", "partition": 0, "offset": 0, "time_ms": 0, "value": b"any", "gone": None}
    batch = pa.RecordBatch.from_pylist([row])
    changed_since, gone = replace(task, identity="another"), replace(task, model=tmp_path / "gone")
    for without, error in ((changed_since, DataError), (gone, (DataError, OSError))):
        scorer_of.cache_clear()
        with pytest.raises(error, match=r"changed since|gone"):
            list(score_messages([batch], without, LOSS))
    (scored,) = score_messages([batch], task, LOSS)
    assert "not an Arrow IPC stream" in scored["report"][0].as_py()


@pytest.fixture
def streams() -> Iterator[list[psutil.Process]]:
    """Processes to end with the test, however it ends."""
    started: list[psutil.Process] = []
    yield started
    for process in started:
        kill(process)


def kill(process: psutil.Process) -> None:
    """Without a word, and Spark with it."""
    with suppress(psutil.NoSuchProcess):
        for victim in (*process.children(recursive=True), process):
            with suppress(psutil.NoSuchProcess):
                victim.kill()


def stream_process(topic: str, output: Path, model: Path, idle_stop_s: float) -> psutil.Popen:
    options = (
        f"--input={topic}",
        f"--output={output}",
        f"--model={model}",
        "--poll_s=0.1",
        "--kafka.max_messages=3",
    )
    command = (
        sys.executable,
        "-m",
        "hepflow",
        "score",
        "--stream",
        *options,
        f"--idle-stop-s={idle_stop_s}",
        "--spark.master=local[1]",
    )
    with output.with_suffix(".log").open("a") as log:
        return psutil.Popen((*command, "--spark.driver_memory=512m"), stdout=log, stderr=log)


@pytest.mark.spark
@pytest.mark.timeout(1200)
@pytest.mark.system
def test_a_killed_query_loses_and_doubles_nothing(
    server: str, tmp_path: Path, template: Path, model: Path, streams: list[psutil.Process]
) -> None:
    """kill -9 of the driver (and with it of Spark) amid the work, twice."""
    raw, output, topic = tmp_path / "raw", tmp_path / "scores", f"kafka://{server}/killed"
    for number in range(4):
        copy_as_new(template, raw / f"{number}.root", number + 1)
    publish(raw, topic, events_per_message=10)
    for wanted in (1, 3):
        streams.append(stream_process(topic, output, model, 0))
        end = time.monotonic() + 240
        while len(list((output / "_records").glob("*.json"))) < wanted and time.monotonic() < end:
            time.sleep(0.005)
        assert streams[-1].poll() is None, output.with_suffix(".log").read_text()
        kill(streams[-1])
        streams[-1].wait()
    assert 0 < len(list((output / "_records").glob("*.json"))) < 8
    streams.append(stream_process(topic, output, model, 2))
    assert streams[-1].wait(timeout=600) == 0, output.with_suffix(".log").read_text()
    ids = scored_ids(output)
    assert len(set(ids)) == len(ids) == 4 * TEMPLATE_EVENTS
    assert ids == all_ids(raw)
    about = read_json(output / "_hepflow.json")
    assert about["complete"]
    assert Ledger.from_dict(about["ledger"]).check().n_in == 4 * TEMPLATE_EVENTS
    assert not list(output.glob(".*.part"))


@pytest.mark.spark
@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"kafka.auto.offset.reset": "latest"}, "option 'auto.offset.reset' is not supported"),
        ({"startingTimestamp": "today"}, "Expected a single long value, got today"),
        ({"kafka.security.protocol": "NONE"}, "Invalid value NONE for configuration security"),
    ],
)
def test_a_wrong_option_of_spark_s_connector_is_one_line_at_once(
    server: str, tmp_path: Path, model: Path, spark: Any, wrong: dict[str, str], reason: str
) -> None:
    if not spark_kafka():
        pytest.skip("the jars of Spark's connector are not here: make servers")
    Topic.parse(topic := f"kafka://{server}/options", {}).create(1, timeout_s=30)
    kafka = KafkaConfig(connector="spark", options=wrong)
    config = ScoreConfig(
        model=model, input=topic, output=tmp_path / "scores", stream=True, kafka=kafka
    )
    with pytest.raises(ConfigError, match=rf"{topic}: .*{reason}.* Check kafka\.options") as error:
        structured.run(config)
    assert "\n" not in str(error.value)


@pytest.mark.spark
def test_a_connector_that_is_not_here_is_one_line(
    server: str, tmp_path: Path, model: Path, spark: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query, "_CONNECTOR", "org.apache.spark.NotHere")
    Topic.parse(topic := f"kafka://{server}/options", {}).create(1, timeout_s=30)
    kafka = KafkaConfig(connector="spark")
    config = ScoreConfig(
        model=model, input=topic, output=tmp_path / "scores", stream=True, kafka=kafka
    )
    with pytest.raises(
        ConfigError, match=r"connector is not here\. Give --spark\.conf\.spark\.jars"
    ):
        structured.run(config)


@pytest.mark.spark
@pytest.mark.system
@pytest.mark.parametrize("connector", ["python", "spark"])
def test_a_stream_goes_on_after_a_million_micro_batches(
    server: str, tmp_path: Path, template: Path, model: Path, spark: Any, connector: str
) -> None:
    """What they leave is bounded, but for a file in ten minutes; a copy among the latest is one."""
    if connector == "spark" and not spark_kafka():
        pytest.skip("the jars of Spark's connector are not here: make servers")
    topic, output = f"kafka://{server}/long-{connector}", tmp_path / "scores"
    copy_as_new(template, tmp_path / "raw" / "a.root", 1)
    publish(tmp_path / "raw", topic, events_per_message=TEMPLATE_EVENTS, partitions=1)
    config = ScoreConfig(
        model=model,
        input=topic,
        output=output,
        stream=True,
        idle_stop_s=1.0,
        max_lost_files=1,
        kafka=KafkaConfig(connector=connector),
    )
    structured.run(config)
    n_merged = lengthen(output, 1_000_000)
    send(topic, *messages(topic, 1))  # a copy
    (tmp_path / "raw" / "a.root").unlink()
    copy_as_new(template, tmp_path / "raw" / "b.root", 2)
    publish(tmp_path / "raw", topic, partitions=1)
    structured.run(config)
    about = read_json(output / "_hepflow.json")
    ledger = Ledger.from_dict(about["ledger"]).check()
    assert about["complete"]
    assert about["files"] >= 1_000_002
    assert [item.reason for item in ledger.lost] == [
        f"a copy of long-{connector}[0]@0 (same events)"
    ]
    files = sorted(path.name for path in output.glob("*.parquet"))
    assert len(files) == n_merged + 1, "those of this run, and those that were not merged"
    assert files[-1].startswith("batch-00998400-")
    scores = read_scores(output)  # as many as the ledger counts
    assert set(scores["event_id"].to_pylist()) == {*ids_before(scores), *all_ids(tmp_path / "raw")}
    assert len(list((output / "_checkpoint").rglob("*"))) < 500


def ids_before(scores: pa.Table) -> set[int]:
    """Those of the first file, which have many copies."""
    counts = scores.group_by("event_id").aggregate([("event_id", "count")])
    often = counts.filter(pc.greater(counts["event_id_count"], 1))
    return set(often["event_id"].to_pylist())


def test_the_example_of_the_documents_is_an_event_that_is_scored(server: str, model: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "kafka.md").read_text()
    (example,) = [
        block
        for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL)
        if "Producer" in block
    ]
    assert Topic.parse(f"kafka://{server}/example", {}).create(1, timeout_s=30)
    exec(example.replace("localhost:9092", server).replace('"events"', '"example"'), {})
    (message,) = messages(f"kafka://{server}/example", 1)
    assert Scorer(model).score(decode(message, LOSS).events).reason.tolist() == [""]


def test_after_a_crash_the_first_micro_batch_starts_where_it_did(
    server: str, tmp_path: Path
) -> None:
    """Spark asks for the start again: at the end of the topic, messages would be left out."""
    topic = Topic.parse(f"kafka://{server}/first", {})
    assert topic.create(1, timeout_s=30)
    settings = options(topic, KafkaConfig(starting="latest"), 30.0, 1, tmp_path / "checkpoint")

    def start() -> object:
        reader = KafkaSource(settings).streamReader(StructType())
        try:
            return reader.initialOffset()
        finally:
            reader.stop()

    first = start()
    send(str(topic), b"one", b"two")
    assert start() == first == {"first": {"0": 0}}


def test_a_place_counts_its_messages() -> None:
    first = {"topic": "a@1-2", "partition": 0, "offset": 12}
    counted = {place_of(first, last): n_messages(place_of(first, last)) for last in (None, 12, 30)}
    assert counted == {"a@1-2[0]@12": 1, "a@1-2[0]@12-30": 19}


def test_spark_s_connector_gets_the_properties_in_its_own_names() -> None:
    properties = {
        "security.protocol": "SASL_SSL",
        "sasl.mechanisms": "SCRAM-SHA-512",
        "sasl.username": "me",
        "sasl.password": 'a"b\\',
        "ssl.ca.location": "/ca.pem",
    }
    topic = Topic.parse("kafka://here:1/events", properties)
    module = "org.apache.kafka.common.security.scram.ScramLoginModule"
    found = connector.options(topic, KafkaConfig(options={"kafka.isolation.level": "other"}), 3)
    assert found == {
        "kafka.bootstrap.servers": "here:1",
        "subscribe": "events",
        "startingOffsets": "earliest",
        "minPartitions": "3",
        "maxOffsetsPerTrigger": "256",
        "failOnDataLoss": "false",
        "kafka.fetch.max.wait.ms": "50",
        "kafka.isolation.level": "other",
        "kafka.security.protocol": "SASL_SSL",
        "kafka.sasl.mechanism": "SCRAM-SHA-512",
        "kafka.sasl.jaas.config": f'{module} required username="me" password="a\\"b\\\\";',
        "kafka.ssl.truststore.type": "PEM",
        "kafka.ssl.truststore.location": "/ca.pem",
    }


def test_no_partition_starves() -> None:
    assert fair({0: 100, 1: 1, 2: 0}, 10) == {0: 9, 1: 1, 2: 0}
    assert fair({0: 100, 1: 100, 2: 100}, 10) == {0: 3, 1: 3, 2: 4}
    assert fair({0: 1, 1: 2}, 10) == {0: 1, 1: 2}


@pytest.mark.parametrize(
    ("end", "latest", "waiting"),
    [
        (None, None, 0),  # before the first look at the topic
        ("null", "null", 0),
        (None, '{"t": {"0": 5}}', 5),
        ('{"t": {"0": 3, "1": 4}}', '{"t": {"0": 5, "1": 4}}', 2),
        ({"t": {"0": 3}}, {"t": {"0": 3, "1": 4}}, 4),
        ('{"t": {"0": 9}}', '{"t": {"0": 5}}', 0),  # a topic that was made again
    ],
)
def test_the_backlog_is_counted_from_any_progress_report(
    end: object, latest: object, waiting: int
) -> None:
    assert structured._backlog({"endOffset": end, "latestOffset": latest}) == waiting
