"""The one place that makes a SparkSession: ties the workers to this Python, keeps the logs quiet, and ends what it started."""

import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from hepflow.config.engines import SparkConfig
from hepflow.engines.java import JavaWords, java_home
from hepflow.errors import ConfigError, HepflowError, MissingDependency

try:
    from py4j.protocol import Py4JError
    from pyspark import SparkConf, SparkContext
    from pyspark.java_gateway import launch_gateway
    from pyspark.sql import SparkSession
except ImportError as error:
    raise MissingDependency(
        "Spark is not installed. Get it with `pip install 'hepflow[ingest]'`."
    ) from error

T = TypeVar("T")

log = logging.getLogger(__name__)
logging.getLogger("py4j").setLevel(
    logging.CRITICAL
)  # it takes an interrupt for an error, with a traceback

POLL_S, GRACE_S = 0.2, 2.0
TASK_ATTEMPTS = 4
"""How often a task may start, also on local masters, where Spark's own default is once."""

_KEEP_MEMORY = dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), str(256 << 20))
"""Else glibc hands the workers' arrays back to the kernel and asks for them anew at every step: a tenth of ingest's time."""

_LOG4J = Path(__file__).with_name("log4j2.properties")


@contextmanager
def session(config: SparkConfig, name: str) -> Iterator[SparkSession]:
    """The process's Spark session; one that is made here is stopped at the end, and an error on the way fails the application.

    Parameters
    ----------
    config : SparkConfig
    name : str
        What the Spark UI and the cluster call the application.

    Raises
    ------
    MissingDependency
        No Java of version 17 or later.
    HepflowError
        Spark does not start, such as when no master answers, or its Java is gone before the work is done.
    """
    if SparkContext._active_spark_context is not None:  # noqa: SLF001 - what is active in one thread is not in another
        yield SparkSession.active()
        return
    spark = _start(config, name)
    try:
        yield spark
    except Exception as error:
        if isinstance(error, (Py4JError, OSError)) and _java_has_ended():
            raise HepflowError(
                "Spark's Java was killed or ended by itself (is memory short?). Run the same command again."
            ) from error
        with suppress(Py4JError, OSError):
            spark.sparkContext._jsc.sc().stop(1)  # noqa: SLF001 - only Java takes the status, without which YARN sees a success
        raise
    finally:
        with suppress(Py4JError, OSError):  # where Java is gone it has stopped
            _in_thread(spark.stop, _end_java)


def interruptible(
    context: SparkContext, job: Callable[[], T], meanwhile: Callable[[], object] = lambda: None
) -> T:
    """Run a job, and cancel it when this thread is interrupted.

    Parameters
    ----------
    context : SparkContext
    job : callable
        What to run; its result is returned.
    meanwhile : callable
        What to do again and again until then.
    """
    return _in_thread(job, lambda _: context.cancelAllJobs(), meanwhile)


def _in_thread(
    job: Callable[[], T],
    cancel: Callable[[Future[T]], object],
    meanwhile: Callable[[], object] = lambda: None,
) -> T:
    """Run a job in a thread of its own: py4j answers Ctrl-C while it waits for Java with tracebacks."""
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
    """End the Java that a thread waits for, as soon as it is known which one: one that is half started would stay for ever."""
    while not waiting.done():
        if (java := _java()) is not None:
            java.terminate()
        time.sleep(POLL_S)


def _java_has_ended() -> bool:
    java = _java()
    if java is not None:
        with suppress(subprocess.TimeoutExpired):
            java.wait(GRACE_S)
    return java is not None and java.returncode is not None


def _java() -> "subprocess.Popen[bytes] | None":
    """The Java process that pyspark has started; None where spark-submit has started both."""
    return getattr(SparkContext._gateway, "proc", None)  # noqa: SLF001 - nothing public tells it


def nothing_to_do(config: SparkConfig, name: str) -> None:
    """Start Spark and stop it where only that is success: YARN takes a driver that ends without having done so for one that failed."""
    if in_cluster_mode():
        with session(config, name):
            pass


def started_by_submit() -> bool:
    """Whether spark-submit started this process, so that its JVM runs already, and spark-submit's word on the master holds."""
    return "PYSPARK_GATEWAY_PORT" in os.environ


def in_cluster_mode() -> bool:
    """Whether this process is a driver that spark-submit has put into a container of the cluster."""
    if not started_by_submit():
        return False
    SparkContext._ensure_initialized()  # noqa: SLF001 - connects to the JVM, whose properties spark-submit has set
    return SparkConf().get("spark.submit.deployMode") == "cluster"


