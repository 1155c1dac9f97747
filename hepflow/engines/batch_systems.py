"""The batch systems: how each takes a queue, an account, a time limit, memory and cores.

dask-jobqueue writes the scripts of the jobs and submits them. The arguments of its classes are
here, without an import of it, so that `hepflow doctor` works where it is not installed.
"""

import math
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from hepflow.config.engines import JobsConfig
from hepflow.errors import ConfigError

Arguments = dict[str, Any]
_BASH = "-S /bin/bash"  # without it, PBS and Grid Engine run jobs in the user's or queue's shell
_JOB = "dask-worker"  # dask-jobqueue's name for every job
_MEMORY = ("m_mem_free", "mem_free", "virtual_free", "h_rss", "s_vmem", "h_vmem")
"""Resources by which sites of Grid Engine count memory; the last two limit the address space."""


class Request(NamedTuple):
    """Time and memory of a job."""

    seconds: int
    worker_memory: int  # bytes

    @property
    def clock(self) -> str:
        """Time limit as HH:MM:SS; a day and more are hours too."""
        minutes, seconds = divmod(self.seconds, 60)
        return f"{minutes // 60:02d}:{minutes % 60:02d}:{seconds:02d}"


@dataclass(frozen=True, kw_only=True)
class BatchSystem:
    """A batch system: its commands, and the arguments for its jobs."""

    name: str
    cluster: str
    """Class of dask-jobqueue."""
    programs: Sequence[str]
    """The submit command, and one that tells the system from others with the same."""
    lists: str
    """Command that lists the user's jobs."""
    responds: Sequence[str]
    """Command that fails where the system does not respond."""
    logs: str
    """Files with the output of the jobs."""
    arguments: Callable[[JobsConfig, Request], Arguments]
    check: Sequence[str] = ()
    """Command that reads a job script, and fails if the job could never run."""
    check_is_sure: bool = True
    """False if the command may fail for a job that would run."""

    def missing(self) -> str:
        """Return the first of the programs that is not on the PATH, or nothing."""
        return next((program for program in self.programs if not shutil.which(program)), "")


def _slurm(jobs: JobsConfig, request: Request) -> Arguments:
    return {
        "queue": jobs.queue,
        "account": jobs.account,
        "walltime": request.clock,
        "job_extra_directives": list(jobs.directives),
    }


def _htcondor(jobs: JobsConfig, request: Request) -> Arguments:
    if jobs.queue is not None:
        advice = "Choose machines by `requirements = ...` in cluster.jobs.directives."
        raise ConfigError(f"cluster.jobs.queue: HTCondor has no queues. {advice}")
    output = f"{_JOB}.$(ClusterId)"
    lines: dict[str, str | int] = {
        "output": f"{output}.out",
        "error": f"{output}.err",
        "log": f"{output}.log",
        "allowed_job_duration": request.seconds,  # HTCondor holds a job that runs longer,
        "+MaxRuntime": request.seconds,  # and CERN, which reads this attribute, removes it
    }
    if jobs.account is not None:
        lines["accounting_group"] = jobs.account
    options = []
    for directive in jobs.directives:
        name, equals, value = directive.partition("=")
        if directive.startswith("-"):
            options += shlex.split(directive)
        elif equals:
            lines[name.strip()] = value.strip()
        else:
            allowed = "`NAME = VALUE`, or an option of condor_submit"
            raise ConfigError(f"cluster.jobs.directives must be {allowed}; got {directive!r}")
    return {
        "disk": f"{jobs.workers_per_job}GiB",  # for logs: workers do not spill
        "job_extra_directives": lines,
        "submit_command_extra": options,
    }


def _pbs(jobs: JobsConfig, request: Request) -> Arguments:
    own, others = _resources(jobs.directives, r"-l\s*((?:select|nodes)=.*)")
    return {
        "queue": jobs.queue,
        "account": jobs.account,
        "walltime": request.clock,
        "resource_spec": own,  # None gives the select=1:ncpus=N:mem=M of PBS Pro
        "job_extra_directives": [_BASH, "-j oe", *others],
    }


