"""A Dask cluster whose workers are the tasks of one Spark job, for sites that have only Spark.

    driver                               executors
    client -> Dask scheduler <--- tcp -- Dask worker, in the Python process of a Spark task
    Spark job, a task per worker ------> Spark starts a task that failed again

The job lasts as long as the scheduler. If it fails, the tasks of Dask fail for lack of workers, and
the run ends with Spark's reason.
"""

import logging
import re
import socket
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from dask.utils import parse_bytes
from distributed import LocalCluster, SchedulerPlugin
from distributed.system import MEMORY_LIMIT
from py4j.protocol import Py4JError, Py4JJavaError
from pyspark import SparkConf, SparkContext
from pyspark.core.status import SparkStageInfo

from hepflow.config.engines import ClusterConfig, SparkConfig
from hepflow.engines import java_errors, waiting
from hepflow.engines import spark as engine
from hepflow.engines.dask_worker import serve
from hepflow.errors import ConfigError, HepflowError
from hepflow.system.processes import cores
from hepflow.system.terminal import TO_PASTE

log = logging.getLogger(__name__)

NAME = "hepflow Dask workers"  # name of the Spark application
MOST = 10_000  # workers; more tasks would only wait
EVER_AGAIN = 100_000  # attempts per Spark task: Dask itself counts how often a task kills workers
MEMORY = "4GiB"
_JAVA_MIB = 384  # an executor's memory outside its heap, as Spark estimates it
_MIB = 2**20
_POLL_S, _END_S = 0.5, 10.0
_UNITS = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def auto_memory(config: ClusterConfig, n_tasks: int) -> int:
    """Return the bytes per worker that follow from Spark's properties."""
    given = engine.given(config.spark)
    if engine.is_local(given["spark.master"]):
        return MEMORY_LIMIT // _n_local(config, given["spark.master"], n_tasks)
    if overhead := given.get("spark.executor.memoryOverhead"):
        return max(1, (_bytes(overhead) - _JAVA_MIB * _MIB) // _per_executor(given))
    return int(parse_bytes(MEMORY))


@contextmanager
def cluster(
    config: ClusterConfig,
    n_tasks: int,
    memory: int,
    settings: Mapping[str, Any],
    variables: Mapping[str, object],
) -> Iterator[LocalCluster]:
    """Yield a cluster whose workers are in Spark; both end with the context.

    Parameters
    ----------
    n_tasks : int
        Tasks of Dask, and the largest useful number of workers.
    memory : int
        Bytes per worker.
    settings, variables : Mapping
        Settings of Dask, and variables of the environment, of the workers.
    """
    n_workers = min(config.workers or MOST, n_tasks)
    with engine.spark_session(_session(config, n_tasks, memory, variables), NAME) as spark:
        context = spark.sparkContext
        conf = context.getConf()
        with _scheduler(config, conf) as dask:
            address = f"tcp://{conf.get('spark.driver.host')}:{dask.scheduler.port}"
            work = partial(serve, scheduler=address, memory=memory, settings=dict(settings))
            _show_tunnel(dask, context)
            job = _Job(context, dask, work, n_workers)
            try:
                yield dask
            except Exception as error:
                if (failure := job.failure()) is None:
                    raise
                raise failure from error
            finally:
                dask.close()  # with it, the workers end
                job.end()


def _n_local(config: ClusterConfig, master: str, n_tasks: int) -> int:
    """Return the number of workers on a local master."""
    found = re.search(r"\[(\d+)", master)
    slots = int(found[1]) if found else cores() if "*" in master else 1
    return max(1, min(config.workers or slots, n_tasks))


def _per_executor(given: Mapping[str, str]) -> int:
    """Return the number of workers of an executor."""
    return max(1, _number(given, "spark.executor.cores") // _number(given, "spark.task.cpus"))


def _number(given: Mapping[str, str], name: str) -> int:
    text = given.get(name, "1")
    if not text.isdecimal() or int(text) == 0:
        raise ConfigError(f"{name} must be a whole number, at least 1; got {text!r}")
    return int(text)


def _bytes(size: str) -> int:
    """Return the bytes in a size of Spark's, whose default unit is MiB."""
    if not (found := re.fullmatch(r"(\d+)([kmgt]?)b?", size.strip().lower())):
        raise ConfigError(f"spark.executor.memoryOverhead must be a size such as 4g; got {size!r}")
    return int(found[1]) * _UNITS[found[2] or "m"]


def _session(
    config: ClusterConfig, n_tasks: int, memory: int, variables: Mapping[str, object]
) -> SparkConfig:
    """Return the session of the workers' job; the user's properties win over those of here."""
    given = engine.given(config.spark)
    master, per_executor = given["spark.master"], _per_executor(given)
    chosen = {f"spark.executorEnv.{name}": str(value) for name, value in variables.items()}
    if engine.is_local(master):
        master = f"local[{_n_local(config, master, n_tasks)},{EVER_AGAIN}]"
    else:
        overhead = given.get("spark.executor.memoryOverhead", "")
        if overhead and _bytes(overhead) < per_executor * memory:
            what = f"an executor has {per_executor} workers of {memory // _MIB:,} MiB"
            advice = "Raise it, leave it out, or lower cluster.memory."
            raise ConfigError(f"spark.executor.memoryOverhead {overhead}: {what}. {advice}")
        needed = _JAVA_MIB + -(-per_executor * memory // _MIB)
        chosen |= {"spark.executor.memory": "512m", "spark.executor.memoryOverhead": f"{needed}m"}
        if not master.startswith(("spark://", "local-cluster")):  # one executor per node there
            chosen |= {"spark.executor.cores": "1"}
        if config.workers:
            n_workers = min(config.workers, n_tasks)
            n_executors = str(-(-n_workers // per_executor))
            chosen |= {"spark.cores.max": str(n_workers * _number(given, "spark.task.cpus"))}
            chosen |= {"spark.executor.instances": n_executors}
            chosen |= {"spark.dynamicAllocation.maxExecutors": n_executors}
    conf = {name: value for name, value in chosen.items() if name not in given}
    # A second copy of a worker would take a core from no task that is slow.
    fixed = {"spark.task.maxFailures": str(EVER_AGAIN), "spark.speculation": "false"}
    return replace(config.spark, master=master, conf={**conf, **config.spark.conf, **fixed})


def _scheduler(config: ClusterConfig, conf: SparkConf) -> LocalCluster:
    host = conf.get("spark.driver.bindAddress") or conf.get("spark.driver.host") or ""
    port, dashboard = config.spark.port, config.dashboard_address
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        what = f"the Dask scheduler cannot listen on {host} ({error.strerror})"
        raise ConfigError(f"cluster.spark.port {port}: {what}. Choose another port.") from error
    options = {"host": host, "scheduler_port": port, "dashboard_address": dashboard}
    return LocalCluster(n_workers=0, threads_per_worker=1, protocol="tcp://", **options)


def _show_tunnel(dask: LocalCluster, context: SparkContext) -> None:
    if dask.dashboard_link and not engine.is_local(context.master):
        link = urlsplit(dask.dashboard_link)
        tunnel = f"ssh -N -L {link.port}:{link.hostname}:{link.port} {context.sparkUser()}"
        text = "to open the Dask dashboard from outside: %s@LOGIN_NODE, then http://localhost:%s"
        log.info(text, tunnel, link.port, extra=TO_PASTE)


class _Arrivals(SchedulerPlugin):
    """Counts the workers that have come."""

    name = "hepflow-arrivals"

    def __init__(self) -> None:
        self.count = 0

    def add_worker(self, scheduler: Any, worker: str) -> None:  # noqa: ARG002 - distributed's
        """Count one."""
        self.count += 1


class _Job:
    """The Spark job: one thread waits for it, another one for its workers."""

    def __init__(
        self, context: SparkContext, dask: LocalCluster, work: "partial[None]", n_workers: int
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

    def _run(self, work: "partial[None]") -> None:
        try:
            self._context.setJobGroup(self._group, NAME)
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
        words, counted, before, most = waiting.Words(self._why_none), 0, 0, 1
        while self._threads[0].is_alive() and not self._over.wait(_POLL_S):
            if self._dask.scheduler.workers:
                words = waiting.Words(self._why_none)
                continue
            words()
            with suppress(Py4JError, OSError):  # raised if Java is gone
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
        with suppress(Py4JError, OSError):
            if (stage := self._stage()) is not None and stage.numActiveTasks:
                what = f"Spark runs {stage.numActiveTasks} of {stage.numTasks} tasks"
                where = self._dask.scheduler_address
                return f"{what}, but no Dask worker has reached the scheduler at {where} yet"
        return ""
