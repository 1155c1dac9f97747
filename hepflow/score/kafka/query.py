"""The query of Spark that reads a topic: properties, source, start; and a rehearsal before it.

Measured on two cores at 200 events/s, a micro-batch cost besides its events: 0.3 s for Spark's two
log files, as Hadoop's FileContext starts a program per rename (see `_MANAGERS`); 0.13 s of a core
per process for Python's collection of garbage among all that is imported (see `scorer_of`); 0.15 s
for planning and starting a job.
"""

import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f
from pyspark.sql.streaming.query import StreamingQuery

from hepflow.config.engines import SparkConfig
from hepflow.config.score import ScoreConfig
from hepflow.errors import ConfigError, one_line
from hepflow.physics import own
from hepflow.score.folder import CHECKPOINT
from hepflow.score.kafka import connector
from hepflow.score.kafka.messages import example
from hepflow.score.kafka.source import FORMAT, SCHEMA, KafkaSource, options
from hepflow.score.kafka.task import SCHEMA as REPORTS
from hepflow.score.kafka.task import pass_on, score_messages
from hepflow.score.kafka.topic import Topic
from hepflow.score.task import Task

log = logging.getLogger(__name__)

Sink = Callable[[DataFrame, int], None]

PROPERTIES: Mapping[str, str] = {
    "spark.ui.retainedJobs": "100",
    "spark.ui.retainedStages": "100",
    "spark.ui.retainedTasks": "1000",
    "spark.sql.ui.retainedExecutions": "50",
    "spark.sql.streaming.numRecentProgressUpdates": "10",
    "spark.python.daemon.module": "hepflow.score.kafka.daemon",
}
"""Bounds of what Spark's driver keeps in memory, as a stream runs for months."""

_CONNECTOR = "org.apache.spark.sql.kafka010.KafkaSourceProvider"
_MANAGERS = tuple(
    f"org.apache.spark.sql.execution.streaming.{package}FileSystemBasedCheckpointFileManager"
    for package in ("", "checkpointing.")  # of earlier versions of Spark, and of 4.3
)
_REHEARSALS = 3  # micro-batches: Java loads and compiles in the first two for seconds


def streaming(config: SparkConfig) -> SparkConfig:
    """Return the configuration of a session for a stream."""
    return replace(config, conf={**PROPERTIES, **config.conf})


def uses_connector(config: ScoreConfig, spark: SparkSession) -> bool:
    """Return whether Spark's own connector reads the topic, and not confluent-kafka."""
    wanted = config.kafka.connector
    if wanted == "python":
        return False
    here = _has(spark, _CONNECTOR)
    if wanted == "spark" and not here:
        package = f"org.apache.spark:spark-sql-kafka-0-10_2.13:{spark.version}"
        advice = f"Give --spark.conf.spark.jars.packages {package}, or leave the choice open."
        raise ConfigError(f"kafka.connector spark: Spark's connector is not here. {advice}")
    return here


def start(config: ScoreConfig, topic: Topic, spark: SparkSession, sink: Sink) -> StreamingQuery:
    """Start the query: the sink gets micro-batches with the columns of the source's `SCHEMA`."""
    # Hadoop's paths do not know %20, which as_uri() writes for a blank
    place = f"file://{(config.output / CHECKPOINT).absolute()}"
    return _started(_messages(config, topic, spark), place, config.interval_s, sink)


