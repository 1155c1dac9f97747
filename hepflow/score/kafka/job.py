"""`hepflow score --stream --input kafka://...`: score messages with Spark Structured Streaming.

Spark keeps the offsets of the topic, cuts micro-batches of bounded size, and hands them to its
executors (`hepflow.score.kafka.task`). A micro-batch becomes one Parquet file and then one record,
both named after its number. Spark stores the content of a micro-batch before it begins, and after a
crash it runs the same one again, unless it has a record. So each message is scored once, and any
program can read the scores without Spark's commit log. `hepflow.score.kafka.folder` merges the
files, so that a stream may run for months.
"""

import json
import logging
import time
from collections.abc import Mapping
from typing import Any

from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from pyspark.sql.streaming.query import StreamingQuery

from hepflow.config.score import ScoreConfig
from hepflow.data.task_records import RECORDS
from hepflow.engines import java_errors
from hepflow.engines.spark import archive_classes, spark_session
from hepflow.errors import ConfigError, DataError, HepflowError
from hepflow.reading.record import judge
from hepflow.score.claims import CLAIMS
from hepflow.score.folder import CHECKPOINT
from hepflow.score.kafka import query
from hepflow.score.kafka.batches import Batches, brief, is_of_an_option
from hepflow.score.kafka.deleted import Skipped, n_messages
from hepflow.score.kafka.folder import TopicFolder
from hepflow.score.kafka.topic import Topic
from hepflow.score.tables import RECENT
from hepflow.score.task import Task, prepare
from hepflow.score.view import View, shown
from hepflow.system.locks import exclusive
from hepflow.system.processes import terminated
from hepflow.system.remote import is_remote
from hepflow.system.terminal import counted

log = logging.getLogger(__name__)


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
    with exclusive(config.output, RECORDS, CLAIMS, RECENT, CHECKPOINT):
        folder = TopicFolder(task.output, about, config.kafka, config.overwrite)
        session = spark_session(query.streaming(config.spark), "hepflow score")
        with session as spark, terminated():
            view = View(config, task.working_points, scorer.net.spread, folder)
            query.prepare(config, topic, spark, task)
            _follow(config, topic, spark, task, folder, view)
        judge(folder.ledger.lost, None, config.max_lost_files, config.output, n_messages)


def _follow(
    config: ScoreConfig,
    topic: Topic,
    spark: SparkSession,
    task: Task,
    folder: TopicFolder,
    view: View,
) -> None:
    """Run the query, and restart it a few times in a row if it fails, as when a broker is down."""
    skipped = Skipped(topic, config.output / CHECKPOINT, config.timeout_s)
    batches = Batches(folder, task, skipped)
    complete, tries = False, 0
    client = "Spark's connector" if query.uses_connector(config, spark) else "confluent-kafka"
    about = f"reading {topic} by {client} every {config.interval_s:g} s, scores go to"
    try:
        with shown(view):
            while not complete:
                done = folder.last
                batches.stopping = False
                running = query.start(config, topic, spark, batches)
                try:
                    while _is_starting(running):
                        time.sleep(0.05)
                    log.info("%s %s", about, config.output)
                    archive_classes()
                    complete = _watch(running, batches, view, config.idle_stop_s)
                except PySparkException as error:
                    if is_of_an_option(error):
                        advice = "Check kafka.options and kafka.properties."
                        raise ConfigError(f"{topic}: {brief(error)}. {advice}") from error
                    tries = 0 if folder.last > done else tries
                    if batches.error is not None or tries >= config.retries:
                        what = f"{topic}: {brief(error)}, {counted(tries + 1, 'time')}"
                        advice = "Check the broker, and run the same command again."
                        own = java_errors.of_a_task(error)
                        known = own if isinstance(own, HepflowError) else None
                        raise batches.error or known or DataError(f"{what}. {advice}") from error
                    log.warning("%s: %s, retrying in %g s", topic, brief(error), 2.0**tries)
                    time.sleep(2.0**tries)
                    tries += 1
                finally:
                    batches.stopping = True
                    running.stop()
    finally:
        batches.drain(view, at_end=True)
        folder.write(complete=complete)
        log.info("%s holds the scores: %s", config.output, folder.ledger.summary())


def _is_starting(running: StreamingQuery) -> bool:
    """Return whether the query has neither asked the broker for messages nor failed."""
    return (
        running.isActive and running.lastProgress is None and not running.status["isDataAvailable"]
    )


def _watch(running: StreamingQuery, batches: Batches, view: View, idle_stop_s: float) -> bool:
    """Show progress; return True when nothing has arrived for ``idle_stop_s`` seconds."""
    busy = time.monotonic()
    while running.isActive:
        time.sleep(0.2)
        view.tick()
        now, progress = time.monotonic(), running.lastProgress
        view.waiting = _backlog(progress["sources"][0]) if progress and progress["sources"] else 0
        working = batches.drain(view) or batches.running or view.waiting or progress is None
        if working or running.status["isDataAvailable"]:
            busy = now
        if idle_stop_s and now - busy > idle_stop_s:
            return True
    running.awaitTermination()  # raises the error of the query
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
