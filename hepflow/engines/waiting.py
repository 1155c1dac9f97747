"""What a cluster lets Spark wait for: Spark itself shows nothing then."""

import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

from py4j.protocol import Py4JError
from pyspark import SparkConf, SparkContext

from hepflow.engines.words import Words

_ASK_S = 3.0
_WAITING = {"NEW", "NEW_SAVING", "SUBMITTED", "ACCEPTED"}
_SILENT = "YARN's ResourceManager has not answered"


@contextmanager
def for_yarn(conf: SparkConf) -> Iterator[Words]:
    """Yield `Words` on why YARN has not started the application with these properties yet.

    A thread asks, since Hadoop's client does not return while a ResourceManager does not answer.
    """
    tag, tags = f"hepflow-{uuid.uuid4().hex}", conf.get("spark.yarn.tags", "")
    conf.set("spark.yarn.tags", f"{tags},{tag}".strip(","))
    answers, end = [_SILENT], threading.Event()

    def ask() -> None:
        while answers[-1] and not end.wait(_ASK_S):
            with suppress(Py4JError, OSError, AttributeError):  # Java has not started, or has ended
                answers.append(_waits_for(tag))

    threading.Thread(target=ask, name="hepflow-yarn", daemon=True).start()
    try:
        yield Words(lambda: answers[-1])
    finally:
        end.set()


def _waits_for(tag: str) -> str:
    """Return why YARN has not started an application, or nothing if it has."""
    jvm = SparkContext._jvm  # noqa: SLF001 - there is no public way
    yarn = jvm.org.apache.hadoop.yarn
    client = yarn.client.api.YarnClient.createYarnClient()
    client.init(yarn.conf.YarnConfiguration())
    client.start()
    try:
        request = yarn.api.protocolrecords.GetApplicationsRequest.newInstance()
        tags = jvm.java.util.HashSet()
        tags.add(tag)
        request.setApplicationTags(tags)
        reports = list(client.getApplications(request))
    finally:
        client.stop()
    if not reports:
        return "YARN does not have the application yet"
    report = reports[0]
    if str(report.getYarnApplicationState()) not in _WAITING:
        return ""
    why = re.sub(r"^\[[^]]*\]\s*", "", str(report.getDiagnostics())).partition(" Details :")[0]
    why = " ".join(why.split()).rstrip(".") or "no reason given"
    return f"{report.getApplicationId()} waits in queue {report.getQueue()}: {why}"


def for_executors(context: SparkContext) -> Words:
    """Return `Words` on a cluster that has started no executor yet, or has lost all of them."""
    return Words(partial(without_executors, context))


def without_executors(context: SparkContext) -> str:
    """Return that the cluster runs no executor, and of which size; nothing if it runs some."""
    with suppress(Py4JError):  # Java has ended
        tracker = context._jsc.sc().statusTracker()  # noqa: SLF001 - no public way
        if len(tracker.getExecutorInfos()) < 2:  # one is the driver
            conf = context.getConf()
            size = conf.get("spark.executor.memory", "1g")
            if cores := conf.get("spark.executor.cores"):
                size += f" and {cores} cores"
            what = f"{context.master} has started no executor of {size}"
            return f"{what}: it is full, or its nodes are too small"
    return ""
