"""The Spark job whose tasks are Dask workers, in threads of its own.

A job that fails leaves its scheduler without workers, for which Dask's tasks would wait
indefinitely: then they fail, and `WorkersJob.failure` gives the reason.
"""

import logging
import threading
import uuid
from contextlib import suppress
from functools import partial
from typing import Any

from distributed import LocalCluster, SchedulerPlugin
from py4j.protocol import Py4JError, Py4JJavaError
from pyspark import SparkContext
from pyspark.core.status import SparkStageInfo

from hepflow.engines import java_errors, waiting
from hepflow.engines import spark as engine
from hepflow.engines.words import Words
from hepflow.errors import HepflowError

_POLL_S, _END_S = 0.5, 10.0


class _Arrivals(SchedulerPlugin):
    """Counts the workers that have come."""

    name = "hepflow-arrivals"

    def __init__(self) -> None:
        self.count = 0

    def add_worker(self, scheduler: Any, worker: str) -> None:  # noqa: ARG002 - distributed's
        """Count one."""
        self.count += 1


class WorkersJob:
    """The Spark job: one thread waits for it, another one for its workers."""

    def __init__(
        self, context: SparkContext, dask: LocalCluster, work: partial[None], n_workers: int
    ) -> None:
        self._context, self._dask, self._n_workers = context, dask, n_workers
        self._group = f"hepflow-{uuid.uuid4().hex}"
        self._arrivals, self._over = _Arrivals(), threading.Event()
        self._failure: Exception | None = None
        dask.scheduler.add_plugin(self._arrivals)
        self._threads = [
            threading.Thread(target=target, args=arguments, name="hepflow-dask", daemon=True)
            for target, arguments in ((self._run, (work,)), (self._watch, ()))
        ]
        for thread in self._threads:
            thread.start()

    def failure(self) -> Exception | None:
        """Return the error of a run whose job has failed; None if the job runs."""
        failure = self._failure
        java_answers = isinstance(failure, Py4JJavaError)
        if failure is None or (isinstance(failure, (Py4JError, OSError)) and not java_answers):
            return failure  # the session finds out whether Java is gone
        why = java_errors.reason(str(failure))
        what = f"the Spark job of the Dask workers failed: {why}"
        return HepflowError(f"{what}. Fix this, and run the same command again; it resumes.")

    def end(self) -> None:
        """Wait for the end of the tasks, whose scheduler has ended; cancel those that go on."""
        self._over.set()
        self._threads[0].join(engine.GRACE_S)
        if self._threads[0].is_alive():
            with suppress(Py4JError, OSError):  # raised if Java is gone
                self._context.cancelJobGroup(self._group)
        for thread in self._threads:
            thread.join(_END_S)

    def _run(self, work: partial[None]) -> None:
        try:
            self._context.setJobGroup(self._group, "Dask workers")
            numbers = self._context.parallelize(range(self._n_workers), self._n_workers)
            numbers.foreach(work)
            error: Exception = RuntimeError("its tasks ended before the run")
        except Exception as raised:  # noqa: BLE001 - the main thread raises it
            error = raised
        if not self._over.is_set():
            self._failure = self._failure or error
            self._fail_tasks()

    def _fail_tasks(self) -> None:
        """Let Dask's tasks fail, which would wait for workers indefinitely."""
        logging.getLogger("distributed.scheduler").setLevel(logging.CRITICAL)  # one line per task
        self._dask.loop.add_callback(setattr, self._dask.scheduler, "no_workers_timeout", _POLL_S)

    def _watch(self) -> None:
        words, counted, before, most = Words(self._why_none), 0, 0, 1
        while self._threads[0].is_alive() and not self._over.wait(_POLL_S):
            if self._dask.scheduler.workers:
                words = Words(self._why_none)
                continue
            with suppress(Py4JError, OSError):  # raised if Java is gone
                words()
                if (stage := self._stage()) is None:
                    continue
                failed, most = stage.numFailedTasks, max(most, stage.numActiveTasks)
                if self._arrivals.count != counted:
                    counted, before = self._arrivals.count, failed
                if failed - before >= engine.TASK_ATTEMPTS * most:
                    self._failure = RuntimeError(self._last_error(stage))
                    self._context.cancelJobGroup(self._group)
                    return

    def _stage(self) -> SparkStageInfo | None:
        tracker = self._context.statusTracker()
        for number in tracker.getJobIdsForGroup(self._group):
            job = tracker.getJobInfo(number)
            for stage in job.stageIds if job else ():
                return tracker.getStageInfo(stage)
        return None

    def _last_error(self, stage: SparkStageInfo) -> str:
        """Return the message of a task that failed: only Spark's own pages have it."""
        with suppress(Py4JError):
            v1 = self._context._jvm.org.apache.spark.status.api.v1  # noqa: SLF001 - no public way
            failed = self._context._jvm.java.util.ArrayList()  # noqa: SLF001
            failed.add(v1.TaskStatus.FAILED)
            which = stage.stageId, stage.currentAttemptId, 0, 1, v1.TaskSorting.DECREASING_RUNTIME
            store = self._context._jsc.sc().statusStore()  # noqa: SLF001
            return str(store.taskList(*which, failed).apply(0).errorMessage().get())
        return "all its tasks fail, see the pages of Spark"

    def _why_none(self) -> str:
        """Return why there is no worker."""
        if engine.is_local(self._context.master):
            return ""
        if text := waiting.without_executors(self._context):
            return text
        where = self._dask.scheduler_address
        return f"Spark runs, but no Dask worker has reached the scheduler at {where} yet"
