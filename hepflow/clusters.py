"""The one place that makes a Dask client: a local cluster, jobs under Slurm, or a scheduler that already runs."""

import contextlib
import logging
import os
from collections.abc import Iterator

import dask
from dask.utils import format_bytes, parse_bytes
from dask_jobqueue import SLURMCluster
from distributed import Client, LocalCluster, performance_report
from distributed.deploy.cluster import Cluster
from distributed.system import MEMORY_LIMIT

from hepflow.config import ClusterConfig
from hepflow.errors import ConfigError, DataError

log = logging.getLogger(__name__)

_SLURM_MEMORY = "4GiB"
_SETTINGS = {
    # A worker that dies is no verdict on its task: a killed node takes many tasks with it, again and again.
    "distributed.scheduler.allowed-failures": 30,
    # Parts go to disk, so what stays in memory is one task; spilling would only hide a wrong estimate.
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.target": False,
    "distributed.comm.timeouts.connect": "60s",
}


@contextlib.contextmanager
def connect(config: ClusterConfig, n_tasks: int) -> Iterator[Client]:
    """A client of the configured cluster; the cluster ends with the context, unless it was there before.

    Parameters
    ----------
    config : ClusterConfig
    n_tasks : int
        A cluster is not made larger than the work.
    """
    for name in ("distributed", "tornado", "asyncio"):  # what they tell of every connection is for their developers
        logging.getLogger(name).setLevel(logging.WARNING)
    with dask.config.set(_SETTINGS), contextlib.ExitStack() as stack:
        if config.kind == "address":
            client = stack.enter_context(_client_at(str(config.address)))
        else:
            cluster = _local(config, n_tasks) if config.kind == "local" else _slurm(config)
            client = stack.enter_context(Client(stack.enter_context(cluster)))
        log.info("Dask dashboard: %s", client.dashboard_link or "none (is bokeh installed?)")
        if config.performance_report is not None:
            config.performance_report.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(performance_report(filename=str(config.performance_report)))
        yield client


def n_workers(config: ClusterConfig, n_tasks: int) -> int:
    """Worker processes of a local cluster."""
    return max(1, min(config.workers or len(os.sched_getaffinity(0)), n_tasks))


def worker_memory(config: ClusterConfig, n_tasks: int) -> int | None:
    """Bytes a worker may use, None where only the running cluster knows.

    Raises
    ------
    ConfigError
        The configured memory is not a size.
    """
    if config.kind == "address":
        return None
    if config.memory == "auto":
        return parse_bytes(_SLURM_MEMORY) if config.kind == "slurm" else MEMORY_LIMIT // n_workers(config, n_tasks)
    try:
        return parse_bytes(config.memory)
    except ValueError as error:
        msg = f"cluster.memory must be a size such as 4GiB, or auto; got {config.memory!r}"
        raise ConfigError(msg) from error


def check_memory(config: ClusterConfig, n_tasks: int, needed: int) -> None:
    """Announce the memory a worker needs, and refuse what cannot fit.

    Parameters
    ----------
    config : ClusterConfig
    n_tasks : int
    needed : int
        Bytes that the largest task holds at once, the interpreter included.

    Raises
    ------
    ConfigError
        A worker has less.
    """
    limit = worker_memory(config, n_tasks)
    if limit is None:
        log.info("the largest task needs about %s in its worker", format_bytes(needed))
        return
    if needed > limit:
        msg = (
            f"the largest task needs about {format_bytes(needed)}, a worker has {format_bytes(limit)}: "
            "lower --task_mb (and ingest with smaller row groups), start fewer workers, or raise --cluster.memory"
        )
        raise ConfigError(msg)
    log.info("the largest task needs about %s of a worker's %s", format_bytes(needed), format_bytes(limit))


def _local(config: ClusterConfig, n_tasks: int) -> Cluster:
    return LocalCluster(
        n_workers=n_workers(config, n_tasks),
        threads_per_worker=1,
        processes=True,
        memory_limit=worker_memory(config, n_tasks),
        dashboard_address=config.dashboard_address,
    )


def _slurm(config: ClusterConfig) -> Cluster:
    slurm = config.slurm
    memory = worker_memory(config, n_tasks=0) or 0
    hours, minutes, seconds = (int(part) for part in slurm.walltime.split(":"))
    lifetime = (hours * 60 + minutes) * 60 + seconds
    cluster = SLURMCluster(
        queue=slurm.partition,
        account=slurm.account,
        cores=slurm.workers_per_job,
        processes=slurm.workers_per_job,
        memory=format_bytes(memory * slurm.workers_per_job),
        walltime=slurm.walltime,
        interface=slurm.interface,
        job_script_prologue=list(slurm.prologue),
        job_extra_directives=list(slurm.directives),
        # Workers leave in good order before Slurm kills them, not all in the same minute.
        worker_extra_args=["--lifetime", f"{max(60, int(lifetime * 0.9))}s", "--lifetime-stagger", f"{max(1, int(lifetime * 0.05))}s"],
        scheduler_options={"dashboard_address": config.dashboard_address},
    )
    cluster.adapt(minimum_jobs=slurm.min_jobs, maximum_jobs=slurm.max_jobs)
    return cluster


def _client_at(address: str) -> Client:
    try:
        return Client(address, timeout="30s")
    except (OSError, ValueError) as error:
        msg = f"cluster.address: no Dask scheduler answers at {address} ({error}). Start one with `dask scheduler`."
        raise DataError(msg) from error
