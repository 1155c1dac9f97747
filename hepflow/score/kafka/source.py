"""A topic of Kafka as a stream of Spark, over confluent-kafka: for where the connector of Spark itself is not on the class path.

The rows are messages as they are. Where Spark stands in the topic is in Spark's checkpoint, as with its own connector; nothing is
committed to the broker. Bounded: a micro-batch takes so many messages at most, from all partitions alike.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from pyspark.sql.datasource import DataSource, DataSourceStreamReader, InputPartition
from pyspark.sql.types import StructType

from hepflow.config.score import KafkaConfig
from hepflow.errors import MissingDependency
from hepflow.score.kafka.topic import Topic

try:
    from pyspark.sql.streaming.datasource import ReadLimit, ReadMaxRows
except ImportError as error:
    raise MissingDependency(
        "Reading a topic at a bounded rate needs pyspark 4.2 or later, or spark-sql-kafka. Get it with `pip install --upgrade pyspark`."
    ) from error

FORMAT = "hepflow_kafka"
SCHEMA = "topic string, partition int, offset bigint, time_ms bigint, value binary, gone string"
"""``time_ms``: since the epoch; ``gone``: why there is no message, at the first of the offsets that the broker no longer has."""

_ARROW = pa.schema(
    [
        ("topic", pa.string()),
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("time_ms", pa.int64()),
        ("value", pa.binary()),
        ("gone", pa.string()),
    ]
)
_CHUNK = 16
"""Messages that are handed on at once."""
_EARLIEST = "earliest"

Offsets = dict[str, dict[str, int]]
"""Topic -> partition -> the next message; the form that Spark's own connector has."""


def options(topic: Topic, config: KafkaConfig, timeout_s: float, tasks: int) -> dict[str, str]:
    """What to tell the format: a micro-batch is read by so many tasks if it has the messages."""
    settings = [
        topic.servers,
        topic.name,
        topic.properties,
        config.starting,
        config.max_messages,
        timeout_s,
        tasks,
    ]
    return {"settings": json.dumps(settings)}


class KafkaSource(DataSource):
    """The format."""

    @classmethod
    def name(cls) -> str:
        """Of the format."""
        return FORMAT

    def schema(self) -> str:
        """The same for every topic."""
        return SCHEMA

    def streamReader(self, schema: StructType) -> DataSourceStreamReader:  # noqa: N802 - Spark's name
        """A reader of the messages."""
        del schema
        servers, name, properties, *settings = json.loads(self.options["settings"])
        return _Reader(Topic(servers, name, properties), *settings)


@dataclass(frozen=True)
class _Range(InputPartition):
    partition: int
    start: int
    stop: int


