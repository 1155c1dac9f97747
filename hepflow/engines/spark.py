"""The only place that creates a SparkSession, and stops it."""

import logging
import os
import re
import shlex
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TypeVar

from hepflow.config.engines import SparkConfig
from hepflow.engines import java_errors
from hepflow.engines.java import java_home
from hepflow.engines.words import Words
from hepflow.errors import ConfigError, HepflowError, MissingDependency
from hepflow.system.publishing import scratch
from hepflow.system.secret import NAMES, resolved
from hepflow.system.store_options import of_this_run

try:
    from py4j.protocol import Py4JError
    from pyspark import SparkConf, SparkContext
    from pyspark.sql import SparkSession

    from hepflow.engines import waiting
    from hepflow.engines.gateway import JAVA_OPTIONS, Gateway, is_connected, process
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

_TASKS_SHOWN = 400
"""Finished tasks that the pages of Spark show per stage: by default it keeps 100,000 in memory."""

_SOCKET = f".{uuid.uuid4()}.sock"  # as long as Spark's names
_LONGEST_SOCKET = 103
"""Bytes of the path of a Unix socket on macOS; Linux allows 107."""

NO_WORDS = Words(str)
_LOG4J = Path(__file__).with_name("log4j2.properties")

_EARLY: list[Gateway] = []  # that of `start_java`


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
        java = process() if isinstance(error, (Py4JError, OSError)) else None
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
            in_thread(spark.stop, _end_java)


