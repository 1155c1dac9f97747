"""A Kafka topic as a Spark stream over confluent-kafka, for clusters without Spark's own connector.

Rows are messages as they are. As with Spark's connector, the offsets are in Spark's checkpoint and
nothing is committed to the broker. A micro-batch has a bounded number of messages, shared fairly
among the partitions.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from pyspark.sql.datasource import DataSource, DataSourceStreamReader, InputPartition
from pyspark.sql.types import StructType

from hepflow.config.score import KafkaConfig
from hepflow.errors import MissingDependency
from hepflow.score.kafka.rows import arrow_of
from hepflow.score.kafka.topic import Topic
from hepflow.system.publishing import put
from hepflow.system.storage import make_folder

try:
    from pyspark.sql.streaming.datasource import ReadLimit, ReadMaxRows
except ImportError as error:
    raise MissingDependency(
        "Reading a topic at a bounded rate needs pyspark 4.2 or later, or spark-sql-kafka. "
        "Install it with `pip install --upgrade pyspark`."
    ) from error

FORMAT = "hepflow_kafka"
FIRST = "sources/0/0"
"""File of the initial offsets in Spark's checkpoint, the one of its own connector."""
SCHEMA = "topic string, partition int, offset bigint, time_ms bigint, value binary, gone bigint"
"""``time_ms``: since the epoch; ``gone``: from this offset to that one the broker deleted all."""

_CHUNK = 16  # messages per record batch
_CONSUMER = {"group.id": "hepflow", "enable.auto.commit": False}
_CONSUMER |= {"auto.offset.reset": "error", "enable.partition.eof": True}

Offsets = dict[str, dict[str, int]]  # topic -> partition -> next message, as Spark's connector has


def options(
    topic: Topic, config: KafkaConfig, timeout_s: float, tasks: int, checkpoint: Path
) -> dict[str, str]:
    """Return the options of the format; up to ``tasks`` tasks read a micro-batch."""
    start = str((checkpoint / FIRST).absolute())
    settings = (vars(topic), config.starting, config.max_messages, timeout_s, tasks, start)
    return {"settings": json.dumps(settings)}


class KafkaSource(DataSource):
    """The format."""

    @classmethod
    def name(cls) -> str:
        """Return the name of the format."""
        return FORMAT

    def schema(self) -> str:
        """Return the schema, the same for every topic."""
        return SCHEMA

    def streamReader(self, schema: StructType) -> DataSourceStreamReader:  # noqa: N802
        """Return a reader of the messages."""
        del schema
        topic, *settings = json.loads(self.options["settings"])
        return _Reader(Topic(**topic), *settings)


