"""`hepflow score --stream --input kafka://...`: a Structured Streaming query that scores messages, until interrupted.

Spark keeps where it is in the topic, cuts micro-batches of bounded size, and hands them to its executors, which do what the workers of
`hepflow.score.task` do. A micro-batch becomes one Parquet file and then one record, both named after its number. Spark writes down what
a micro-batch holds before it begins, and after a crash the same again: the file and the record are replaced by the same.
So the scores are there once, and any program can read them: there is no commit log of Spark's to look into.
"""

import json
import logging
import queue
import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.streaming.query import StreamingQuery

from hepflow.config.score import ScoreConfig
from hepflow.data.ledger import Lost
from hepflow.engines.spark import session
from hepflow.errors import DataError, HepflowError
from hepflow.physics import own
from hepflow.physics.skim import NOT_FINITE
from hepflow.score.folder import CHECKPOINT, ScoreFolder
from hepflow.score.job import judge, prepare
from hepflow.score.kafka.source import FORMAT, KafkaSource, options
from hepflow.score.kafka.task import SCHEMA, Report, score_messages
from hepflow.score.kafka.topic import Topic
from hepflow.score.live import terminated
from hepflow.score.pool import told
from hepflow.score.task import Record, Task, write_scores
from hepflow.score.view import View, shown
from hepflow.system.locks import exclusive
from hepflow.system.terminal import counted

log = logging.getLogger(__name__)

_CONNECTOR = "org.apache.spark.sql.kafka010.KafkaSourceProvider"
_WRITE_EVERY_S = 10.0
_Latencies = list[tuple[float, int]]


def run(config: ScoreConfig) -> None:
    """Score what arrives in a topic, until interrupted, or until nothing has arrived for ``idle_stop_s`` seconds.

    Raises
    ------
    ConfigError
        The input is no topic's address.
    DataError
        The model cannot be used, nobody answers, there is no such topic, or more messages are lost than allowed.
    """
    topic = Topic.parse(str(config.input), config.kafka.properties)
    scorer, task, about = prepare(config, str(topic))
    if not topic.partitions(config.timeout_s):
        raise DataError(
            f"{topic}: no such topic. Make it, or publish to it with `hepflow replay --output {topic}`."
        )
    with exclusive(config.output):
        folder = ScoreFolder(task.output, about, overwrite=config.overwrite)
        _require_whole(folder)
        with session(config.spark, "hepflow score") as spark, terminated():
            view = View(config, task.working_points, scorer.net.spread, folder)
            log.info("reading %s every %g s, scores go to %s", topic, config.poll_s, config.output)
            _follow(config, topic, spark, task, view)
        judge(folder, config)


def _follow(config: ScoreConfig, topic: Topic, spark: SparkSession, task: Task, view: View) -> None:
    """Run the query; one that ends by an error, such as a broker that is away, is begun anew, a few times in a row."""
    batches = Batches(view.folder, task, int(config.kafka.max_message_mb * (1 << 20)))
    complete, tries = False, 0
    try:
        with shown(view) as tick:
            while not complete:
                done = len(view.folder.done)
                query = _start(config, topic, spark, batches)
                try:
                    complete = _watch(query, batches, view, config.idle_stop_s, tick)
                except PySparkException as error:
                    tries = 0 if len(view.folder.done) > done else tries
                    if batches.error is not None or tries >= config.retries:
                        raise batches.error or DataError(
                            f"{topic}: {_brief(error)}, {counted(tries + 1, 'time')}."
                        ) from error
                    log.warning("%s: %s, trying again in %g s", topic, _brief(error), 2.0**tries)
                    time.sleep(2.0**tries)
                    tries += 1
                finally:
                    batches.stopping = True
                    query.stop()
    finally:
        batches.drain(view)
        view.folder.write(complete=complete)
        log.info("%s holds the scores: %s", config.output, view.folder.ledger.summary())


def _start(
    config: ScoreConfig, topic: Topic, spark: SparkSession, batches: "Batches"
) -> StreamingQuery:
    loose = own.loose_file(config.physics)
    if loose is not None:
        spark.sparkContext.addPyFile(str(loose))
    batches.stopping = False
    writer = _messages(config, topic, spark).writeStream.foreachBatch(batches)
    writer = writer.option("checkpointLocation", (config.output / CHECKPOINT).absolute().as_uri())
    return writer.trigger(processingTime=f"{config.poll_s} seconds").start()


