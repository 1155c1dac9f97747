"""The Java that pyspark starts and talks to, in a thread: Python imports meanwhile."""

import os
import shlex
import subprocess
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pyspark import SparkConf, SparkContext
from pyspark.find_spark_home import _find_spark_home
from pyspark.java_gateway import launch_gateway

from hepflow.engines.class_archive import ClassArchive
from hepflow.engines.java import JavaOutput
from hepflow.system.secret import is_secret

JAVA_OPTIONS = "spark.driver.extraJavaOptions"
_OF_A_STREAM = ("-XX:TieredStopAtLevel=1",)
"""The second compiler takes 5 of 12 CPU seconds of the start. After three minutes at 200 events/s
Java still took 0.16 cores with it, and 0.09 without."""


class Gateway:
    """A Java that starts with the properties of a session, on the Java at JAVA_HOME.

    That of a ``stream``, which runs for long, can write a `ClassArchive`.
    """

    def __init__(self, properties: Mapping[str, str], *, stream: bool = False) -> None:
        self.archive = ClassArchive(
            Path(os.environ["JAVA_HOME"]), Path(_find_spark_home()) / "jars"
        )
        own = [*self.archive.options(lists=stream), *(_OF_A_STREAM if stream else ())]
        given = {**properties, JAVA_OPTIONS: f"{shlex.join(own)} {properties[JAVA_OPTIONS]}"}
        # These are on Java's command line; the session is given the others.
        self._public = [(name, text) for name, text in given.items() if not is_secret(name)]
        self.output = JavaOutput()
        pool = ThreadPoolExecutor(1, "hepflow-java")
        self._started: Future[Any] = pool.submit(self._launch)
        pool.shutdown(wait=False)

    def connect(self) -> None:
        """Wait for Java, and let pyspark use it."""
        SparkContext._ensure_initialized(gateway=self._started.result())  # noqa: SLF001

    def archive_classes(self) -> None:
        """Let another Java write the archive, if this one started without."""
        if (java := process()) is not None:
            self.archive.write(java.pid)

    def _launch(self) -> Any:
        conf = SparkConf(loadDefaults=False).setAll(self._public)
        with self.output.captured() as stderr:
            return launch_gateway(conf, {"stderr": stderr})


def is_connected() -> bool:
    """Return whether pyspark uses a Java, as after an earlier session."""
    return SparkContext._gateway is not None  # noqa: SLF001


def process() -> "subprocess.Popen[bytes] | None":
    """Return the Java process that pyspark started; None if spark-submit started both."""
    return getattr(SparkContext._gateway, "proc", None)  # noqa: SLF001 - there is no public way
