"""How to reach Spark and Dask: what the configurations of stages that run on them hold."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hepflow.config.bounds import not_negative, positive
from hepflow.errors import ConfigError

MASTER = re.compile(r"local(-cluster)?(\[[\d*, ]+\])?|(spark|k8s)://.+|yarn")
"""Masters that Spark knows."""


@dataclass(frozen=True, kw_only=True)
class SparkConfig:
    """How to reach a Spark cluster; anything else goes into ``conf``."""

    master: str = "local[*]"
    """local[*], spark://host:port or yarn."""
    driver_memory: str = "2g"
    """Heap of the driver (and of the executors when local)."""
    conf: Mapping[str, str] = field(default_factory=dict)
    """Further Spark properties, such as spark.executor.memory."""

    def __post_init__(self) -> None:
        if not MASTER.fullmatch(self.master):
            raise ConfigError(
                f"spark.master must be local[N], local[*], spark://HOST:PORT, yarn or k8s://URL, got {self.master!r}"
            )


@dataclass(frozen=True, kw_only=True)
class SlurmConfig:
    """The batch jobs that hold Dask workers, one job a group of workers (dask-jobqueue)."""

    partition: str | None = None
    """Partition to submit to; default: the cluster's own."""
    account: str | None = None
    """Account to charge; default: the user's own."""
    walltime: str = "02:00:00"
    """Limit of a job, in any of Slurm's formats (90, 02:00:00, 1-12:00). Workers leave a few minutes before it, and new jobs take over."""
    workers_per_job: int = 8
    """Worker processes, and cores, a job."""
    min_jobs: int = 0
    """Jobs to keep even when there is little to do."""
    max_jobs: int = 10
    """Jobs at most; the number follows the work left."""
    interface: str | None = None
    """Network interface of the compute nodes, such as ib0; default: the one the host name points to."""
    prologue: tuple[str, ...] = ()
    """Shell lines to run before the workers, such as `source slurm/env.sh`."""
    directives: tuple[str, ...] = ()
    """Further sbatch options, such as --constraint=haswell."""

    def __post_init__(self) -> None:
        positive(self, "workers_per_job", "max_jobs", within="cluster.slurm.")
        not_negative(self, "min_jobs", within="cluster.slurm.")


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """Where the Dask workers run."""

    kind: Literal["local", "slurm", "address"] = "local"
    """local: worker processes on this machine; slurm: batch jobs; address: a scheduler that already runs."""
    workers: int = 0
    """Worker processes of a local cluster; 0: as many as this process may use cores."""
    memory: str = "auto"
    """Memory a worker, such as 4GiB; auto: its share of the machine, or 4GiB under Slurm."""
    dashboard_address: str = ":0"
    """Where the dashboard listens; port 0 picks a free one."""
    address: str | None = None
    """The scheduler, such as tcp://host:8786, for kind address."""
    performance_report: Path | None = None
    """Keep Dask's performance report in this HTML file."""
    slurm: SlurmConfig = field(default_factory=SlurmConfig)
    """The batch jobs, for kind slurm."""

    def __post_init__(self) -> None:
        not_negative(self, "workers", within="cluster.")
        if (self.kind == "address") != (self.address is not None):
            raise ConfigError(
                f"cluster.kind {self.kind} with cluster.address {self.address}: kind address needs an address, and no other kind has one"
            )