def check_paths(paths: Mapping[str, Path | str]) -> None:
    """In cluster mode a relative path starts in the driver's container, which no other node sees and which goes with the driver.

    Parameters
    ----------
    paths : mapping
        Option -> its value.

    Raises
    ------
    ConfigError
        A path is relative, in cluster mode.
    """
    relative = [
        f"--{option} {path}"
        for option, path in paths.items()
        if "://" not in str(path) and not Path(path).is_absolute()
    ]
    if relative and in_cluster_mode():
        raise ConfigError(
            f"{', '.join(relative)}: in cluster mode paths must be absolute, and on a file system that all nodes see."
        )


def is_local(master: str) -> bool:
    """Whether driver and executors are this one process."""
    return master.split("[", maxsplit=1)[0] == "local"


def _start(config: SparkConfig, name: str) -> SparkSession:
    submitted = started_by_submit()
    if (
        config.master == "yarn"
        and not submitted
        and not {"HADOOP_CONF_DIR", "YARN_CONF_DIR"} & set(os.environ)
    ):
        raise HepflowError(
            "spark.master yarn: HADOOP_CONF_DIR is not set. Point it to the folder with the cluster's core-site.xml and yarn-site.xml."
        )
    keytab = config.conf.get("spark.kerberos.keytab", "")
    if keytab and ":" not in keytab and not Path(keytab).is_file():
        raise HepflowError(
            f"spark.kerberos.keytab: there is no file {keytab}. Ask your site for a keytab, or leave it out and run kinit."
        )
    if not submitted:
        os.environ["JAVA_HOME"] = str(java_home())
    os.environ["PYSPARK_PYTHON"] = config.conf.get(
        "spark.pyspark.python", os.environ.get("PYSPARK_PYTHON", sys.executable)
    )
    os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    if is_local(config.master) and not submitted:
        os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"  # the UI listens where this says
    conf = SparkConf().setAppName(name).setAll(list(properties(config, submitted).items()))
    words = JavaWords()
    try:
        spark = _in_thread(lambda: _create(conf, words), _end_java)
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        java = (
            line.strip(": ") for line in lines if line.startswith(": ") or "Exception: " in line
        )
        reason = next(java, lines[0])  # Python's own line is about the call
        if "JAVA_GATEWAY_EXITED" in reason:
            reason = words.last()
        elif "stopped SparkContext" in reason:  # what Spark says of a master that it has given up
            reason = "no master answers there"
        advice = "Check spark.master and spark.conf, or try spark.master=local[*]."
        raise HepflowError(
            f"Spark does not start on {config.master}: {reason.rstrip('.')}. {advice}"
        ) from error
    spark.sparkContext._accumulatorServer.handle_error = lambda *_: None  # noqa: SLF001 - it ends with Java
    log.info(
        "Spark %s on %s, UI at %s",
        spark.version,
        spark.sparkContext.master,
        spark.sparkContext.uiWebUrl,
    )
    return spark


def _create(conf: SparkConf, words: JavaWords) -> SparkSession:
    """A session; on YARN at a second try where Spark 4.3 was putting up its web page just as the cluster's filter for it arrived."""
    if not started_by_submit():
        with words.heard() as stderr:
            SparkContext._ensure_initialized(gateway=launch_gateway(conf, {"stderr": stderr}))  # noqa: SLF001 - the builder takes no gateway
    builder = SparkSession.builder.config(conf=conf)
    try:
        return builder.getOrCreate()
    except Exception as error:
        if "ConcurrentModificationException" not in str(error):
            raise
        return builder.getOrCreate()


def properties(config: SparkConfig, submitted: bool = False) -> dict[str, str]:
    """Spark properties of a session; those in ``config.conf`` win.

    Parameters
    ----------
    config : SparkConfig
    submitted : bool
        The process was started by spark-submit, whose word on master, deploy mode, memory and Java options holds.
    """
    common = {
        "spark.task.maxFailures": str(TASK_ATTEMPTS),
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        **{f"spark.executorEnv.{name}": value for name, value in _KEEP_MEMORY.items()},
    }
    if submitted:
        return common | dict(config.conf)
    properties = common | {
        "spark.master": _with_retries(config.master),
        "spark.driver.memory": config.driver_memory,
        "spark.driver.extraJavaOptions": f"-Dlog4j2.configurationFile={_LOG4J.as_uri()}",
    }
    if is_local(config.master):
        properties |= {"spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1"}
    if config.master == "yarn":
        properties["spark.submit.deployMode"] = "client"
    return properties | dict(config.conf)


def _with_retries(master: str) -> str:
    """``local[N]`` as ``local[N, attempts]``: Spark ignores spark.task.maxFailures on local masters."""
    match = re.fullmatch(r"local(?:\[([^,\]]+)\])?", master)
    return f"local[{match.group(1) or 1},{TASK_ATTEMPTS}]" if match else master
