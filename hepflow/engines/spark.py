"""The only place that creates a SparkSession, and stops it."""

import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TypeVar

from hepflow.config.engines import SparkConfig
from hepflow.engines.java import JavaOutput, java_home
from hepflow.engines.words import Words
from hepflow.errors import ConfigError, HepflowError, MissingDependency
from hepflow.system.store_options import of_this_run

try:
    from py4j.protocol import Py4JError
    from pyspark import SparkConf, SparkContext
    from pyspark.java_gateway import launch_gateway
    from pyspark.sql import SparkSession

    from hepflow.engines import waiting
except ImportError as error:
    raise MissingDependency("Spark is not installed. Run: pip install 'hepflow[ingest]'") from error

T = TypeVar("T")

log = logging.getLogger(__name__)
logging.getLogger("py4j").setLevel(logging.CRITICAL)  # it logs an interrupt with a traceback

POLL_S, GRACE_S = 0.2, 2.0
TASK_ATTEMPTS = 4
"""Maximum attempts per task, also on local masters, where Spark's own default is one."""

_KEEP_MEMORY = dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), str(256 << 20))
"""Keeps glibc from returning the workers' arrays to the kernel and requesting them again at every
step: a tenth of the time of ingest."""

NO_WORDS = Words(str)
_LOG4J = Path(__file__).with_name("log4j2.properties")


@contextmanager
def spark_session(config: SparkConfig, name: str) -> Iterator[SparkSession]:
    """Yield the process's Spark session; one that is created here is stopped at the end.

    A Spark that does not start, or whose Java dies, gives a HepflowError in one line.
    """
    if SparkContext._active_spark_context is not None:  # noqa: SLF001 - "active" is per thread
        yield SparkSession.active()
        return
    spark = _start(config, name)
    try:
        yield spark
    except Exception as error:
        java = _java() if isinstance(error, (Py4JError, OSError)) else None
        with suppress(subprocess.TimeoutExpired):
            if java is not None and java.wait(GRACE_S) is not None:
                what = "Spark's Java process died (out of memory?). Run the same command again."
                raise HepflowError(what) from error
        with suppress(Py4JError, OSError):
            # Only Java's stop takes a status, without which YARN reports a success.
            spark.sparkContext._jsc.sc().stop(1)  # noqa: SLF001
        raise
    finally:
        with suppress(Py4JError, OSError):  # raised if Java is gone
            _in_thread(spark.stop, _end_java)


def interruptible(
    context: SparkContext, job: Callable[[], T], meanwhile: Callable[[], object] = lambda: None
) -> T:
    """Run a job, and ``meanwhile`` repeatedly, and return its result; an interrupt cancels it."""
    words = NO_WORDS if is_local(context.master) else waiting.for_executors(context)

    def every_time() -> None:
        words()
        meanwhile()

    return _in_thread(job, lambda _: context.cancelAllJobs(), every_time)


def _in_thread(
    job: Callable[[], T],
    cancel: Callable[[Future[T]], object],
    meanwhile: Callable[[], object] = lambda: None,
) -> T:
    """Run a job in a thread: py4j responds to Ctrl-C with tracebacks while it waits for Java."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(job)
        try:
            while not running.done():
                time.sleep(POLL_S)
                meanwhile()
        except BaseException:
            cancel(running)
            raise
        return running.result()


def _end_java(waiting: Future[T]) -> None:
    """End the Java process that a thread waits for, which may not have started yet."""
    while not waiting.done():
        if (java := _java()) is not None:
            java.terminate()
        time.sleep(POLL_S)


def _java() -> "subprocess.Popen[bytes] | None":
    """Return the Java process that pyspark started; None if spark-submit started both."""
    return getattr(SparkContext._gateway, "proc", None)  # noqa: SLF001 - there is no public way


def nothing_to_do(config: SparkConfig, name: str) -> None:
    """In cluster mode, start and stop Spark: YARN counts a driver that never did so as failed."""
    if in_cluster_mode():
        with spark_session(config, name):
            pass


def started_by_submit() -> bool:
    """Return whether spark-submit started this process: its JVM runs, and its master counts."""
    return "PYSPARK_GATEWAY_PORT" in os.environ


def in_cluster_mode() -> bool:
    """Return whether spark-submit runs this driver in a container of the cluster."""
    if not started_by_submit():
        return False
    SparkContext._ensure_initialized()  # noqa: SLF001 - connects to the JVM, for its properties
    return SparkConf().get("spark.submit.deployMode") == "cluster"


def check_paths(paths: Mapping[str, Path | str]) -> None:
    """Refuse paths (by option) relative to the driver's container: other nodes cannot see it."""
    local = [(option, path) for option, path in paths.items() if "://" not in str(path)]
    relative = ", ".join(f"--{name} {path}" for name, path in local if not Path(path).is_absolute())
    if relative and in_cluster_mode():
        where = "must be absolute, and on a file system that all nodes share"
        raise ConfigError(f"{relative}: in cluster mode paths {where}.")


