"""`hepflow score --stream --input kafka://...`: score messages with Spark Structured Streaming.

Spark keeps the offsets of the topic, cuts micro-batches of bounded size, and hands them to its
executors (`hepflow.score.kafka.task`). A micro-batch becomes one Parquet file and then one record,
both named after its number. Spark stores the content of a micro-batch before it begins, and after a
crash it runs the same one again: file and record are replaced by identical ones. So each message is
scored once, and any program can read the scores without Spark's commit log.
"""

import json
import logging
import queue
import shutil
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
from py4j.protocol import Py4JError
from pyspark.errors import PySparkException, PythonException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.streaming.query import StreamingQuery

from hepflow.config.score import ScoreConfig
from hepflow.data.ledger import Ledger, Lost
from hepflow.engines import java_errors
from hepflow.engines.spark import spark_session
from hepflow.errors import ConfigError, DataError, HepflowError
from hepflow.physics import own
from hepflow.physics.skim import NOT_FINITE
from hepflow.reading.record import describe, judge
from hepflow.score.folder import CHECKPOINT, ScoreFolder
from hepflow.score.job import prepare
from hepflow.score.kafka import connector
from hepflow.score.kafka.deleted import Skipped, n_messages, place_of
from hepflow.score.kafka.source import FORMAT, KafkaSource, options
from hepflow.score.kafka.task import SCHEMA, Report, failed, score_messages
from hepflow.score.kafka.topic import Topic
from hepflow.score.live import terminated
from hepflow.score.task import ScoreRecord, Tally, Task, write_scores
from hepflow.score.view import View, shown
from hepflow.system.locks import exclusive
from hepflow.system.remote import is_remote
from hepflow.system.terminal import counted

log = logging.getLogger(__name__)

_CONNECTOR = "org.apache.spark.sql.kafka010.KafkaSourceProvider"


def run(config: ScoreConfig) -> None:
    """Score a topic until interrupted, or until nothing has arrived for ``idle_stop_s`` seconds."""
    if is_remote(config.output):
        where = "must be a path that this machine and Spark's executors see: it holds a checkpoint"
        raise ConfigError(f"--output {config.output} {where} of Spark.")
    topic = Topic.parse(str(config.input), config.kafka.properties)
    scorer, task, about = prepare(config, str(topic))
    if not topic.partitions(config.timeout_s):
        advice = f"Create it, or publish to it with `hepflow replay --output {topic}`."
        raise DataError(f"{topic}: topic does not exist. {advice}")
    with exclusive(config.output):
        folder = ScoreFolder(task.output, about, overwrite=config.overwrite)
        _require_complete(folder)
        with spark_session(config.spark, "hepflow score") as spark, terminated():
            view = View(config, task.working_points, scorer.net.spread, folder)
            log.info("reading %s every %g s, scores go to %s", topic, config.poll_s, config.output)
            _follow(config, topic, spark, task, view)
        judge(folder.ledger.lost, None, config.max_lost_files, config.output, n_messages)


def _follow(config: ScoreConfig, topic: Topic, spark: SparkSession, task: Task, view: View) -> None:
    """Run the query, and restart it a few times in a row if it fails, as when a broker is down."""
    skipped = Skipped(topic, config.output / CHECKPOINT, config.timeout_s)
    batches = Batches(view.folder, task, int(config.kafka.max_message_mb * (1 << 20)), skipped)
    complete, tries = False, 0
    try:
        with shown(view):
            while not complete:
                done = len(view.folder.done)
                query = _start(config, topic, spark, batches)
                try:
                    complete = _watch(query, batches, view, config.idle_stop_s)
                except PySparkException as error:
                    tries = 0 if len(view.folder.done) > done else tries
                    if batches.error is not None or tries >= config.retries:
                        what = f"{topic}: {_brief(error)}, {counted(tries + 1, 'time')}"
                        advice = "Check the broker, and run the same command again."
                        own = java_errors.of_a_task(error)
                        known = own if isinstance(own, HepflowError) else None
                        raise batches.error or known or DataError(f"{what}. {advice}") from error
                    log.warning("%s: %s, retrying in %g s", topic, _brief(error), 2.0**tries)
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
    # Hadoop's paths do not know %20, which as_uri() writes for a blank
    place = f"file://{(config.output / CHECKPOINT).absolute()}"
    writer = writer.option("checkpointLocation", place)
    return writer.trigger(processingTime=f"{config.poll_s} seconds").start()


