"""Jobs of a Spark session: they end at an interrupt and in one line, and hold few tasks at once."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import TypeVar

from py4j.protocol import Py4JError, Py4JJavaError
from pyspark import SparkContext
from pyspark.errors import PySparkException, PythonException

from hepflow.engines import java_errors, waiting
from hepflow.engines.spark import NO_WORDS, POLL_S, in_thread, is_local

Item = TypeVar("Item")
T = TypeVar("T")

TASKS_PER_JOB = 4_000
"""Tasks of a job of Spark, which holds each of them until the job ends, and its result."""


def interruptible(
    context: SparkContext, job: Callable[[], T], meanwhile: Callable[[], object] = lambda: None
) -> T:
    """Run a job, and ``meanwhile`` repeatedly, and return its result; an interrupt cancels it.

    An error of a user or of a disk in a task is raised as itself, and the end of all attempts of a
    task, such as by a lack of memory, as a HepflowError of one line.
    """
    words = NO_WORDS if is_local(context.master) else waiting.for_executors(context)

    def every_time() -> None:
        words()
        meanwhile()

    try:
        return in_thread(job, lambda _: context.cancelAllJobs(), every_time)
    except (PySparkException, Py4JJavaError) as error:
        if own := java_errors.of_a_task(error):
            raise own from error
        if isinstance(error, PythonException):
            raise
        advice = "Run the same command again; it resumes."
        raise java_errors.failed(error, "a Spark job failed", advice) from error


def collected(context: SparkContext, work: Callable[[Item], T], items: Sequence[Item]) -> list[T]:
    """Run a task per item, in jobs of `TASKS_PER_JOB`, and return the results in order.

    Two jobs run at a time: the second one gets the cores for which the first has no task left.
    """
    starts = range(0, len(items), TASKS_PER_JOB)

    def job(start: int) -> list[T]:
        own = items[start : start + TASKS_PER_JOB]
        return context.parallelize(own, len(own)).map(work).collect()

    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(job, start) for start in starts]
        try:
            for each in wait(jobs, return_when=FIRST_EXCEPTION).done:
                each.result()  # raises the error
        finally:
            for each in jobs:
                each.cancel()
            while not all(each.done() for each in jobs):
                with suppress(Py4JError, OSError):  # raised if Java is gone
                    context.cancelAllJobs()  # again, as one may not have reached Spark yet
                time.sleep(POLL_S)
    return [result for each in jobs for result in each.result()]
