"""Functions that Spark sends to the tasks of a training.

They are light to import: the Spark worker that only starts the training process imports them too.
"""

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyspark import BarrierTaskContext
from pyspark.ml.torch.distributor import TorchDistributor

from hepflow.system.processes import LAUNCHER, RANKS, RANKS_KEY, imported


def train(args: list[str], folder: str | None) -> str | None:
    """Train as one process of the job; return a message about a mistake of the user.

    Relative paths start from the working folder of the driver. None: stay in the container, next to
    the files that spark-submit has sent.
    """
    mistake: str | None = imported("hepflow.train.spark.job").process(args, folder)
    return mistake


def connected(
    run: Callable[..., Any], password: str, settings: dict[str, Any], *arguments: Any
) -> Any:
    """Run PySpark's part of a process, connected to the driver's terminal from the first line on.

    Before the connection is open, a line on the driver's machine would be shown twice. The first
    line is the password, which the terminal asks for.
    """
    client: Any = settings.get("log_streaming_client")
    if hasattr(client, "_connect"):
        client._connect()  # noqa: SLF001
        client.send(password)
    return run(settings, *arguments)


def met(run: Callable[..., Any], key: str, settings: dict[str, Any], *arguments: Any) -> Any:
    """Run PySpark's part of a process, after the tasks have agreed where their processes meet.

    Tasks on one machine make a private folder. On several machines the processes meet at a port of
    the first one, which PySpark has chosen, and prove to each other that they hold the key.
    """
    context: Any = BarrierTaskContext.get()
    os.environ[RANKS_KEY] = key
    os.environ.pop(RANKS, None)  # Python workers are used again
    name = f"hepflow-{os.getpid()}-{socket.gethostname()}-"  # if left, `scratch` removes it
    made = tempfile.mkdtemp(prefix=name) if context.partitionId() == 0 else ""
    try:
        folder = context.allGather(made)[0]
        hosts = {info.address.partition(":")[0] for info in context.getTaskInfos()}
        # Containers on one machine may have a /tmp each.
        if set(context.allGather(f"{Path(folder).is_dir()}")) == {"True"} and len(hosts) == 1:
            os.environ[RANKS] = folder
        return run(settings, *arguments)
    finally:
        if made:
            shutil.rmtree(made, ignore_errors=True)


def launch(settings: dict[str, Any], script: str) -> None:
    """Run PySpark's script as the only process of this task, in the environment of torchrun.

    torchrun itself would open a port to everybody, and import torch once more.
    """
    rank = os.environ["RANK"]
    os.environ |= {"TORCHELASTIC_RUN_ID": "hepflow", "LOCAL_RANK": "0", "GROUP_RANK": rank}
    os.environ[LAUNCHER] = str(os.getpid())
    client = settings.get("log_streaming_client")
    command = [sys.executable, "-u", script]
    TorchDistributor._execute_command(command, log_streaming_client=client)  # noqa: SLF001