def _lsf(jobs: JobsConfig, request: Request) -> Arguments:
    minutes = -(-request.seconds // 60)
    has_output = any(re.match("-oo? ", directive) for directive in jobs.directives)
    output = [] if has_output else [f"-o {_JOB}.%J.out"]  # otherwise LSF sends it by mail
    return {
        "queue": jobs.queue,
        "project": jobs.account,
        "walltime": f"{minutes // 60:02d}:{minutes % 60:02d}",
        "job_extra_directives": [*output, *jobs.directives],
    }


def _sge(jobs: JobsConfig, request: Request) -> Arguments:
    n_slots, requested = jobs.workers_per_job, " ".join(jobs.directives)
    if n_slots > 1 and not re.search(r"(^| )-pe ", requested):
        what = f"{n_slots} workers per job need a parallel environment (`qconf -spl` lists them)"
        advice = f"Add `-pe NAME {n_slots}` to cluster.jobs.directives, or use one worker per job."
        raise ConfigError(f"cluster.kind sge: {what}. {advice}")
    memory = None
    if not any(name in requested for name in _MEMORY) and (counted := _sge_counts_memory_by()):
        name, per_slot = counted
        megabytes = math.ceil(request.worker_memory / 2**20) * (1 if per_slot else n_slots)
        memory = f"{name}={megabytes}M"
    return {
        "queue": jobs.queue,
        "project": jobs.account,
        "walltime": request.clock,
        "resource_spec": memory,
        "job_extra_directives": [_BASH, *jobs.directives],
    }


def _sge_counts_memory_by() -> tuple[str, bool] | None:
    """Return the resource that counts memory on this Grid Engine, and whether it is per slot."""
    listed = subprocess.run(
        ["qconf", "-sc"], capture_output=True, text=True, check=False, timeout=60
    )
    rows = [line.split() for line in listed.stdout.splitlines() if not line.startswith("#")]
    # name, shortcut, type, relop, requestable, consumable, default, urgency
    counted = {row[0]: row[5] for row in rows if len(row) == 8 and row[5] != "NO"}
    return next(((name, counted[name] == "YES") for name in _MEMORY if name in counted), None)


def _oar(jobs: JobsConfig, request: Request) -> Arguments:
    own, others = _resources(jobs.directives, r"-l\s*(.*)")
    return {
        "queue": jobs.queue,
        "project": jobs.account,
        "walltime": request.clock,
        "resource_spec": own,  # None gives /nodes=1/core=N
        "memory_per_core_property_name": "not_applicable",  # its name differs between sites
        "job_extra_directives": others,
    }


def _resources(directives: Sequence[str], pattern: str) -> tuple[str | None, list[str]]:
    """Return the resources that the user requests instead of ours, and the other directives."""
    own = [found[1] for one in directives if (found := re.fullmatch(pattern, one))]
    return own[0] if own else None, [one for one in directives if not re.fullmatch(pattern, one)]


SYSTEMS = {
    "slurm": BatchSystem(
        name="Slurm",
        cluster="SLURMCluster",
        programs=("sbatch",),
        lists="squeue -u $USER",
        responds=("sinfo", "--noheader"),
        logs="slurm-*.out",
        arguments=_slurm,
        check=("sbatch", "--test-only"),
    ),
    "htcondor": BatchSystem(
        name="HTCondor",
        cluster="HTCondorCluster",
        programs=("condor_submit",),
        lists="condor_q",
        responds=("condor_q",),
        logs=f"{_JOB}.*.err",
        arguments=_htcondor,
    ),
    "pbs": BatchSystem(
        name="PBS",
        cluster="PBSCluster",
        programs=("qsub", "pbsnodes"),
        lists="qstat -u $USER",
        responds=("qstat", "-Q"),
        logs=f"{_JOB}.o*",
        arguments=_pbs,
    ),
    "lsf": BatchSystem(
        name="LSF",
        cluster="LSFCluster",
        programs=("bsub",),
        lists="bjobs",
        responds=("bqueues",),
        logs=f"{_JOB}.*.out",
        arguments=_lsf,
    ),
    "sge": BatchSystem(
        name="Grid Engine",
        cluster="SGECluster",
        programs=("qsub", "qconf"),
        lists="qstat -u $USER",
        responds=("qconf", "-sql"),
        logs=f"{_JOB}.o*",
        arguments=_sge,
        check=("qsub", "-w", "v"),
        check_is_sure=False,  # it does not count load values, such as a free memory of the host
    ),
    "oar": BatchSystem(
        name="OAR",
        cluster="OARCluster",
        programs=("oarsub",),
        lists="oarstat -u $USER",
        responds=("oarstat",),
        logs=f"OAR.{_JOB}.*",
        arguments=_oar,
    ),
}
"""``cluster.kind`` -> batch system."""