def _messages(config: ScoreConfig, topic: Topic, spark: SparkSession) -> DataFrame:
    """The topic as a stream with the columns of `hepflow.score.kafka.source.SCHEMA`."""
    if config.kafka.connector == "python" or (
        config.kafka.connector == "auto" and not _has_connector(spark)
    ):
        spark.dataSource.register(KafkaSource)
        tasks = spark.sparkContext.defaultParallelism
        return (
            spark.readStream.format(FORMAT)
            .options(**options(topic, config.kafka, config.timeout_s, tasks))
            .load()
        )
    reader = spark.readStream.format("kafka").options(**config.kafka.options)
    reader = reader.option("kafka.bootstrap.servers", topic.servers).option("subscribe", topic.name)
    reader = reader.option("startingOffsets", config.kafka.starting).option(
        "maxOffsetsPerTrigger", config.kafka.max_messages
    )
    columns = (
        "topic",
        "partition",
        "offset",
        "unix_millis(timestamp) AS time_ms",
        "value",
        "CAST(NULL AS string) AS gone",
    )
    return (
        reader.option("minPartitions", spark.sparkContext.defaultParallelism)
        .load()
        .selectExpr(*columns)
    )


def _has_connector(spark: SparkSession) -> bool:
    try:
        jvm = spark._jvm  # noqa: SLF001 - PySpark has no public way to its Java
        loader = jvm.Thread.currentThread().getContextClassLoader()
        jvm.java.lang.Class.forName(_CONNECTOR, False, loader)
    except Py4JError:
        return False
    return True


def _watch(
    query: StreamingQuery, batches: "Batches", view: View, idle_stop_s: float, tick: Any
) -> bool:
    """Show what goes on; ends, saying true, when nothing has arrived for so long.

    Raises
    ------
    PySparkException
        The query has ended by an error.
    """
    busy = written = time.monotonic()
    while query.isActive:
        time.sleep(0.2)
        tick()
        view.waiting = _backlog(query)
        now = time.monotonic()
        if (
            batches.drain(view)
            or batches.running
            or query.lastProgress is None
            or query.status["isDataAvailable"]
        ):
            busy = now
        if now - written >= _WRITE_EVERY_S:
            view.folder.write(complete=False)
            written = now
        if idle_stop_s and now - busy > idle_stop_s:
            return True
    query.awaitTermination()  # raises what has ended it
    return False


def _backlog(query: StreamingQuery) -> int:
    """Messages that have arrived after the last micro-batch."""
    progress = query.lastProgress
    if not progress or not progress["sources"]:
        return 0
    ends = [progress["sources"][0][side] for side in ("endOffset", "latestOffset")]
    taken, there = ((json.loads(end) if isinstance(end, str) else end) or {} for end in ends)
    return sum(
        max(offset - taken.get(name, {}).get(p, 0), 0)
        for name, ps in there.items()
        for p, offset in ps.items()
    )