def is_local(master: str) -> bool:
    """Return whether driver and executors are this one process."""
    return master.split("[", maxsplit=1)[0] == "local"


def _start(config: SparkConfig, name: str) -> SparkSession:
    submitted = started_by_submit()
    has_hadoop = {"HADOOP_CONF_DIR", "YARN_CONF_DIR"} & {*os.environ}
    if config.master == "yarn" and not submitted and not has_hadoop:
        advice = "Set it to the folder with the cluster's core-site.xml and yarn-site.xml."
        raise HepflowError(f"spark.master yarn: HADOOP_CONF_DIR is not set. {advice}")
    keytab = config.conf.get("spark.kerberos.keytab") or ""
    if keytab and ":" not in keytab and not Path(keytab).is_file():
        advice = "Ask your site for a keytab, or leave it out and run kinit."
        raise HepflowError(f"spark.kerberos.keytab: no file {keytab}. {advice}")
    if not submitted:
        os.environ["JAVA_HOME"] = str(java_home())
        if is_local(config.master):
            os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"  # address of the UI
    python = os.environ.get("PYSPARK_PYTHON", sys.executable)
    os.environ["PYSPARK_PYTHON"] = config.conf.get("spark.pyspark.python") or python
    os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    conf = SparkConf().setAppName(name).setAll(list(properties(config, submitted).items()))
    output = JavaOutput()
    on_yarn = config.master == "yarn" and not submitted
    try:
        with waiting.for_yarn(conf) if on_yarn else nullcontext(NO_WORDS) as words:
            spark = _in_thread(lambda: _create(conf, output), _end_java, words)
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        # Python's own line, the first one, is about the call; Java's lines give the reason.
        of_java = [line for line in lines if line.startswith(": ") or "Exception: " in line]
        reason = (of_java or lines)[0].strip(": ")
        if "JAVA_GATEWAY_EXITED" in reason:
            reason = output.last()
        elif "stopped SparkContext" in reason:  # Spark's message about an unreachable master
            reason = "no master responds there"
        what = f"Spark does not start on {config.master}: {reason.rstrip('.')}"
        advice = "Check spark.master and spark.conf, or try spark.master=local[*]."
        raise HepflowError(f"{what}. {advice}") from error
    context = spark.sparkContext
    context._accumulatorServer.handle_error = lambda *_: None  # noqa: SLF001 - it ends with Java
    log.info("Spark %s on %s, UI at %s", spark.version, context.master, context.uiWebUrl)
    return spark


def _create(conf: SparkConf, output: JavaOutput) -> SparkSession:
    if not started_by_submit():
        with output.captured() as stderr:
            gateway = launch_gateway(conf, {"stderr": stderr})  # the builder takes no gateway
            SparkContext._ensure_initialized(gateway=gateway)  # noqa: SLF001
    builder = SparkSession.builder.config(conf=conf)
    try:
        return builder.getOrCreate()
    except Exception as error:
        # Spark 4.3 on YARN may be creating its web page while the cluster's filter for it arrives.
        if "ConcurrentModificationException" not in str(error):
            raise
        return builder.getOrCreate()


def properties(config: SparkConfig, submitted: bool = False) -> dict[str, str]:
    """Return the Spark properties of a session; those in ``config.conf`` take precedence.

    One that is null there is not set at all.
    If spark-submit started the process, its master, deploy mode, memory and Java options count.
    """
    variables = _KEEP_MEMORY | of_this_run()
    found: dict[str, str | None] = {
        "spark.task.maxFailures": str(TASK_ATTEMPTS),
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        **{f"spark.executorEnv.{name}": value for name, value in variables.items()},
    }
    if not submitted:
        # Spark ignores spark.task.maxFailures on local masters, which take it as local[N,attempts].
        local = re.fullmatch(r"local(?:\[([^,\]]+)\])?", config.master)
        master = f"local[{local[1] or 1},{TASK_ATTEMPTS}]" if local else config.master
        options = f"-Dlog4j2.configurationFile={_LOG4J.as_uri()}"
        found |= {"spark.master": master, "spark.driver.memory": config.driver_memory}
        found |= {"spark.driver.extraJavaOptions": options}
        if is_local(config.master):
            found |= {"spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1"}
        if config.master == "yarn":
            found["spark.submit.deployMode"] = "client"
    found |= config.conf
    return {name: value for name, value in found.items() if value is not None}