def in_thread(
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
        if (java := process()) is not None:
            java.terminate()
        time.sleep(POLL_S)


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


def given(config: SparkConfig) -> dict[str, str]:
    """Return the properties that the user chose: spark-submit's, and those of the configuration."""
    found: dict[str, str | None] = {}
    if started_by_submit():
        SparkContext._ensure_initialized()  # noqa: SLF001 - connects to the JVM, for its properties
        found |= SparkConf().getAll()
    else:
        found["spark.master"] = config.master
    found |= config.conf
    return {name: value for name, value in found.items() if value is not None}


def prepare(config: SparkConfig, paths: Mapping[str, Path | str]) -> None:
    """Log in to Kerberos, and refuse paths (by option) that only the driver's container has."""
    log_in(config)
    local = [(option, path) for option, path in paths.items() if "://" not in str(path)]
    relative = ", ".join(f"--{name} {path}" for name, path in local if not Path(path).is_absolute())
    if relative and in_cluster_mode():
        where = "must be absolute, and on a file system that all nodes share"
        raise ConfigError(f"{relative}: in cluster mode paths {where}.")


def is_local(master: str) -> bool:
    """Return whether driver and executors are this one process."""
    return master.split("[", maxsplit=1)[0] == "local"


def log_in(config: SparkConfig) -> None:
    """Let HDFS's client in this process use the keytab of Spark's, if there is one.

    MIT Kerberos takes tickets from it, and new ones before they expire.
    """
    keytab = config.conf.get("spark.kerberos.keytab") or ""
    if not keytab or ":" in keytab:
        return
    if not Path(keytab).is_file():
        advice = "Ask your site for a keytab, or leave it out and run kinit."
        raise HepflowError(f"spark.kerberos.keytab: no file {keytab}. {advice}")
    os.environ.setdefault("KRB5_CLIENT_KTNAME", str(Path(keytab).absolute()))


def start_java(config: SparkConfig) -> None:
    """Start Java before the session of a stream, which lists classes for `archive_classes`."""
    _set_environment(config)
    if not started_by_submit():
        _EARLY.append(Gateway(properties(config), stream=True))


def archive_classes() -> None:
    """Let another Java archive the classes that this one has loaded, unless it used an archive."""
    for java in _EARLY:
        java.archive_classes()


def _set_environment(config: SparkConfig) -> None:
    submitted = started_by_submit()
    has_hadoop = {"HADOOP_CONF_DIR", "YARN_CONF_DIR"} & {*os.environ}
    if config.master == "yarn" and not submitted and not has_hadoop:
        advice = "Set it to the folder with the cluster's core-site.xml and yarn-site.xml."
        raise HepflowError(f"{config.within}master yarn: HADOOP_CONF_DIR is not set. {advice}")
    log_in(config)
    if not submitted:
        os.environ["JAVA_HOME"] = str(java_home())
        if is_local(config.master):
            os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"  # address of the UI
    python = os.environ.get("PYSPARK_PYTHON", sys.executable)
    os.environ["PYSPARK_PYTHON"] = config.conf.get("spark.pyspark.python") or python
    os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable


def _start(config: SparkConfig, name: str) -> SparkSession:
    _set_environment(config)
    submitted = started_by_submit()
    chosen = properties(config, submitted)
    conf = SparkConf().setAppName(name).setAll(list(chosen.items()))
    java: Gateway | None = None
    if not submitted and not is_connected():
        java = _EARLY[0] if _EARLY else Gateway(chosen)
    on_yarn = config.master == "yarn" and not submitted
    try:
        with waiting.for_yarn(conf) if on_yarn else nullcontext(NO_WORDS) as words:
            spark = in_thread(lambda: _create(conf, java), _end_java, words)
    except Exception as error:
        reason = java_errors.shortened(str(error) or type(error).__name__)
        if java is not None and "JAVA_GATEWAY_EXITED" in str(error):
            reason = java_errors.shortened(java.output.text())
        elif "stopped SparkContext" in reason:  # Spark's message about an unreachable master
            reason = "no master responds there"
        what = f"Spark does not start on {config.master}: {reason.rstrip('.')}"
        within = config.within
        advice = f"Check {within}master and {within}conf, or try {within}master=local[*]."
        raise HepflowError(f"{what}. {advice}") from error
    context = spark.sparkContext
    context._accumulatorServer.handle_error = lambda *_: None  # noqa: SLF001 - it ends with Java
    log.info("Spark %s on %s, UI at %s", spark.version, context.master, context.uiWebUrl)
    return spark


def _create(conf: SparkConf, java: Gateway | None) -> SparkSession:
    if java is not None:
        java.connect()
    builder = SparkSession.builder.config(conf=conf)
    try:
        return builder.getOrCreate()
    except Exception as error:
        # Spark 4.3 on YARN may be creating its web page while the cluster's filter for it arrives.
        if "ConcurrentModificationException" not in str(error):
            raise
        return builder.getOrCreate()


def worker_environment() -> dict[str, str]:
    """Return the variables that Python workers start with."""
    return _KEEP_MEMORY | of_this_run()


def properties(config: SparkConfig, submitted: bool = False) -> dict[str, str]:
    """Return the Spark properties of a session, with secrets; ``config.conf`` takes precedence.

    One that is null there is not set at all.
    If spark-submit started the process, its master, deploy mode, memory and Java options count.
    """
    found: dict[str, str | None] = {
        "spark.task.maxFailures": str(TASK_ATTEMPTS),
        "spark.redaction.regex": NAMES,  # of what Spark shows in its pages and event logs
        "spark.ui.showConsoleProgress": "false",
        "spark.ui.killEnabled": "false",  # by all who can open the page
        "spark.ui.retainedTasks": str(_TASKS_SHOWN),
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        **{f"spark.executorEnv.{name}": value for name, value in worker_environment().items()},
    }
    if not submitted:
        # Spark ignores spark.task.maxFailures on local masters, which take it as local[N,attempts].
        local = re.fullmatch(r"local(?:\[([^,\]]+)\])?", config.master)
        master = f"local[{local[1] or 1},{TASK_ATTEMPTS}]" if local else config.master
        found |= {"spark.master": master, "spark.driver.memory": config.driver_memory}
        found["spark.local.dir"] = str(scratch())
        if is_local(config.master):
            found |= {"spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1"}
            found |= dict.fromkeys(("spark.authenticate", "spark.network.crypto.enabled"), "true")
            # Java's two writes per task wait 40 ms for each other on TCP (Nagle, delayed ACK).
            fits = len(os.fsencode(scratch() / _SOCKET)) <= _LONGEST_SOCKET
            sockets = "spark.python.unix.domain.socket"
            found |= {f"{sockets}.enabled": str(fits).lower(), f"{sockets}.dir": str(scratch())}
        if config.master == "yarn":
            found |= {"spark.submit.deployMode": "client", "spark.acls.enable": "true"}
    found |= resolved(config.conf, f"{config.within}conf")
    if not submitted:
        of_user = found.get(JAVA_OPTIONS) or ""
        own = [shlex.quote(f"-Djava.io.tmpdir={scratch()}")]
        if "log4j" not in of_user:
            own.append(f"-Dlog4j2.configurationFile={_LOG4J.as_uri()}")
        found[JAVA_OPTIONS] = " ".join([*own, of_user]).strip()
    return {name: value for name, value in found.items() if value is not None}
