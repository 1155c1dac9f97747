"""Spark and Dask options: part of the configuration of stages that run on them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal

from hepflow.config.limits import FORMER, Checked, NonNegativeInt, PositiveInt
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
    conf: Mapping[str, str | None] = field(default_factory=dict, repr=False)
    """Further Spark properties, such as spark.executor.memory. Those of several files and options
    are merged: the last one wins, and null removes a property. A secret may be file:PATH, env:NAME
    or keyring:SERVICE/USER."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not MASTER.fullmatch(self.master):
            masters = "local[N], local[*], spark://HOST:PORT, yarn or k8s://URL"
            raise ConfigError(f"{self.within}master must be {masters}, got {self.master!r}")


def _check_ports(within: str, ports: str | None) -> None:
    if ports and not re.fullmatch(r"\d+:\d+", ports):
        example = "two ports, such as 10000:10100"
        raise ConfigError(f"{within}worker_ports must be {example}; got {ports!r}")


@dataclass(frozen=True, kw_only=True)
class DaskOnSparkConfig(SparkConfig):
    """The Spark job whose tasks are Dask workers."""

    within: ClassVar[str] = "cluster.spark."
    conf: Mapping[str, str | None] = field(default_factory=dict, repr=False)
    """Further Spark properties, merged key by key over files and options; null removes one. Unless
    given here, an executor has spark.executor.cores 1, a worker per spark.task.cpus of them,
    spark.executor.memory 512m, and spark.executor.memoryOverhead for the cluster.memory of its
    workers; cluster.workers sets the number of executors."""
    scheduler_port: NonNegativeInt = 0
    """Port of the driver that the workers connect to, where a firewall opens only some; 0: a free
    one."""
    worker_ports: str | None = None
    """Ports of the workers, such as 10000:10100, where a firewall opens only some."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_ports(self.within, self.worker_ports)


@dataclass(frozen=True, kw_only=True)
class JobsConfig(Checked):
    """The batch jobs that run Dask workers, several workers per job (dask-jobqueue)."""

    within: ClassVar[str] = "cluster.jobs."
    queue: str | None = None
    """Queue or partition to submit to; default: the site's default."""
    account: str | None = None
    """Account, project or accounting group to charge; default: the user's default."""
    walltime: str = "02:00:00"
    """Time limit per job: minutes, H:M:S or D-H:M (90, 02:00:00, 1-12:00); new jobs replace old
    ones."""
    workers_per_job: PositiveInt = 8
    """Worker processes, and cores, per job."""
    min_jobs: NonNegativeInt = 0
    """Minimum number of jobs, kept even when there is little work."""
    max_jobs: PositiveInt = 10
    """Maximum number of jobs; the number follows the remaining work."""
    interface: str | None = None
    """Network interface of the compute nodes, such as ib0; default: that of the host name."""
    scheduler_port: NonNegativeInt = 0
    """Port that the workers connect to, where a firewall opens only some; 0: a free one."""
    worker_ports: str | None = None
    """Ports of the workers, such as 10000:10100, where a firewall opens only some."""
    prologue: tuple[str, ...] = ()
    """Lines of bash to run before the workers start, such as `source slurm/env.sh`."""
    directives: tuple[str, ...] = ()
    """Further options of the submit command, such as --constraint=haswell; for HTCondor, lines of
    the submit file, such as +JobFlavour = "workday"."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_ports(self.within, self.worker_ports)


@dataclass(frozen=True, kw_only=True)
class SlurmConfig(Checked):
    """Former spelling of the options in `JobsConfig`; None if not given."""

    within: ClassVar[str] = "cluster.slurm."
    partition: str | None = None
    account: str | None = None
    walltime: str | None = None
    workers_per_job: int | None = None
    min_jobs: int | None = None
    max_jobs: int | None = None
    interface: str | None = None
    prologue: tuple[str, ...] | None = None
    directives: tuple[str, ...] | None = None

    def replace_in(self, jobs: JobsConfig) -> JobsConfig:
        """Return the jobs with the options that were given here."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        for former in list(given):
            name = "queue" if former == "partition" else former
            if getattr(jobs, name) != getattr(JobsConfig, name):
                both = f"cluster.slurm.{former} and cluster.jobs.{name}"
                raise ConfigError(f"{both} are one option. Give cluster.jobs.{name} alone.")
            given[name] = given.pop(former)
        return replace(jobs, **given) if given else jobs


@dataclass(frozen=True, kw_only=True)
class TlsConfig(Checked):
    """Files of the certificates for a running scheduler, as those of `dask scheduler`."""

    within: ClassVar[str] = "cluster.tls."
    ca: Path | None = None
    """Certificate that signed all others (--tls-ca-file)."""
    cert: Path | None = None
    """Certificate of this user (--tls-cert)."""
    key: Path | None = None
    """Its key (--tls-key)."""


@dataclass(frozen=True, kw_only=True)
class ClusterConfig(Checked):
    """Place and number of the Dask workers."""

    within: ClassVar[str] = "cluster."
    kind: Literal["local", "slurm", "htcondor", "pbs", "lsf", "sge", "oar", "spark", "address"] = (
        "local"
    )
    """local: worker processes on this machine; spark: tasks of a Spark job; address: a running
    scheduler; the others: jobs of this batch system (sge: any Grid Engine)."""
    workers: NonNegativeInt = 0
    """Worker processes of a local cluster or in Spark; 0: one per core available to this process,
    or as many as Spark has cores for."""
    memory: str = "auto"
    """Memory per worker, such as 4GiB; auto: its share of the machine, or 4GiB in a batch job or in
    an executor of Spark."""
    dashboard_address: str = "127.0.0.1:0"
    """Address of the dashboard; port 0 selects a free one, :PORT listens on the network."""
    address: str | None = None
    """Scheduler for kind address, such as tls://HOST:8786."""
    tls: TlsConfig = field(default_factory=TlsConfig)
    """Certificates for kind address; default: those of Dask's own configuration."""
    performance_report: Path | None = None
    """HTML file for Dask's performance report."""
    jobs: JobsConfig = field(default_factory=JobsConfig)
    """The jobs of a batch system."""
    slurm: SlurmConfig = field(default_factory=SlurmConfig, metadata=FORMER)
    """Former spelling of jobs."""
    spark: DaskOnSparkConfig = field(default_factory=DaskOnSparkConfig)
    """The Spark session, for kind spark."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "jobs", self.slurm.replace_in(self.jobs))
        object.__setattr__(self, "slurm", SlurmConfig())
        if (self.kind == "address") != (self.address is not None):
            given = f"cluster.kind {self.kind} with cluster.address {self.address}"
            raise ConfigError(f"{given}: kind address needs an address, and no other kind has one")
