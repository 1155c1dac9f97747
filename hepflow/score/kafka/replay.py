"""`hepflow replay`: events of files -> messages of a topic, at a chosen rate.

The event_ids are those of ingest, in every run.
"""

import logging
import time
from collections.abc import Iterator, Sequence

import pyarrow as pa
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from hepflow.config.score import ReplayConfig
from hepflow.data.events import to_arrow
from hepflow.errors import DataError
from hepflow.reading.ranges import EntryRange
from hepflow.reading.reader import Access
from hepflow.score.inputs import ranges_of, reader_of
from hepflow.score.kafka.messages import SCHEMA, encode
from hepflow.score.kafka.topic import Topic, reason
from hepflow.system.terminal import bar, counted

log = logging.getLogger(__name__)

_MOST_BYTES = 1_000_000  # default of message.max.bytes in librdkafka and in brokers
_ENVELOPE = 512  # bytes that Kafka adds to a message


def run(config: ReplayConfig) -> None:
    """Publish every readable event once."""
    topic = Topic.parse(config.output, config.properties)
    access = Access(config.tree, config.retries, config.timeout_s)
    ranges = ranges_of(config.input, access, 1 << 62)
    if topic.create(config.partitions, config.timeout_s):
        log.info("created topic %s with %s", topic, counted(config.partitions, "partition"))
    publisher = Publisher(topic, config)
    try:
        lost = _publish_all(ranges, access, publisher)
    except KeyboardInterrupt:
        publisher.finish()  # deliver the messages that were counted
        raise
    publisher.finish()
    for name, why in lost.items():
        log.warning("quarantined %s: %s", name, why)
    if len(lost) > config.max_lost_files:
        what = f"{counted(len(lost), 'file')} lost events, {config.max_lost_files} allowed"
        rest = "(--max-lost-files); the other events are published."
        raise DataError(f"{config.input}: {what} {rest}")


def _publish_all(
    ranges: Sequence[EntryRange], access: Access, publisher: "Publisher"
) -> dict[str, str]:
    """Publish events up to the limit, and return why files lost some."""
    lost = {}
    with bar("replay", len(ranges)) as progress:
        for entries in ranges:
            reader = reader_of(entries, access)
            for chunk in reader.chunks():
                if chunk.events is None:
                    lost[entries.file.name] = chunk.reason
                    continue
                events = to_arrow(chunk.events, reader.identity(chunk), SCHEMA)
                for note in publisher.publish(events):
                    progress.advance(0, note)
                if publisher.full:
                    return lost
            if reader.unreadable:
                lost[entries.file.name] = reader.unreadable
            progress.advance()
    return lost


class Publisher:
    """Messages of events at a chosen rate; refused messages raise, at the latest in `finish`."""

    def __init__(self, topic: Topic, config: ReplayConfig) -> None:
        self.topic, self.config = topic, config
        self.n_events = self.n_messages = 0
        self._most = int(topic.properties.get("message.max.bytes", _MOST_BYTES)) - _ENVELOPE
        defaults = {"enable.idempotence": True, "linger.ms": 5, "compression.type": "zstd"}
        timeout = {"message.timeout.ms": int(1000 * config.timeout_s)}
        self._producer = Producer(defaults | topic.client(**timeout))
        self._refused: KafkaError | None = None
        self._started = time.perf_counter()

    @property
    def full(self) -> bool:
        """Whether the limit of events is reached."""
        return 0 < self.config.limit <= self.n_events

    @property
    def summary(self) -> str:
        """Published events, messages and rate."""
        rate = self.n_events / max(time.perf_counter() - self._started, 1e-9)
        events, messages = counted(self.n_events, "event"), counted(self.n_messages, "message")
        return f"{events} in {messages}, {rate:,.0f} events/s"

    def publish(self, events: pa.Table) -> Iterator[str]:
        """Publish events in messages, each at its time, and yield the summary after each."""
        step = self.config.events_per_message
        for start in range(0, len(events), step):
            left = self.config.limit - self.n_events if self.config.limit else step
            for table, value in self._messages(events.slice(start, min(step, left))):
                due = self._started + (self.n_events / self.config.rate if self.config.rate else 0)
                while (pause := due - time.perf_counter()) > 0:
                    self._poll(min(pause, 0.5))
                self._send(value)
                self.n_events, self.n_messages = self.n_events + len(table), self.n_messages + 1
                yield self.summary
            if self.full:
                return

    def finish(self) -> None:
        """Wait until the broker has acknowledged, or refused, all messages."""
        self._producer.flush()  # message.timeout.ms bounds it
        self._check()
        log.info("published %s to %s", self.summary, self.topic)

    def _messages(self, events: pa.Table) -> Iterator[tuple[pa.Table, bytes]]:
        """Yield messages that the broker accepts, halving those that are too large."""
        value = encode(events)
        if len(value) <= self._most:
            yield events, value
        elif len(events) == 1:
            where = f"{events['file'][0].as_py()}, entry {events['entry'][0].as_py()}"
            what = f"an event of {len(value):,} bytes, {self._most:,} allowed"
            advice = "Raise message.max.bytes, in the broker and in --properties."
            raise DataError(f"{where}: {what}. {advice}")
        else:
            half = len(events) // 2
            yield from self._messages(events.slice(0, half))
            yield from self._messages(events.slice(half))

    def _send(self, value: bytes) -> None:
        while True:
            self._poll(0)
            self._check()
            try:
                self._producer.produce(self.topic.name, value, on_delivery=self._delivered)
            except BufferError:  # the queue is full: the broker is slower than the chosen rate
                self._poll(0.5)  # until messages are delivered, or refused after their timeout
            except KafkaException as error:
                what = f"a message of {len(value):,} bytes was refused ({reason(error)})"
                raise DataError(f"{self.topic}: {what}. Lower --events-per-message.") from error
            else:
                return

    def _poll(self, seconds: float) -> None:
        try:
            self._producer.poll(seconds)
        except SystemError as error:  # how Ctrl-C inside the C code arrives here
            raise KeyboardInterrupt from error

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        self._refused = self._refused or error

    def _check(self) -> None:
        if self._refused is not None:
            what = f"a message was refused ({self._refused.str()}) after {self.summary}"
            raise DataError(f"{self.topic}: {what}. Check the broker.")
