"""A Dask cluster whose workers are the tasks of one Spark job, for sites that have only Spark.

    driver                               executors
    client -> Dask scheduler <--- tcp -- Dask worker, in the Python process of a Spark task
    Spark job, a task per worker ------> Spark starts a task that failed again

The job lasts as long as the scheduler.
"""

import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from dask.utils import parse_bytes
from distributed import LocalCluster
from distributed.system import MEMORY_LIMIT
from pyspark import SparkConf

from hepflow.config.engines import ClusterConfig, SparkConfig
from hepflow.engines import spark as engine
from hepflow.engines.dask_job import WorkersJob
from hepflow.engines.dask_security import NO_PAGES, TLS, Access
from hepflow.engines.dask_worker import serve
from hepflow.errors import ConfigError
from hepflow.system.processes import cores

NAME = "hepflow Dask workers"  # name of the Spark application
MOST = 10_000  # workers; more tasks would only wait
EVER_AGAIN = 100_000  # attempts per Spark task: Dask itself counts how often a task kills workers
MEMORY = "4GiB"
_JAVA_MIB = 384  # an executor's memory outside its heap, as Spark estimates it
_MIB = 2**20
_UNITS = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def auto_memory(config: ClusterConfig, n_tasks: int) -> int:
    """Return the bytes per worker that follow from Spark's properties."""
    given = engine.given(config.spark)
    if engine.is_local(given["spark.master"]):
        return MEMORY_LIMIT // _n_local(config, given["spark.master"], n_tasks)
    if overhead := given.get("spark.executor.memoryOverhead"):
        return max(1, (spark_bytes(overhead) - _JAVA_MIB * _MIB) // _per_executor(given))
    return int(parse_bytes(MEMORY))


@contextmanager
def cluster(
    config: ClusterConfig,
    n_tasks: int,
    memory: int,
    access: Access,
    settings: Mapping[str, Any],
    variables: Mapping[str, object],
) -> Iterator[LocalCluster]:
    """Yield a cluster whose workers are in Spark; both end with the context.

    Parameters
    ----------
    n_tasks : int
        Tasks of Dask, and the largest useful number of workers.
    memory : int
        Bytes per worker.
    settings, variables : Mapping
        Settings of Dask, and variables of the environment, of the workers.
    """
    n_workers = min(config.workers or MOST, n_tasks)
    with engine.spark_session(_session(config, n_tasks, memory, variables), NAME) as spark:
        context = spark.sparkContext
        conf = context.getConf()
        with _scheduler(config, conf, access) as dask:
            address = f"{TLS}{conf.get('spark.driver.host')}:{dask.scheduler.port}"
            options: dict[str, Any] = {"memory_limit": memory, "port": config.spark.worker_ports}
            options |= {"security": access.keys, "dashboard_address": NO_PAGES}
            options["host"] = "127.0.0.1" if engine.is_local(context.master) else None
            work = partial(serve, scheduler=address, settings=dict(settings), options=options)
            job = WorkersJob(context, dask, work, n_workers)
            try:
                yield dask
            except Exception as error:
                if (failure := job.failure()) is None:
                    raise
                raise failure from error
            finally:
                dask.close()  # with it, the workers end
                job.end()


def _n_local(config: ClusterConfig, master: str, n_tasks: int) -> int:
    """Return the number of workers on a local master."""
    found = re.search(r"\[(\d+)", master)
    slots = int(found[1]) if found else cores() if "*" in master else 1
    return max(1, min(config.workers or slots, n_tasks))


def _per_executor(given: Mapping[str, str]) -> int:
    """Return the number of workers of an executor."""
    return max(1, _number(given, "spark.executor.cores") // _number(given, "spark.task.cpus"))


def _number(given: Mapping[str, str], name: str) -> int:
    text = given.get(name, "1")
    if not text.isdecimal() or int(text) == 0:
        raise ConfigError(f"{name} must be a whole number, at least 1; got {text!r}")
    return int(text)


def spark_bytes(size: str) -> int:
    """Return the bytes in a size of Spark's, whose default unit is MiB."""
    if not (found := re.fullmatch(r"(\d+)([kmgt]?)b?", size.strip().lower())):
        raise ConfigError(f"spark.executor.memoryOverhead must be a size such as 4g; got {size!r}")
    return int(found[1]) * _UNITS[found[2] or "m"]


def _session(
    config: ClusterConfig, n_tasks: int, memory: int, variables: Mapping[str, object]
) -> SparkConfig:
    """Return the session of the workers' job; the user's properties win over those of here."""
    given = engine.given(config.spark)
    master, per_executor = given["spark.master"], _per_executor(given)
    chosen = {f"spark.executorEnv.{name}": str(value) for name, value in variables.items()}
    if engine.is_local(master):
        master = f"local[{_n_local(config, master, n_tasks)},{EVER_AGAIN}]"
    else:
        overhead = given.get("spark.executor.memoryOverhead", "")
        if overhead and spark_bytes(overhead) < per_executor * memory:
            what = f"an executor has {per_executor} workers of {memory // _MIB:,} MiB"
            advice = "Raise it, leave it out, or lower cluster.memory."
            raise ConfigError(f"spark.executor.memoryOverhead {overhead}: {what}. {advice}")
        needed = _JAVA_MIB + -(-per_executor * memory // _MIB)
        chosen |= {"spark.executor.memory": "512m", "spark.executor.memoryOverhead": f"{needed}m"}
        if not master.startswith(("spark://", "local-cluster")):  # one executor per node there
            chosen |= {"spark.executor.cores": "1"}
        if config.workers:
            n_workers = min(config.workers, n_tasks)
            n_executors = str(-(-n_workers // per_executor))
            chosen |= {"spark.cores.max": str(n_workers * _number(given, "spark.task.cpus"))}
            chosen |= {"spark.executor.instances": n_executors}
            chosen |= {"spark.dynamicAllocation.maxExecutors": n_executors}
    conf = {name: value for name, value in chosen.items() if name not in given}
    # Dask counts the deaths of workers itself, and a speculative task would be a worker too many.
    fixed = {"spark.task.maxFailures": str(EVER_AGAIN), "spark.speculation": "false"}
    return replace(config.spark, master=master, conf={**conf, **config.spark.conf, **fixed})


def _scheduler(config: ClusterConfig, conf: SparkConf, access: Access) -> LocalCluster:
    host = conf.get("spark.driver.bindAddress") or conf.get("spark.driver.host") or ""
    port = config.spark.scheduler_port
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        what = f"the Dask scheduler cannot listen on {host} ({os.strerror(error.errno or 0)})"
        where = f"cluster.spark.scheduler_port {port}"
        raise ConfigError(f"{where}: {what}. Choose another port.") from error
    return LocalCluster(
        n_workers=0,
        threads_per_worker=1,
        host=host,
        scheduler_port=port,
        security=access.keys,
        scheduler_kwargs=access.scheduler,
    )