@dataclass
class _Reader(DataSourceStreamReader):
    topic: Topic
    starting: str
    most: int
    timeout_s: float
    tasks: int
    start: str  # file of the initial offsets
    _watcher: Consumer | None = None
    _first: Mapping[str, int] = field(default_factory=dict)  # as of the latest poll

    def __reduce__(self) -> tuple[object, ...]:  # a connection cannot be pickled
        settings = (self.starting, self.most, self.timeout_s, self.tasks, self.start)
        return type(self), (self.topic, *settings)

    def stop(self) -> None:
        if self._watcher is not None:
            self._watcher.close()

    def initialOffset(self) -> Offsets:  # noqa: N802
        # Spark asks again if it dies in the first micro-batch, which must not start elsewhere then.
        if Path(self.start).is_file():
            return offsets_in(Path(self.start))
        side = 0 if self.starting == "earliest" else 1
        found = {self.topic.name: {str(p): ends[side] for p, ends in self._ends().items()}}
        make_folder(Path(self.start).parent)
        put(Path(self.start), f"\0v1\n{json.dumps(found)}".encode())
        return found

    def getDefaultReadLimit(self) -> ReadLimit:  # noqa: N802
        return ReadMaxRows(self.most)

    def latestOffset(self, start: Offsets, limit: ReadLimit) -> Offsets:  # noqa: N802
        before, ends = start[self.topic.name], self._ends()
        self.topic.require_same(before, {str(p): high for p, (_, high) in ends.items()})
        # Deleted messages do not count towards the limit, as they take no reading.
        first = {p: max(before.get(str(p), 0), low) for p, (low, _) in ends.items()}
        self._first = {str(p): low for p, low in first.items()}
        backlog = {p: max(high - first[p], 0) for p, (_, high) in ends.items()}
        taken = fair(backlog, limit.max_rows) if isinstance(limit, ReadMaxRows) else backlog
        return {self.topic.name: {str(p): first[p] + n for p, n in taken.items()}}

    def reportLatestOffset(self) -> Offsets:  # noqa: N802
        return {self.topic.name: {str(p): high for p, (_, high) in self._ends().items()}}

    def partitions(self, start: Offsets, end: Offsets) -> Sequence[InputPartition]:
        before, after = start[self.topic.name], end[self.topic.name]
        first = {p: min(max(before.get(p, 0), self._first.get(p, 0)), n) for p, n in after.items()}
        size = max(1, -(-sum(n - first[p] for p, n in after.items()) // self.tasks))
        ranges: list[InputPartition] = []
        for p, stop in after.items():
            cuts = [before.get(p, 0), *range(first[p] + size, stop, size), stop]
            ranges += [InputPartition((int(p), *cut)) for cut in pairwise(cuts) if cut[0] < cut[1]]
        return ranges

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
        """Yield the messages of a range, and a row for those that the broker deleted.

        Offsets of transaction markers have no message, so the end of a range may have to be found
        by the broker's mark of the partition's end.
        """
        number, start, stop = partition.value
        where, rows = {"topic": self.topic.name, "partition": number}, []
        consumer = Consumer(self.topic.client(**_CONSUMER))
        try:
            place = TopicPartition(self.topic.name, number)
            low, _ = consumer.get_watermark_offsets(place, timeout=self.timeout_s)
            at = place.offset = max(start, min(low, stop))
            if at > start:
                rows.append({**where, "offset": start, "gone": at - 1})
            consumer.assign([place])
            while at < stop:
                found = consumer.consume(min(stop - at, _CHUNK), timeout=self.timeout_s)
                if not found:
                    raise OSError(f"{self.topic}: no message within {self.timeout_s:g} s")
                for message in found:
                    at, error = message.offset(), message.error()
                    if error is None:
                        content = {"time_ms": message.timestamp()[1], "value": message.value()}
                        rows += [{**where, "offset": at, **content}] if at < stop else []
                        at += 1
                    elif error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001
                        raise KafkaException(error)
                    elif at < stop:
                        what = f"partition {number} ends at {at}, it had {stop} messages"
                        raise OSError(f"{self.topic}: {what}. Was the topic created again?")
                yield pa.RecordBatch.from_pylist(rows, arrow_of(SCHEMA))
                rows = []
            if rows:
                yield pa.RecordBatch.from_pylist(rows, arrow_of(SCHEMA))
        finally:
            consumer.close()

    def _ends(self) -> Mapping[int, tuple[int, int]]:
        """Return partition -> its first message and the next one to come."""
        consumer = self._watcher = self._watcher or Consumer(self.topic.client(**_CONSUMER))
        found = consumer.list_topics(self.topic.name, self.timeout_s).topics[self.topic.name]
        if found.error is not None:
            raise KafkaException(found.error)
        ends = {}
        for p in sorted(found.partitions):
            place = TopicPartition(self.topic.name, p)
            ends[p] = consumer.get_watermark_offsets(place, timeout=self.timeout_s)
        return ends


def offsets_in(path: Path) -> Offsets:
    """Return the offsets in a file of Spark's checkpoint, of which they are the last line."""
    offsets: Offsets = json.loads(path.read_text().splitlines()[-1])
    return offsets


def fair(backlog: Mapping[int, int], most: int) -> dict[int, int]:
    """Return how many messages to take per partition: an equal number, so that none starves."""
    taken: dict[int, int] = {}
    for partition, waiting in sorted(backlog.items(), key=lambda item: item[1]):
        taken[partition] = min(waiting, (most - sum(taken.values())) // (len(backlog) - len(taken)))
    for partition, waiting in backlog.items():  # the remainder of the division
        taken[partition] += min(waiting - taken[partition], most - sum(taken.values()))
    return taken