def _messages(config: ScoreConfig, topic: Topic, spark: SparkSession) -> DataFrame:
    """Return the topic as a stream with the columns of `hepflow.score.kafka.source.SCHEMA`."""
    kafka, tasks = config.kafka, spark.sparkContext.defaultParallelism
    if kafka.connector == "python" or (kafka.connector == "auto" and not _has_connector(spark)):
        _check_python(spark.sparkContext.pythonExec)
        spark.dataSource.register(KafkaSource)
        settings = options(topic, kafka, config.timeout_s, tasks, config.output / CHECKPOINT)
        return spark.readStream.format(FORMAT).options(**settings).load()
    settings = connector.options(topic, kafka, tasks)
    frame = spark.readStream.format("kafka").options(**settings).load()
    time_ms, gone = "unix_millis(timestamp) AS time_ms", "CAST(NULL AS bigint) AS gone"
    return frame.selectExpr("topic", "partition", "offset", time_ms, "value", gone)


def _check_python(program: str) -> None:
    """Refuse a Python that only containers have: Spark plans a source of Python in the driver."""
    if shutil.which(program) is None:
        what = f"spark.pyspark.python {program}: the source of topics runs on this machine too"
        advice = "Unpack the archive here, or give Spark's connector (spark.jars.packages)."
        raise ConfigError(f"{what}, where it is not. {advice}")


def _has_connector(spark: SparkSession) -> bool:
    jvm = spark._jvm  # noqa: SLF001 - PySpark has no public way to its Java
    try:
        loader = jvm.Thread.currentThread().getContextClassLoader()
        return bool(jvm.java.lang.Class.forName(_CONNECTOR, False, loader))
    except Py4JError:
        return False


def _watch(query: StreamingQuery, batches: "Batches", view: View, idle_stop_s: float) -> bool:
    """Show progress; return True when nothing has arrived for ``idle_stop_s`` seconds."""
    busy = time.monotonic()
    while query.isActive:
        time.sleep(0.2)
        view.tick()
        now, progress = time.monotonic(), query.lastProgress
        view.waiting = _backlog(progress["sources"][0]) if progress and progress["sources"] else 0
        working = batches.drain(view) or batches.running or view.waiting or progress is None
        if working or query.status["isDataAvailable"]:
            busy = now
        if idle_stop_s and now - busy > idle_stop_s:
            return True
    query.awaitTermination()  # raises the error of the query
    return False


def _backlog(source: Mapping[str, Any]) -> int:
    """Return the number of messages after the last micro-batch, from a source's progress report.

    Both sides are topic -> partition -> offset, as JSON from Spark's connector. A batch before the
    source's first look at the topic has no offsets, or the text "null".
    """
    offsets = (source["endOffset"], source["latestOffset"])
    done, latest = ((json.loads(o) if isinstance(o, str) else o) or {} for o in offsets)
    waiting = 0
    for topic, partitions in latest.items():
        for partition, offset in partitions.items():
            waiting += max(offset - done.get(topic, {}).get(partition, 0), 0)
    return waiting