class _Reader(DataSourceStreamReader):
    def __init__(
        self, topic: Topic, starting: str, most: int, timeout_s: float, tasks: int
    ) -> None:
        self.topic, self.starting, self.most, self.timeout_s, self.tasks = (
            topic,
            starting,
            most,
            timeout_s,
            tasks,
        )
        self._watcher: Consumer | None = None

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (
            self.topic,
            self.starting,
            self.most,
            self.timeout_s,
            self.tasks,
        )  # without the connection

    def stop(self) -> None:
        if self._watcher is not None:
            self._watcher.close()

    def initialOffset(self) -> Offsets:  # noqa: N802
        side = 0 if self.starting == _EARLIEST else 1
        return {
            self.topic.name: {
                str(partition): ends[side] for partition, ends in self._ends().items()
            }
        }

    def getDefaultReadLimit(self) -> ReadLimit:  # noqa: N802
        return ReadMaxRows(self.most)

    def latestOffset(self, start: Offsets, limit: ReadLimit) -> Offsets:  # noqa: N802
        before = start[self.topic.name]
        backlog = {p: max(high - before.get(str(p), 0), 0) for p, (_, high) in self._ends().items()}
        if isinstance(limit, ReadMaxRows):
            backlog = fair(backlog, limit.max_rows)
        taken = {str(p): before.get(str(p), 0) + n for p, n in backlog.items()}
        return {self.topic.name: before | taken}

    def reportLatestOffset(self) -> Offsets:  # noqa: N802
        return {
            self.topic.name: {str(partition): high for partition, (_, high) in self._ends().items()}
        }

    def partitions(self, start: Offsets, end: Offsets) -> Sequence[InputPartition]:
        before, after = start[self.topic.name], end[self.topic.name]
        ranges = [
            (int(p), before.get(p, 0), stop) for p, stop in after.items() if stop > before.get(p, 0)
        ]
        size = max(1, -(-sum(stop - first for _, first, stop in ranges) // self.tasks))
        return [
            _Range(p, at, min(at + size, stop))
            for p, first, stop in ranges
            for at in range(first, stop, size)
        ]

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
        assert isinstance(partition, _Range)
        held: list[tuple[str, int, int, int | None, bytes | None, str | None]] = []
        for offset, message, gone in self._messages(partition):
            time_ms, value = (
                (message.timestamp()[1], message.value()) if message is not None else (None, None)
            )
            held.append((self.topic.name, partition.partition, offset, time_ms, value, gone))
            if len(held) == _CHUNK:
                yield _rows(held)
                held = []
        if held:
            yield _rows(held)

    def _messages(self, wanted: _Range) -> Iterator[tuple[int, Message | None, str | None]]:
        """Offset and message, or why it is gone; offsets of a transaction's own have neither."""
        consumer = Consumer(self._consumer_options())
        try:
            where = TopicPartition(self.topic.name, wanted.partition, wanted.start)
            low, _ = consumer.get_watermark_offsets(where, timeout=self.timeout_s)
            at = max(wanted.start, min(low, wanted.stop))
            if at > wanted.start:
                yield (
                    wanted.start,
                    None,
                    f"messages {wanted.start} to {at - 1} are gone: the broker no longer keeps them",
                )
            consumer.assign([TopicPartition(self.topic.name, wanted.partition, at)])
            while at < wanted.stop:
                for message in consumer.consume(
                    min(wanted.stop - at, _CHUNK), timeout=self.timeout_s
                ) or [None]:
                    end = _checked(message, self.topic, self.timeout_s)
                    if not end and message.offset() < wanted.stop:
                        yield message.offset(), message, None
                    at = message.offset() + (0 if end else 1)
                    if end and at < wanted.stop:
                        raise OSError(
                            f"{self.topic}: partition {wanted.partition} ends at {at}, it had {wanted.stop}. Was the topic made anew?"
                        )
        finally:
            consumer.close()

    def _ends(self) -> Mapping[int, tuple[int, int]]:
        """Partition -> its first message and the one that comes next."""
        consumer = self._watcher = self._watcher or Consumer(self._consumer_options())
        found = consumer.list_topics(self.topic.name, self.timeout_s).topics[self.topic.name]
        if found.error is not None:
            raise KafkaException(found.error)
        places = {p: TopicPartition(self.topic.name, p) for p in sorted(found.partitions)}
        return {
            p: consumer.get_watermark_offsets(place, timeout=self.timeout_s)
            for p, place in places.items()
        }

    def _consumer_options(self) -> dict[str, object]:
        more = {
            "group.id": "hepflow",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
        }
        return self.topic.client(**more)


def fair(backlog: Mapping[int, int], most: int) -> dict[int, int]:
    """What to take of each partition: as much of each as there is room for, the shortest first, so that none starves."""
    taken: dict[int, int] = {}
    for partition, waiting in sorted(backlog.items(), key=lambda item: item[1]):
        taken[partition] = min(waiting, (most - sum(taken.values())) // (len(backlog) - len(taken)))
    short = most - sum(taken.values())
    for partition, waiting in backlog.items():  # the rest of the division
        more = min(waiting - taken[partition], short)
        taken[partition], short = taken[partition] + more, short - more
    return taken


def _checked(message: Message | None, topic: Topic, timeout_s: float) -> bool:
    """Whether it is the mark of the partition's end."""
    if message is None:
        raise OSError(f"{topic}: no message within {timeout_s:g} s")
    error = message.error()
    if error is not None and error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 - confluent-kafka's public name of it
        raise KafkaException(error)
    return error is not None


def _rows(held: Sequence[tuple[object, ...]]) -> pa.RecordBatch:
    columns = zip(zip(*held, strict=True), _ARROW.types, strict=True)
    return pa.RecordBatch.from_arrays(
        [pa.array(values, kind) for values, kind in columns], schema=_ARROW
    )
