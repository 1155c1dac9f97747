"""A Dask worker as the task of a Spark job, which lives until its scheduler closes it.

The worker runs in the Python process of the task, without a nanny: Spark starts another one where a
task fails. Executors import this module, and neither pyspark nor the driver's part.
"""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Mapping
from typing import Any

import dask
from distributed import Worker

CLOSED = "scheduler-close"
"""Reason that a scheduler gives at its own end."""
START_S = 60.0
_POLL_S = 0.1


class TaskWorker(Worker):
    """Remembers the reason for its end."""

    reason = ""

    async def close(self, *args: Any, reason: str = "worker-close", **options: Any) -> str | None:
        """Close it."""
        self.reason = self.reason or reason
        return await super().close(*args, reason=reason, **options)


def serve(
    number: int, scheduler: str, settings: Mapping[str, Any], options: Mapping[str, Any]
) -> None:
    """Work for a scheduler until it ends; any other end is an error, after which Spark retries.

    Parameters
    ----------
    number : int
        Number of the worker, from 0.
    scheduler : str
        Address of the scheduler.
    settings : Mapping
        Settings of Dask; ``logging`` gives the levels of its loggers.
    options : Mapping
        Further arguments of `distributed.Worker`.
    """
    with dask.config.set(settings):
        for name, level in ({"distributed": "warning"} | settings["logging"]).items():
            logging.getLogger(name).setLevel(level.upper())
        reason = asyncio.run(_serve(number, scheduler, options))
    if reason != CLOSED:
        raise ConnectionError(f"Dask worker {number} ended: {reason}")


async def _serve(number: int, scheduler: str, options: Mapping[str, Any]) -> str:
    folder = os.environ["SPARK_LOCAL_DIRS"].split(",")[0]  # Spark removes it
    name = f"{number}-{os.getpid()}"  # the scheduler may not have missed its predecessor yet
    own = {"name": name, "nthreads": 1, "local_directory": folder, "death_timeout": START_S}
    try:
        worker = await TaskWorker(scheduler, **own, **options)
    except Exception as error:
        what = f"a Dask worker cannot join the scheduler at {scheduler}"
        raise ConnectionError(f"{what} ({error.__cause__ or error})") from error
    threading.Thread(target=_limit, args=(worker,), daemon=True).start()
    await worker.finished()
    return worker.reason


def _limit(worker: TaskWorker) -> None:
    """End the process when it exceeds its memory, as a nanny would."""
    fraction = dask.config.get("distributed.worker.memory.terminate")
    limit = worker.memory_manager.memory_limit
    while fraction and limit and not worker.reason:
        if (used := worker.monitor.get_process_memory()) > fraction * limit:
            os.write(2, f"a Dask worker used {used:,} of {limit:,} bytes, and ends\n".encode())
            os._exit(1)
        time.sleep(_POLL_S)
