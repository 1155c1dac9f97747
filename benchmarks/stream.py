"""Seconds from the publication of a message to its scores on disk, for a stream on a Kafka topic.

Apache's broker, `hepflow score --stream` with a net of random weights, and a producer of messages
of 50 events share this machine. ``PYTHON_200_latency_p50_s`` is the median at 200 events/s once the
stream is warm, read by confluent-kafka (``SPARK``: by Spark's own connector);
``PYTHON_200_first_message_s`` is that of the first message, published when the command reports that
it reads the topic; ``PYTHON_200_cores`` is the CPU time of the stream over the time. With
``--against CHECKOUT`` the same is measured for another version of hepflow, in turn; its keys begin
with ``before_``. ``--soak 60`` runs one stream for an hour instead, at the last of the rates, and
prints its memory, files and latencies in tenths of the time; ``growth_mb`` is that of all processes
from the second tenth, when all is warm, to the last. ``--restarts`` measures the seconds from the
start of the command to its report that it reads the topic: ``start_s`` without an archive of Java's
classes, which it writes, and ``restart_after_a_million_s`` after a million micro-batches, with it;
and of the first message.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from confluent_kafka import Producer
from score import NETS, write_models, write_raw

sys.path.insert(0, str(Path(__file__).parents[1]))

from hepflow.data.events import to_arrow
from hepflow.reading.listing import list_files
from hepflow.reading.ranges import plan
from hepflow.reading.reader import Access, RangeReader
from hepflow.score.kafka.messages import SCHEMA, encode
from hepflow.score.kafka.topic import Topic
from hepflow.score.tables import read_scores
from hepflow.system.terminal import show, table
from tests.support.jars import spark_kafka
from tests.support.kafka_broker import broker
from tests.support.long_stream import lengthen

HERE = Path(__file__).parents[1]
KEPT = {"log.retention.bytes": 2 << 30, "log.segment.bytes": 64 << 20}
KEPT |= {"log.retention.check.interval.ms": 10_000, "log.segment.delete.delay.ms": 1000}
"""Properties of the broker: an hour of messages would fill the disk."""

PER_MESSAGE = 50
START_TIMEOUT_S = 180
SCORED_TIMEOUT_S = 60
ARCHIVE_TIMEOUT_S = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="only confluent-kafka, in under three minutes"
    )
    parser.add_argument("--against", type=Path, help="the checkout of another version")
    parser.add_argument("--connectors", nargs="+", choices=("python", "spark"))
    parser.add_argument("--rates", nargs="+", type=int, default=(200, 1000), help="events/s")
    parser.add_argument("--net", choices=NETS, default="inclusive")
    parser.add_argument("--options", nargs="*", default=(), help="of hepflow score, without --")
    parser.add_argument(
        "--soak", type=float, metavar="MINUTES", help="one stream for so long, at the last rate"
    )
    parser.add_argument("--restarts", action="store_true", help="only starts of a stream")
    arguments = parser.parse_args()
    quick: bool = arguments.quick
    connectors = arguments.connectors or (("python",) if quick else ("python", "spark"))
    warm_s, measured_s = (10, 20) if quick else (20, 60)
    trees = {"": HERE} | ({"before_": arguments.against} if arguments.against else {})
    result: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, broker(Path(folder) / "broker", KEPT) as server:
        scratch = Path(folder)
        raw = write_raw(scratch / "raw", 300, 1)
        model = write_models(raw, scratch)[arguments.net]
        tables = tables_of(raw)
        if arguments.soak or arguments.restarts:
            topic = Topic(server.address, "long")
            topic.create(2, timeout_s=30)
            options = [f"--{option}" for option in arguments.options]
            stream = Stream(topic, scratch / "long", model, HERE, connectors[0], options)
            if arguments.soak:
                result = soak(stream, tables, arguments.rates[-1], 60 * arguments.soak)
            else:
                result = restarts(stream, tables)
            print(json.dumps(result))
            return
        for connector in connectors:
            for rate in arguments.rates:
                for which, tree in trees.items():
                    case = f"{which}{connector}_{rate}"
                    topic = Topic(server.address, case)
                    topic.create(2, timeout_s=30)
                    options = [f"--{option}" for option in arguments.options]
                    stream = Stream(topic, scratch / case, model, tree, connector, options)
                    with stream.running():
                        found = measured(stream, tables, rate, warm_s, measured_s)
                    result |= {f"{case}_{name}": value for name, value in found.items()}
    show(table(("", ""), [(key, f"{value:.2f}") for key, value in result.items()]))
    print(json.dumps(result))


def tables_of(raw: Path) -> list[pa.Table]:
    """Return the events of a folder in tables of the size of a message."""
    tables = []
    for entries in plan(list_files(raw), 1 << 40):
        reader = RangeReader(entries, access=Access())
        for chunk in reader.chunks():
            events = to_arrow(chunk.events, reader.identity(chunk), SCHEMA)
            starts = range(0, len(events) - PER_MESSAGE + 1, PER_MESSAGE)
            tables += [events.slice(start, PER_MESSAGE) for start in starts]
    return tables


@dataclass
class Stream:
    """A run of `hepflow score --stream`, and the times of its messages.

    The event_ids of message n are n * PER_MESSAGE and the following ones.
    """

    topic: Topic
    output: Path
    model: Path
    tree: Path  # checkout of the version that runs
    connector: str
    options: Sequence[str] = ()
    published: dict[int, float] = field(default_factory=dict)  # message -> seconds since the epoch
    scored: dict[int, float] = field(default_factory=dict)
    process: psutil.Popen | None = None
    start_s: float = 0.0  # of the last start of the command
    _read: set[str] = field(default_factory=set)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Start the command, wait until it reports that it reads, and end it with the block."""
        options = [f"--input={self.topic}", f"--output={self.output}", f"--model={self.model}"]
        options += ["--spark.master=local[2]", f"--kafka.connector={self.connector}"]
        if self.connector == "spark":
            jars = ",".join(map(str, spark_kafka()))
            assert jars, "the jars of Spark's connector are not here: make servers"
            options.append(f"--spark.conf.spark.jars={jars}")
        command = (sys.executable, "-m", "hepflow", "score", "--stream", *options, *self.options)
        variables = os.environ | {"PYTHONPATH": f"{self.tree}{os.pathsep}{self.tree}/benchmarks"}
        log, began = self.output.with_suffix(".log"), time.monotonic()
        with log.open("w") as file:
            self.process = psutil.Popen(
                command, stdout=file, stderr=file, env=variables, cwd=self.output.parent
            )
        try:
            until = time.monotonic() + START_TIMEOUT_S
            while "reading kafka" not in log.read_text():
                assert self.process.poll() is None, log.read_text()
                assert time.monotonic() < until, log.read_text()
                time.sleep(0.02)
            self.start_s = time.monotonic() - began
            yield
            assert self.process.poll() is None, log.read_text()
        finally:
            family = self.family()
            with suppress(psutil.NoSuchProcess):
                self.process.terminate()
            psutil.wait_procs(family, timeout=30)
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    process.kill()

    def family(self) -> list[psutil.Process]:
        """Return the driver, Java and the Python workers, those that still run."""
        with suppress(psutil.NoSuchProcess):
            return [self.process, *self.process.children(recursive=True)]
        return []

    def cpu_s(self) -> float:
        """Return the CPU seconds of all processes."""
        total = 0.0
        for process in self.family():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def memory_mb(self) -> dict[str, float]:
        """Return the MB (10^6 bytes) of the driver, of Java and of Spark's Python workers."""
        found = dict.fromkeys(("driver", "java", "workers"), 0.0)
        for process in self.family():
            with suppress(psutil.NoSuchProcess):
                name = "java" if process.name() == "java" else "workers"
                name = "driver" if process.pid == self.process.pid else name
                found[name] += process.memory_info().rss / 1e6
        return found

    def watch(self) -> None:
        """Record the times at which files of scores came into place."""
        for path in (*self.output.glob("*.parquet"), *self.output.glob("_*/*.parquet")):
            if path.name not in self._read:
                with suppress(FileNotFoundError):  # merged into a larger file meanwhile
                    ids = pq.read_table(path, columns=["event_id"])["event_id"].to_numpy()
                    self._read.add(path.name)
                    done = path.stat().st_ctime  # of the rename
                    for number in np.unique(ids // PER_MESSAGE).tolist():
                        self.scored.setdefault(number, done)

    def latencies(self, numbers: Sequence[int]) -> np.ndarray:
        """Return the seconds of messages, after waiting for their scores."""
        until = time.monotonic() + SCORED_TIMEOUT_S
        while not all(number in self.scored for number in numbers) and time.monotonic() < until:
            time.sleep(0.1)
            self.watch()
        missing = [number for number in numbers if number not in self.scored]
        assert not missing, f"no scores of {len(missing)} of {len(numbers)} messages"
        return np.array([self.scored[number] - self.published[number] for number in numbers])


def measured(
    stream: Stream, tables: Sequence[pa.Table], rate: float, warm_s: float, measured_s: float
) -> dict[str, float]:
    """Measure a stream that has just reported that it reads its topic."""
    publisher = Publisher(stream, tables)
    publisher.send()
    (first,) = stream.latencies([0])
    publisher.at_rate(rate, warm_s)
    start, cpu_s, began = publisher.n, stream.cpu_s(), time.monotonic()
    publisher.at_rate(rate, measured_s)
    cores = (stream.cpu_s() - cpu_s) / (time.monotonic() - began)
    p50, p99 = np.quantile(stream.latencies(range(start, publisher.n)), [0.5, 0.99])
    found = {"latency_p50_s": p50, "latency_p99_s": p99, "first_message_s": first, "cores": cores}
    return {name: float(value) for name, value in found.items()}


def soak(
    stream: Stream, tables: Sequence[pa.Table], rate: float, seconds: float
) -> dict[str, float]:
    """Run a stream for long: each message is scored once, and nothing grows."""
    rows, totals = [], []
    publisher = Publisher(stream, tables)
    with stream.running():
        for tenth in range(1, 11):
            start = publisher.n
            publisher.at_rate(rate, seconds / 10)
            sent = np.arange(start, publisher.n)
            p50, p99 = np.quantile(stream.latencies(sent.tolist()), [0.5, 0.99])
            memory, files = stream.memory_mb(), sum(1 for _ in stream.output.rglob("*"))
            totals.append(sum(memory.values()))
            values = [f"{value:,.0f}" for value in (*memory.values(), files)]
            rows.append((f"{tenth * seconds / 600:g}", *values, f"{p50:.2f}", f"{p99:.2f}"))
            print(*rows[-1], sep="  ", file=sys.stderr, flush=True)
        log_text = stream.output.with_suffix(".log").read_text()
    ids = read_scores(stream.output, ["event_id"])["event_id"].to_numpy()
    assert np.array_equal(np.sort(ids), np.arange(publisher.n * PER_MESSAGE)), log_text[-4000:]
    names = ("min", "driver MB", "Java MB", "workers MB", "files", "p50 s", "p99 s")
    show(table(names, rows))
    return {
        "growth_mb": totals[-1] - totals[1],
        "total_mb": totals[-1],
        "files": float(files),
        "events": float(len(ids)),
    }


def restarts(stream: Stream, tables: Sequence[pa.Table]) -> dict[str, float]:
    """Start a stream twice, and make its folder a long one in between."""
    publisher, found = Publisher(stream, tables), {}
    cache = stream.output.parent / "cache"
    os.environ["XDG_CACHE_HOME"] = str(cache)
    for name in ("start", "restart_after_a_million"):
        with stream.running():
            publisher.send()
            (first,) = stream.latencies([publisher.n - 1])
            found |= {f"{name}_s": stream.start_s, f"{name}_first_message_s": float(first)}
            until = time.monotonic() + ARCHIVE_TIMEOUT_S
            while not any(cache.rglob("*.jsa")):
                assert time.monotonic() < until, stream.output.with_suffix(".log").read_text()
                time.sleep(0.2)
        if name == "start":
            lengthen(stream.output, 1_000_000)
    return found


class Publisher:
    """Messages with event_ids of their own, at a fixed rate whatever the broker does."""

    def __init__(self, stream: Stream, tables: Sequence[pa.Table]) -> None:
        self.stream, self.tables, self.n = stream, tables, 0
        settings = {"linger.ms": 0, "compression.type": "zstd"}
        self._producer = Producer(stream.topic.client(**settings))

    def at_rate(self, rate: float, seconds: float) -> None:
        """Publish for a time, while another thread looks for the scores."""
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(0.5):
                self.stream.watch()

        watcher = threading.Thread(target=watch)
        watcher.start()
        started = time.monotonic()
        for number in range(round(rate * seconds / PER_MESSAGE)):
            due = started + number * PER_MESSAGE / rate
            while (pause := due - time.monotonic()) > 0:
                self._producer.poll(pause)
            self.send()
        ended.set()
        watcher.join()

    def send(self) -> None:
        ids = pa.array(range(self.n * PER_MESSAGE, (self.n + 1) * PER_MESSAGE))
        content = self.tables[self.n % len(self.tables)].set_column(0, SCHEMA.field(0), ids)
        self.stream.published[self.n] = time.time()
        self._producer.produce(self.stream.topic.name, encode(content), partition=self.n % 2)
        self._producer.poll(0)
        self.n += 1


if __name__ == "__main__":
    main()
