"""Failures of Spark are one line: what a task raised, or the reason among the pages of Java."""

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyspark.errors import PythonException

from hepflow.engines.java_errors import LONGEST, shortened
from hepflow.engines.spark_jobs import interruptible
from hepflow.errors import DataError, HepflowError, NoCredentials

pytestmark = [pytest.mark.spark, pytest.mark.slow]


def task(kind: str) -> None:
    """Fail in some way; pickled by name, so tasks raise the errors that they import."""
    from hepflow import errors  # noqa: PLC0415

    if kind == "die":
        os._exit(9)
    if kind == "disk":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/a/file")
    if kind == "bug":
        raise KeyError(kind)
    raise getattr(errors, kind)("x.root: no ticket: at all. Run kinit.")


def fail(spark: Any, kind: str) -> Callable[[], object]:
    context = spark.sparkContext
    return lambda: interruptible(context, context.parallelize([kind], 1).map(task).collect)


@pytest.mark.parametrize("kind", [DataError, NoCredentials])
def test_an_error_of_a_user_in_a_task_is_raised_as_itself(
    spark: Any, kind: type[HepflowError]
) -> None:
    with pytest.raises(kind) as caught:
        fail(spark, kind.__name__)()
    assert str(caught.value) == "x.root: no ticket: at all. Run kinit."


def test_an_error_of_a_disk_in_a_task_keeps_its_number(spark: Any) -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        fail(spark, "disk")()
    assert caught.value.errno == errno.ENOSPC


def test_a_bug_keeps_its_traceback(spark: Any) -> None:
    with pytest.raises(PythonException, match="KeyError: 'bug'"):
        fail(spark, "bug")()


def test_the_end_of_all_attempts_is_one_line_that_names_a_file_with_the_rest(spark: Any) -> None:
    with pytest.raises(HepflowError, match="a Spark job failed: Python worker exited") as caught:
        fail(spark, "die")()
    assert len(str(caught.value)) < 2 * LONGEST
    log = Path(re.search(r"all of it: (\S+)\)", str(caught.value))[1])
    assert "stack" in log.read_text().lower()
    assert log.stat().st_mode & 0o077 == 0
    log.unlink()


def test_of_a_package_that_does_not_resolve_only_the_end_is_shown() -> None:
    report = "\n".join(f"\t==== repository {number}: tried\n" for number in range(400))
    found = 'Exception in thread "main" java.lang.RuntimeException: [unresolved dependency: a#b;1]'
    stack = "\n\tat org.apache.spark.deploy.SparkSubmit.main(SparkSubmit.scala)"
    said = shortened(report + found + stack)
    assert said.startswith("[unresolved dependency: a#b;1] (all of it: ")
    Path(said.rpartition(" ")[2].rstrip(")")).unlink()


def test_a_lost_executor_is_named_before_what_its_loss_led_to() -> None:
    lost = "ExecutorLostFailure (executor 3 exited) Reason: Container killed for its memory."
    text = f": org.apache.spark.SparkException: Job aborted due to stage failure: Task 0: {lost}"
    assert shortened(text) == lost.rstrip(".")
