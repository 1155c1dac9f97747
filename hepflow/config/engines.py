"""Spark and Dask options: part of the configuration of stages that run on them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from hepflow.config.limits import Checked, NonNegativeInt, PositiveInt
from hepflow.errors import ConfigError

MASTER = re.compile(r"local(-cluster)?(\[[\d*, ]+\])?|(spark|k8s)://.+|yarn")


@dataclass(frozen=True, kw_only=True)
class SparkConfig(Checked):
    """Address and memory of a Spark cluster; anything else goes into ``conf``."""

    within: ClassVar[str] = "spark."
    master: str = "local[*]"
    """local[*], spark://HOST:PORT, k8s://URL or yarn."""
    driver_memory: str = "2g"
    """Heap of the driver (and of the executors if local)."""
    conf: Mapping[str, str | None] = field(default_factory=dict)
    """Further Spark properties, such as spark.executor.memory. Those of several files and options
    are merged: the last one wins, and null removes a property."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not MASTER.fullmatch(self.master):
            masters = "local[N], local[*], spark://HOST:PORT, yarn or k8s://URL"
            raise ConfigError(f"spark.master must be {masters}, got {self.master!r}")


@dataclass(frozen=True, kw_only=True)
class SlurmConfig(Checked):
    """The batch jobs that run Dask workers, several workers per job (dask-jobqueue)."""

    within: ClassVar[str] = "cluster.slurm."
    partition: str | None = None
    """Partition to submit to; default: the cluster's default."""
    account: str | None = None
    """Account to charge; default: the user's default."""
    walltime: str = "02:00:00"
    """Time limit per job, in Slurm's formats (90, 02:00:00, 1-12:00); new jobs replace old ones."""
    workers_per_job: PositiveInt = 8
    """Worker processes, and cores, per job."""
    min_jobs: NonNegativeInt = 0
    """Minimum number of jobs, kept even when there is little work."""
    max_jobs: PositiveInt = 10
    """Maximum number of jobs; the number follows the remaining work."""
    interface: str | None = None
    """Network interface of the compute nodes, such as ib0; default: that of the host name."""
    prologue: tuple[str, ...] = ()
    """Shell lines to run before the workers start, such as `source slurm/env.sh`."""
    directives: tuple[str, ...] = ()
    """Further sbatch options, such as --constraint=haswell."""


@dataclass(frozen=True, kw_only=True)
class ClusterConfig(Checked):
    """Place and number of the Dask workers."""

    within: ClassVar[str] = "cluster."
    kind: Literal["local", "slurm", "address"] = "local"
    """local: worker processes on this machine; slurm: batch jobs; address: a running scheduler."""
    workers: NonNegativeInt = 0
    """Worker processes of a local cluster; 0: one per core available to this process."""
    memory: str = "auto"
    """Memory per worker, such as 4GiB; auto: its share of the machine, or 4GiB under Slurm."""
    dashboard_address: str = ":0"
    """Address of the dashboard; port 0 selects a free one."""
    address: str | None = None
    """Scheduler for kind address, such as tcp://HOST:8786."""
    performance_report: Path | None = None
    """HTML file for Dask's performance report."""
    slurm: SlurmConfig = field(default_factory=SlurmConfig)
    """The batch jobs, for kind slurm."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.kind == "address") != (self.address is not None):
            given = f"cluster.kind {self.kind} with cluster.address {self.address}"
            raise ConfigError(f"{given}: kind address needs an address, and no other kind has one")
