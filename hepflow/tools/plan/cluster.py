"""The work of a stage on a given cluster: workers, wall time, and what limits it."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dask.utils import parse_bytes
from distributed.system import MEMORY_LIMIT

from hepflow.config.engines import SparkConfig
from hepflow.config.plan import PlanConfig
from hepflow.engines.batch import walltime_seconds
from hepflow.engines.dask_on_spark import spark_bytes
from hepflow.engines.spark import is_local
from hepflow.errors import ConfigError
from hepflow.system import processes
from hepflow.tools.plan.stages import Work

_HEAP = 2 << 30  # Java next to the Python workers of a node
_SHORT = 1.3  # a wall time so much longer than that of evenly divided work has a reason
ON_SPARK, ON_NODES = ("ingest", "train"), ("ingest", "train", "evaluate")


@dataclass(frozen=True)
class Cluster:
    """Machines for a stage."""

    kind: str
    """local, slurm or another batch system, or spark: its own nodes."""
    nodes: int
    cores: int
    """Per node."""
    memory: int
    """Bytes per node for Python."""


@dataclass(frozen=True)
class Estimate:
    """A stage on its machines."""

    work: Work
    cluster: Cluster
    workers: int
    wall_s: float
    limit: str
    """Why it is not faster."""
    per_node: int
    """Workers on a node that has no room for more."""
    fits: bool
    """Whether a node has the memory of a worker."""

    @property
    def nodes(self) -> int:
        """Machines that have a worker."""
        return -(-self.workers // self.per_node)

    @property
    def core_hours(self) -> float:
        """Core hours of the work, without start-up."""
        return self.work.cost.core_hours(self.work.events)


def cluster_of(config: PlanConfig, stage: str) -> Cluster:
    """Return the machines of a stage: as given, or as Spark and Dask are configured."""
    dask, spark = config.cluster, config.spark
    session = spark if stage in ON_SPARK or dask.kind == "local" else dask.spark
    remote = not is_local(session.master) and (stage in ON_SPARK or dask.kind in ("local", "spark"))
    if remote:
        kind, found = "spark", _executors(session)
    elif dask.kind in ("local", "address"):
        kind, found = "local", (1, dask.workers or processes.cores())
    else:
        kind, found = dask.kind, (dask.jobs.max_jobs, dask.jobs.workers_per_job)
    if kind == "local" and config.nodes > 1:
        kind = "slurm"
    nodes, cores = config.nodes or found[0], config.cores or found[1]
    if kind not in ("spark", "slurm") and stage in ON_NODES:
        nodes = 1  # such batch systems run these stages on one whole node
    return Cluster(kind, nodes, cores, _memory(config, stage, kind, cores))


def _executors(session: SparkConfig) -> tuple[int, int]:
    conf = session.conf
    names = ("spark.dynamicAllocation.maxExecutors", "spark.executor.instances")
    n = next((int(str(conf[name])) for name in names if conf.get(name)), 2)
    return n, int(conf.get("spark.executor.cores") or 1)


def _memory(config: PlanConfig, stage: str, kind: str, cores: int) -> int:
    """Return the bytes per node for Python; next to it, Spark has Java."""
    conf = config.spark.conf
    overhead = str(conf.get("spark.executor.memoryOverhead") or "")
    if config.memory:
        found = _bytes(config.memory, "memory")
    elif stage in ON_SPARK and kind == "spark" and overhead:
        return spark_bytes(overhead) * max(1, cores // int(conf.get("spark.executor.cores") or 1))
    elif stage not in ON_NODES and config.cluster.memory != "auto":
        return cores * _bytes(config.cluster.memory, "cluster.memory")
    else:
        found = int(MEMORY_LIMIT)
    return max(0, found - _HEAP * (stage == "ingest"))


def _bytes(text: str, option: str) -> int:
    try:
        return int(parse_bytes(text))
    except ValueError as error:
        raise ConfigError(f"{option} must be a size such as 128GB, got {text!r}") from error


def estimate(work: Work, cluster: Cluster) -> Estimate:
    """Return the time of a stage on its machines."""
    by_cores = max(1, cluster.cores // work.threads)
    by_memory = int(cluster.memory // max(work.worker_bytes, 1))
    wanted = cluster.nodes * by_cores
    per_node = max(1, min(by_cores, by_memory))
    workers = min(cluster.nodes * per_node, work.most_workers)
    core_s = work.cost.core_hours(work.events) * 3600
    busy_s = core_s / work.threads / workers
    if work.task_s:
        workers = min(workers, len(work.task_s))
        busy_s = _makespan(work.task_s, workers)
    cores = core_s / busy_s if busy_s else 1.0
    wall_s = work.cost.seconds(work.events, cores) if core_s else 0.0
    limit = "CPU"
    if not core_s:
        limit = "nothing left"
    elif work.cost.start(cores) > wall_s / 2:
        limit = "start-up"
    elif by_memory < by_cores:
        limit = "memory"
    elif work.most_workers < wanted:
        limit = work.why_no_more
    elif busy_s > _SHORT * core_s / work.threads / wanted:
        limit = f"{len(work.task_s):,} tasks"
    return Estimate(work, cluster, workers, wall_s, limit, per_node, fits=by_memory > 0)


def _makespan(task_s: Sequence[float], workers: int) -> float:
    """Return the time of tasks that workers take in this order, one after another."""
    free = [0.0] * workers
    for seconds in task_s:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


def limits(config: PlanConfig) -> dict[str, Any]:
    """Return the quotas and the time limit in bytes, files and seconds; None: none."""
    return {
        "bytes": _bytes(config.quota, "quota") if config.quota else None,
        "files": config.quota_files or None,
        "seconds": walltime_seconds(config.time_limit, "time_limit") if config.time_limit else None,
    }