def prepare(config: ScoreConfig, topic: Topic, spark: SparkSession, task: Task) -> None:
    """Make the session ready: send the physics, load all, and score made-up messages.

    Otherwise the first message would wait for the start of Python, of the net and of Java's
    classes. What fails here fails again, and is reported, on the topic.
    """
    context = spark.sparkContext
    loose = own.loose_file(config.physics)
    if loose is not None:
        context.addPyFile(str(loose))
    for manager in _MANAGERS:
        if _has(spark, manager):
            spark.conf.set("spark.sql.streaming.checkpointFileManagerClass", manager)
    # Python loads the net and the source meanwhile: Java takes seconds to plan its first query.
    pool, tasks = ThreadPoolExecutor(2), context.defaultParallelism
    rows = spark.range(0, tasks, 1, tasks)
    pool.submit(rows.mapInArrow(partial(pass_on, task=task), rows.schema).toArrow)
    pool.submit(_messages, config, topic, spark)
    pool.shutdown(wait=False)
    messages = _made_up(spark)
    if not uses_connector(config, spark):
        # A task that reads by Python has two Python workers, which change roles.
        messages = messages.mapInArrow(partial(pass_on, task=task), SCHEMA)
    score = partial(score_messages, task=task, most_bytes=config.kafka.max_message_bytes)
    done: list[int] = []

    def rehearse(frame: DataFrame, number: int) -> None:
        if len(done) < _REHEARSALS:
            frame.mapInArrow(score, REPORTS).toArrow()
            done.append(number)

    with tempfile.TemporaryDirectory() as place:
        try:
            query = _started(messages, f"file://{place}", 0, rehearse)
            while len(done) < _REHEARSALS and not query.awaitTermination(0.1):
                pass
            query.stop()
        except (PySparkException, Py4JError) as error:
            log.debug("rehearsal: %s", error)


def _made_up(spark: SparkSession) -> DataFrame:
    """Return a stream of messages, one per core in each micro-batch."""
    tasks = spark.sparkContext.defaultParallelism
    rate = spark.readStream.format("rate-micro-batch").option("numPartitions", tasks)
    return (
        rate.option("rowsPerBatch", tasks)
        .load()
        .select(
            f.lit("rehearsal").alias("topic"),
            f.lit(0).alias("partition"),
            f.col("value").alias("offset"),
            f.lit(0).cast("bigint").alias("time_ms"),
            f.lit(bytearray(example())).alias("value"),
            f.lit(None).cast("bigint").alias("gone"),
        )
    )


def _started(messages: DataFrame, place: str, interval_s: float, sink: Sink) -> StreamingQuery:
    writer = messages.writeStream.foreachBatch(sink).option("checkpointLocation", place)
    return writer.trigger(processingTime=f"{interval_s} seconds").start()


def _messages(config: ScoreConfig, topic: Topic, spark: SparkSession) -> DataFrame:
    kafka, tasks = config.kafka, spark.sparkContext.defaultParallelism
    if not uses_connector(config, spark):
        _check_python(spark.sparkContext.pythonExec)
        spark.dataSource.register(KafkaSource)
        settings = options(topic, kafka, config.timeout_s, tasks, config.output / CHECKPOINT)
        return spark.readStream.format(FORMAT).options(**settings).load()
    settings = connector.options(topic, kafka, tasks)
    try:
        frame = spark.readStream.format("kafka").options(**settings).load()
    except PySparkException as error:
        what = one_line(error).partition(" JVM stacktrace")[0].rstrip(".")
        raise ConfigError(f"{topic}: {what}. Check kafka.options.") from error
    time_ms, gone = "unix_millis(timestamp) AS time_ms", "CAST(NULL AS bigint) AS gone"
    return frame.selectExpr("topic", "partition", "offset", time_ms, "value", gone)


def _check_python(program: str) -> None:
    """Refuse a Python that only containers have: Spark plans a source of Python in the driver."""
    if shutil.which(program) is None:
        what = f"spark.pyspark.python {program}: the source of topics runs on this machine too"
        advice = "Unpack the archive here, or give Spark's connector (spark.jars.packages)."
        raise ConfigError(f"{what}, where it is not. {advice}")


def _has(spark: SparkSession, name: str) -> bool:
    """Return whether a class is on the path of Spark's driver."""
    jvm = spark._jvm  # noqa: SLF001 - PySpark has no public way to its Java
    try:
        loader = jvm.Thread.currentThread().getContextClassLoader()
        return bool(jvm.java.lang.Class.forName(name, False, loader))
    except Py4JError:
        return False
