"""`hepflow replay`: events of files -> messages of a topic, at a chosen rate. The event_ids are those of ingest, however often it runs."""

import logging
import time
from collections.abc import Iterator, Sequence

import pyarrow as pa
from confluent_kafka import KafkaError, KafkaException, Message, Producer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from hepflow.config.score import ReplayConfig
from hepflow.data.events import to_arrow
from hepflow.errors import DataError
from hepflow.reading.ranges import EntryRange
from hepflow.reading.reader import Access
from hepflow.score.inputs import reader_of, splits_of
from hepflow.score.kafka.messages import SCHEMA, encode
from hepflow.score.kafka.topic import Topic, reason
from hepflow.system.terminal import MESSAGES, counted

log = logging.getLogger(__name__)

_BROKER_TAKES = 1_000_000
"""Bytes of a message: librdkafka's and the brokers' own default."""
_ENVELOPE = 512
"""Bytes that are not the message's own."""


def run(config: ReplayConfig) -> None:
    """Publish every event that can be read, each once.

    Raises
    ------
    ConfigError
        The output is no topic's address.
    DataError
        There are no events, nobody answers, a message is not taken, or more files are lost than allowed.
    """
    topic = Topic.parse(config.output, config.properties)
    access = Access(config.tree, config.retries, config.timeout_s)
    splits = splits_of(config.input, access, 1 << 62)
    if topic.make(config.partitions, config.timeout_s):
        log.info("made topic %s with %s", topic, counted(config.partitions, "partition"))
    publisher = Publisher(topic, config)
    lost: dict[str, str] = {}
    try:
        _publish_all(splits, access, publisher, lost)
    except KeyboardInterrupt:
        publisher.finish()  # what has been counted is to arrive
        raise
    publisher.finish()
    for name, why in lost.items():
        log.warning("quarantined %s: %s", name, why)
    if len(lost) > config.max_lost_files:
        files = counted(len(lost), "file")
        raise DataError(
            f"{config.input}: {files} lost events, {config.max_lost_files} allowed (--max-lost-files); the rest is published."
        )


def _publish_all(
    splits: Sequence[EntryRange], access: Access, publisher: "Publisher", lost: dict[str, str]
) -> None:
    columns = (
        SpinnerColumn(),
        TextColumn("replay"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("files, {task.fields[told]}"),
    )
    with Progress(*columns, console=MESSAGES) as progress:
        bar = progress.add_task("replay", total=len(splits), told="")
        for split in splits:
            reader = reader_of(split, access)
            for piece in reader.chunks():
                if piece.events is None:
                    lost[split.file.name] = piece.reason
                    continue
                for message in publisher.publish(
                    to_arrow(piece.events, reader.identity(piece), SCHEMA)
                ):
                    progress.update(bar, told=message)
                if publisher.full:
                    break
            if reader.unreadable:
                lost[split.file.name] = reader.unreadable
            progress.update(bar, advance=1)
            if publisher.full:
                break


class Publisher:
    """Messages of events at a chosen rate; what is not taken is told at the latest by `finish`."""

    def __init__(self, topic: Topic, config: ReplayConfig) -> None:
        self.topic, self.config = topic, config
        self.n_events = self.n_messages = 0
        self._most = int(topic.properties.get("message.max.bytes", _BROKER_TAKES)) - _ENVELOPE
        defaults = {"enable.idempotence": True, "linger.ms": 5, "compression.type": "zstd"}
        self._producer = Producer(
            defaults | topic.client(**{"message.timeout.ms": int(1000 * config.timeout_s)})
        )
        self._refused: KafkaError | None = None
        self._started = time.perf_counter()

    @property
    def full(self) -> bool:
        """Whether as many events as asked for are published."""
        return 0 < self.config.limit <= self.n_events

    @property
    def told(self) -> str:
        """What is published, in words."""
        rate = self.n_events / max(time.perf_counter() - self._started, 1e-9)
        return f"{counted(self.n_events, 'event')} in {counted(self.n_messages, 'message')}, {rate:,.0f} events/s"

    def publish(self, events: pa.Table) -> Iterator[str]:
        """Publish events in messages, when it is their time.

        Yields
        ------
        str
            What is published so far, after each message.
        """
        step = self.config.events_per_message
        for start in range(0, len(events), step):
            left = self.config.limit - self.n_events if self.config.limit else step
            for table, value in self._messages(events.slice(start, min(step, left))):
                self._wait()
                self._send(value)
                self.n_events, self.n_messages = self.n_events + len(table), self.n_messages + 1
                yield self.told
            if self.full:
                return

    def finish(self) -> None:
        """Wait until the broker has everything.

        Raises
        ------
        DataError
            It has not.
        """
        waiting = self._producer.flush(self.config.timeout_s)
        self._check()
        if waiting:
            raise DataError(
                f"{self.topic}: {counted(waiting, 'message')} not taken within {self.config.timeout_s:g} s"
            )
        log.info("published %s to %s", self.told, self.topic)

    def _messages(self, events: pa.Table) -> Iterator[tuple[pa.Table, bytes]]:
        """Messages that the broker takes: halves of those that are too large."""
        value = encode(events)
        if len(value) <= self._most:
            yield events, value
        elif len(events) == 1:
            where = f"{events['file'][0].as_py()}, entry {events['entry'][0].as_py()}"
            raise DataError(
                f"{where}: an event of {len(value):,} bytes, {self._most:,} allowed. Raise message.max.bytes, there and in --properties."
            )
        else:
            half = len(events) // 2
            yield from self._messages(events.slice(0, half))
            yield from self._messages(events.slice(half))

    def _wait(self) -> None:
        """Until it is time for the next event."""
        if self.config.rate:
            due = self._started + self.n_events / self.config.rate
            while (left := due - time.perf_counter()) > 0:
                self._poll(min(left, 0.5))
        self._poll(0)

    def _send(self, value: bytes) -> None:
        end = time.monotonic() + self.config.timeout_s
        while True:
            self._check()
            try:
                self._producer.produce(self.topic.name, value, on_delivery=self._delivered)
            except BufferError:  # the queue is full: the broker is slower than the rate asked for
                if time.monotonic() > end:
                    raise DataError(
                        f"{self.topic}: nothing is taken within {self.config.timeout_s:g} s"
                    ) from None
                self._poll(0.5)
            except KafkaException as error:
                raise DataError(
                    f"{self.topic}: a message of {len(value):,} bytes is not taken ({reason(error)})"
                ) from error
            else:
                return

    def _poll(self, seconds: float) -> None:
        try:
            self._producer.poll(seconds)
        except SystemError as error:  # all that is left of a Ctrl-C which C code has noticed
            raise KeyboardInterrupt from error

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        self._refused = self._refused or error

    def _check(self) -> None:
        if self._refused is not None:
            raise DataError(
                f"{self.topic}: a message is not taken ({self._refused.str()}); {self.told} before"
            )
