"""What Spark sends to the tasks of a training. Light to import: the Spark worker that only starts the process that trains does so too."""

from collections.abc import Callable
from importlib import import_module
from typing import Any


def train(args: list[str], folder: str | None) -> str | None:
    """One process of the job.

    Parameters
    ----------
    args : list of str
        What the driver was given.
    folder : str or None
        Where the driver runs: relative paths start there. None: stay in the container, beside the files that spark-submit sent along.

    Returns
    -------
    str or None
        A mistake of the user's.
    """
    mistake: str | None = import_module("hepflow.train.spark.process").process(args, folder)
    return mistake


def connected(run: Callable[..., Any], settings: dict[str, Any], *arguments: Any) -> Any:
    """Run PySpark's part of a process. Before the connection to the driver is open, on the driver's machine a line would be shown twice."""
    if connect := getattr(
        settings.get("log_streaming_client"), "_connect", None
    ):  # it would with the first line
        connect()
    return run(settings, *arguments)