class Batches:
    """What is done with a micro-batch: one file, one record, each message's events once.

    A message whose events were there already, as another message, is quarantined: its publisher has sent it twice.
    """

    def __init__(self, folder: ScoreFolder, task: Task, most_bytes: int) -> None:
        self.task = task
        self.error: HepflowError | AssertionError | None = None
        self.stopping = self.running = False
        self._score = partial(score_messages, task=task, most_bytes=most_bytes)
        self._seen = {
            digest: place
            for record in folder.done.values()
            for digest, place in record.messages.items()
        }
        self._finished: queue.SimpleQueue[tuple[Record, _Latencies]] = queue.SimpleQueue()

    def __call__(self, frame: DataFrame, number: int) -> None:
        """Called by Spark, in a thread of its own."""
        started, self.running = time.perf_counter(), True
        try:
            rows = sorted(
                self._rows(frame), key=lambda row: (row["topic"], row["partition"], row["offset"])
            )
            record, arrived = self._record(rows, f"batch-{number:08d}", started)
        except (HepflowError, AssertionError) as error:
            self.error = error
            raise
        finally:
            self.running = False
        now = time.time()
        self._finished.put((record, [(now - time_ms / 1000, n) for time_ms, n in arrived]))

    def drain(self, view: View) -> bool:
        """Show what is finished; whether anything was."""
        found = False
        while not self._finished.empty():
            record, latencies = self._finished.get()
            view.folder.add(record)
            view.add(record, latencies)
            for item in record.lost:
                log.warning("quarantined %s", told([item]))
            found = True
        return found

    def _rows(self, frame: DataFrame) -> list[dict[str, Any]]:
        try:
            return frame.mapInArrow(self._score, SCHEMA).toArrow().to_pylist()
        except (PySparkException, Py4JError):
            if self.stopping:
                raise
            return self._one_by_one(frame)

    def _one_by_one(self, frame: DataFrame) -> list[dict[str, Any]]:
        """What takes its worker down again and again is quarantined, so that one message cannot stop the rest."""
        rows: list[dict[str, Any]] = []
        for where in frame.select("topic", "partition", "offset", "time_ms").collect():
            alone = frame.where(
                (frame["partition"] == where["partition"]) & (frame["offset"] == where["offset"])
            )
            try:
                rows += alone.mapInArrow(self._score, SCHEMA).toArrow().to_pylist()
            except (PySparkException, Py4JError) as error:
                if self.stopping:
                    raise
                alone.select(
                    "offset"
                ).collect()  # raises where it is the broker that fails, and not the scoring
                report = Report(f"scoring it fails ({_brief(error)})")
                rows.append(
                    {**where.asDict(), "report": json.dumps(report.__dict__), "scores": None}
                )
        return rows

    def _record(
        self, rows: Sequence[dict[str, Any]], name: str, started: float
    ) -> tuple[Record, _Latencies]:
        tables, lost, arrived, messages = [], [], [], {}
        kept: list[Report] = []
        n_in = 0
        for row in rows:
            place, report = (
                f"{row['topic']}[{row['partition']}]@{row['offset']}",
                Report(**json.loads(row["report"])),
            )
            owner = self._seen.setdefault(report.digest, place) if report.digest else place
            n_in += report.n_in
            arrived.append((row["time_ms"] or time.time() * 1000, max(report.n_in, 1)))
            if report.reason or owner != place:
                lost.append(
                    Lost(
                        place,
                        report.reason or f"a copy of {owner} (same events)",
                        report.n_in if report.digest else None,
                    )
                )
                continue
            kept.append(report)
            messages[report.digest] = place
            tables.append(pa.ipc.open_stream(row["scores"]).read_all())
            if report.n_not_finite:
                lost.append(Lost(place, NOT_FINITE, report.n_not_finite))
        record = Record(
            key=name,
            name=name,
            messages=messages,
            fragment=write_scores(tables, name, self.task),
            n_in=n_in,
            n_out=sum(report.n_out for report in kept),
            rejected=_sums(report.rejected for report in kept),
            lost=tuple(lost),
            accepted=_sums(report.accepted for report in kept),
            histograms=_sum_histograms([report.histograms for report in kept if report.histograms]),
            seconds=round(time.perf_counter() - started, 4),
        )
        return record.write(self.task.output), arrived


def _require_whole(folder: ScoreFolder) -> None:
    """Refuse to go on if scores are gone that Spark takes for written, or Spark's checkpoint is.

    Raises
    ------
    DataError
        They are.
    """
    commits = folder.path / CHECKPOINT / "commits"
    committed = (
        {int(path.name) for path in commits.iterdir() if path.name.isdigit()}
        if commits.is_dir()
        else set()
    )
    there = {int(record.name.rpartition("-")[2]) for record in folder.done.values()}
    missing = set(range(max(committed, default=-1) + 1)) - there
    if missing or (there and not committed and max(there) > 0):
        what = (
            f"the scores of {len(missing)} micro-batches are gone"
            if missing
            else f"Spark's {CHECKPOINT} is gone"
        )
        raise DataError(
            f"{folder.path}: {what}. Choose another output: the topic is read again from its start."
        )


def _sums(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for found in counts:
        for name, n in found.items():
            total[name] = total.get(name, 0) + n
    return dict(sorted(total.items()))


def _sum_histograms(found: Sequence[Sequence[Sequence[int]]]) -> tuple[tuple[int, ...], ...]:
    return tuple(
        tuple(sum(counts) for counts in zip(*rows, strict=True))
        for rows in zip(*found, strict=True)
    )


def _brief(error: Exception) -> str:
    """The last thing that a Python process said, of Spark's pages."""
    lines = [
        line.strip()
        for line in str(error).splitlines()
        if line.strip() and not line.lstrip().startswith("at ")
    ]
    said = [
        line
        for line in lines
        if ": " in line and not line.startswith(("JVM", "File", "org.apache"))
    ]
    return (said or lines or [type(error).__name__])[-1][:200]
