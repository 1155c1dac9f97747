"""Functions that Spark sends to the tasks of a training.

They are light to import: the Spark worker that only starts the training process imports them too.
"""

from collections.abc import Callable
from typing import Any

from hepflow.system.processes import imported


def train(args: list[str], folder: str | None) -> str | None:
    """Train as one process of the job; return a message about a mistake of the user.

    Relative paths start from the working folder of the driver. None: stay in the container, next to
    the files that spark-submit has sent.
    """
    mistake: str | None = imported("hepflow.train.spark.job").process(args, folder)
    return mistake


def connected(run: Callable[..., Any], settings: dict[str, Any], *arguments: Any) -> Any:
    """Run PySpark's part of a process, connected to the driver's terminal from the first line on.

    Before the connection is open, a line on the driver's machine would be shown twice.
    """
    if connect := getattr(settings.get("log_streaming_client"), "_connect", None):
        connect()
    return run(settings, *arguments)
