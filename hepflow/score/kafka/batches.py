"""The sink of the query: micro-batches of messages -> one file of scores and one record each."""

import logging
import queue
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pyarrow as pa
from py4j.protocol import Py4JError
from pyspark.errors import PySparkException, PythonException
from pyspark.sql import DataFrame

from hepflow.data.ledger import Ledger, Lost
from hepflow.errors import HepflowError
from hepflow.physics.skim import NOT_FINITE
from hepflow.reading.record import describe
from hepflow.score.folder import CHECKPOINT
from hepflow.score.fragment import write_scores
from hepflow.score.kafka import checkpoint
from hepflow.score.kafka.deleted import Skipped, place_of
from hepflow.score.kafka.folder import TopicFolder, latest, name_of
from hepflow.score.kafka.task import SCHEMA, Report, failed, score_messages
from hepflow.score.record import ScoreRecord
from hepflow.score.tables import RECENT
from hepflow.score.task import Tally, Task
from hepflow.score.view import View

log = logging.getLogger(__name__)


class Batches:
    """Sink of the query: one file and one record per micro-batch.

    A message with the events of one of the latest is quarantined: its publisher sent it twice.
    """

    def __init__(self, folder: TopicFolder, task: Task, skipped: Skipped) -> None:
        self.folder, self.task, self._skipped = folder, task, skipped
        self.error: HepflowError | AssertionError | None = None
        self.stopping = self.running = self._flushed = False
        most_bytes = folder.config.max_message_bytes
        self._score = partial(score_messages, task=task, most_bytes=most_bytes)
        self._seen, self._last = folder.messages, folder.last
        self._finished = queue.SimpleQueue[tuple[ScoreRecord, list[tuple[float, int]]]]()

    def __call__(self, frame: DataFrame, number: int) -> None:
        """Score a micro-batch; Spark calls it in a thread of its own.

        It calls again for the last one if it died before it wrote its commit.
        """
        if number <= self._last:
            return
        started, self.running = time.perf_counter(), True
        try:
            with ThreadPoolExecutor(1) as pool:  # meanwhile
                flushed = pool.submit(self._flush, number)
                rows = self._rows(frame)
            flushed.result()
            rows += self._skipped.rows(number, rows)
            rows.sort(key=lambda row: (row["topic"], row["partition"], row["offset"]))
            record, arrived = self._record(rows, name_of(number), started)
        except (HepflowError, AssertionError) as error:
            self.error = error
            raise
        finally:
            self.running = False
        self._last, now = number, time.time()
        if len(self._seen) > 1.1 * self.folder.config.remembered:
            self._seen = latest(self._seen, self.folder.config.remembered)
        self._finished.put((record, [(now - time_ms / 1000, n) for time_ms, n in arrived]))

    def drain(self, view: View, *, at_end: bool = False) -> bool:
        """Add finished micro-batches to the folder and the view; return whether there were any."""
        found = not self._finished.empty()
        while not self._finished.empty():
            record, latencies = self._finished.get()
            self.folder.add(record)
            view.add(record, latencies)
            for item in record.ledger.lost:
                log.warning("quarantined %s", describe([item]))
        self.folder.merge(self._seen, at_end=at_end)
        return found

    def _flush(self, number: int) -> None:
        """Bring to the disk, before the record, what Spark has written of a micro-batch."""
        folder = self.task.output / CHECKPOINT
        if not self._flushed:
            checkpoint.flush_all(folder)
        checkpoint.flush_plan(folder, number)
        self._flushed = True

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
                report = Report(failed(brief(error))).to_json()
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
        fragment = f"{RECENT}/{name}.parquet" if tables else None
        if fragment is not None:
            write_scores(self.task.output / fragment, tables, self.task.about)
        seconds = round(time.perf_counter() - started, 4)
        record = ScoreRecord(
            name,
            ledger,
            fragment,
            total.accepted,
            messages=messages,
            histograms=total.histograms,
            seconds=seconds,
        )
        return record.write(self.task.output), arrived


def is_of_an_option(error: PySparkException) -> bool:
    """Return whether Java refused an option, and will again."""
    stack = str(getattr(error, "_stackTrace", ""))  # PySpark leaves it out of the text
    return re.search(r"Caused by: \S+\.(IllegalArgument|Config)Exception", stack) is not None


def brief(error: Exception) -> str:
    """Return the last message of a Python process among Spark's pages."""
    text = str(error).partition("=== Streaming Query ===")[0]  # the state of the query follows
    text = re.sub(r"^\[STREAM_FAILED\].*? terminated with exception: ([\w.]+: )?", "", text)
    text = re.sub(r" SQLSTATE: \w{5}$", "", text, flags=re.MULTILINE)
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("at ")]
    noise = ("JVM", "File", "org.apache", "SQLSTATE")
    messages = [line for line in lines if ": " in line and not line.startswith(noise)]
    return (messages or lines or [type(error).__name__])[-1][:200]