class Batches:
    """Sink of the query: one file and one record per micro-batch.

    A message with the events of an earlier one is quarantined: its publisher sent it twice.
    """

    def __init__(self, folder: ScoreFolder, task: Task, most_bytes: int, skipped: Skipped) -> None:
        self.task, self._skipped = task, skipped
        self.error: HepflowError | AssertionError | None = None
        self.stopping = self.running = False
        self._score = partial(score_messages, task=task, most_bytes=most_bytes)
        self._seen: dict[str, str] = {}
        for record in folder.done.values():
            self._seen.update(record.messages)
        self._finished = queue.SimpleQueue[tuple[ScoreRecord, list[tuple[float, int]]]]()

    def __call__(self, frame: DataFrame, number: int) -> None:
        """Score a micro-batch; Spark calls it in a thread of its own."""
        started, self.running = time.perf_counter(), True
        try:
            rows = self._rows(frame)
            rows += self._skipped.rows(number, rows)
            rows.sort(key=lambda row: (row["topic"], row["partition"], row["offset"]))
            record, arrived = self._record(rows, f"batch-{number:08d}", started)
        except (HepflowError, AssertionError) as error:
            self.error = error
            raise
        finally:
            self.running = False
        now = time.time()
        self._finished.put((record, [(now - time_ms / 1000, n) for time_ms, n in arrived]))

    def drain(self, view: View) -> bool:
        """Show finished micro-batches; return whether there were any."""
        found = not self._finished.empty()
        while not self._finished.empty():
            record, latencies = self._finished.get()
            view.folder.add(record)
            view.add(record, latencies)
            for item in record.ledger.lost:
                log.warning("quarantined %s", describe([item]))
        return found

    def _rows(self, frame: DataFrame) -> list[dict[str, Any]]:
        """Return the scored messages; if one kills Spark's workers, score each alone to find it.

        What Python raises in a worker is no message's fault: see `score_messages`.
        """
        try:
            return frame.mapInArrow(self._score, SCHEMA).toArrow().to_pylist()
        except (PySparkException, Py4JError) as error:
            if self.stopping or isinstance(error, PythonException):
                raise
        rows: list[dict[str, Any]] = []
        for where in frame.select("topic", "partition", "offset", "time_ms").collect():
            here = (frame["partition"] == where["partition"]) & (frame["offset"] == where["offset"])
            alone = frame.where(here)
            try:
                rows += alone.mapInArrow(self._score, SCHEMA).toArrow().to_pylist()
            except (PySparkException, Py4JError) as error:
                if self.stopping:
                    raise
                alone.select("offset").collect()  # raises if reading fails, and not scoring
                report = Report(failed(_brief(error))).to_json()
                rows.append({**where.asDict(), "report": report, "scores": None})
        return rows

    def _record(
        self, rows: Sequence[dict[str, Any]], name: str, started: float
    ) -> tuple[ScoreRecord, list[tuple[float, int]]]:
        """Write scores and record; return also the arrival time and events per message."""
        tables, lost, arrived, messages = [], [], [], {}
        n_in, total = 0, Tally()
        for row in rows:
            report = Report.from_json(row["report"])
            place = place_of(row, report.last)
            owner = self._seen.setdefault(report.digest, place) if report.digest else place
            n_in += report.n_in
            arrived.append((row["time_ms"] or time.time() * 1000, max(report.n_in, 1)))
            if report.reason or owner != place:
                reason = report.reason or f"a copy of {owner} (same events)"
                lost.append(Lost(place, reason, report.n_in if report.digest else None))
                continue
            messages[report.digest] = place
            tables.append(pa.ipc.open_stream(row["scores"]).read_all())
            if report.tally.n_not_finite:
                lost.append(Lost(place, NOT_FINITE, report.tally.n_not_finite))
            total.add(report.tally)
        ledger = Ledger(n_in, total.n_out, total.rejected, tuple(lost)).check()
        fragment = write_scores(tables, name, self.task)
        seconds = round(time.perf_counter() - started, 4)
        of_events = False, total.accepted, total.histograms, seconds
        record = ScoreRecord(name, name, ledger, None, None, messages, fragment, *of_events)
        return record.write(self.task.output), arrived


def _require_complete(folder: ScoreFolder) -> None:
    """Refuse to go on without Spark's checkpoint, or without scores that it counts as written."""
    commits = folder.path / CHECKPOINT / "commits"
    names = [path.name for path in commits.iterdir()] if commits.is_dir() else []
    committed = {int(name) for name in names if name.isdigit()}
    found = {int(record.name.rpartition("-")[2]) for record in folder.done.values()}
    missing = set(range(max(committed, default=-1) + 1)) - found
    if missing or (found and not committed and max(found) > 0):
        what = f"scores ({len(missing)} micro-batches)" if missing else f"Spark's {CHECKPOINT}"
        advice = "Choose another output: the topic is read again from its start."
        raise DataError(f"{folder.path}: {what} deleted. {advice}")


def _brief(error: Exception) -> str:
    """Return the last message of a Python process among Spark's pages."""
    lines = [line.strip() for line in str(error).splitlines()]
    lines = [line for line in lines if line and not line.startswith("at ")]
    noise = ("JVM", "File", "org.apache")
    messages = [line for line in lines if ": " in line and not line.startswith(noise)]
    return (messages or lines or [type(error).__name__])[-1][:200]
