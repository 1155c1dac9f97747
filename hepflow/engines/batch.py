"""Dask workers as jobs of a batch system, by dask-jobqueue; lost and refused jobs are replaced."""

import asyncio
import logging
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import dask
import dask_jobqueue
from dask.utils import format_bytes
from dask_jobqueue.core import Job
from distributed.core import Status
from distributed.deploy.cluster import Cluster
from tornado.ioloop import PeriodicCallback

from hepflow.config.engines import ClusterConfig
from hepflow.engines import batch_worker
from hepflow.engines.batch_systems import SYSTEMS, BatchSystem, Request
from hepflow.engines.dask_security import NO_PAGES, Access
from hepflow.engines.words import AGAIN_S, Words
from hepflow.errors import ConfigError, one_line
from hepflow.system.publishing import scratch

log = logging.getLogger(__name__)
_POLL_MS = 1000

# Importing dask_jobqueue makes Ctrl-C exit a program as if it had succeeded.
if getattr(signal.getsignal(signal.SIGINT), "__module__", None) == "dask_jobqueue.runner":
    signal.signal(signal.SIGINT, signal.default_int_handler)


def batch_cluster(
    config: ClusterConfig,
    n_tasks: int,
    worker_memory: int,
    access: Access,
    settings: Mapping[str, Any],
) -> Cluster:
    """Return a cluster of jobs, whose number follows the work.

    The first job is submitted at once, so that a batch system that refuses it is an error: Dask
    would wait indefinitely. ``settings`` of Dask hold in the workers too.
    """
    system, jobs = SYSTEMS[config.kind], config.jobs
    if missing := system.missing():
        advice = "Run on a machine that submits jobs, or use kind local or address."
        raise ConfigError(f"cluster.kind {config.kind}: {missing} not found. {advice}")
    answers = _Answers(system.name)
    arguments = job_arguments(config, worker_memory, settings)
    kind = getattr(dask_jobqueue, system.cluster)
    job = type("Job", (_Resubmitted, kind.job_cls), {"answers": answers})
    options = {"scheduler_options": access.scheduler | {"port": jobs.scheduler_port}}
    options["security"] = access.keys_in_files()
    try:
        cluster = kind(job_cls=job, **options, **arguments)
    except (RuntimeError, ValueError, OSError) as error:  # a taken port, or no such interface
        first: BaseException = error
        while first.__context__ is not None:
            first = first.__context__
        what = f"the Dask scheduler does not start: {one_line(first)}"
        raise ConfigError(f"cluster.jobs: {what}. Check interface and scheduler_port.") from error
    with ExitStack() as stack:
        stack.callback(cluster.close)
        doubt = _doubt(system, cluster.job_script())
        reason = doubt if system.check_is_sure else ""
        most = min(jobs.max_jobs, -(-n_tasks // jobs.workers_per_job))
        if not reason and most:
            cluster.scale(jobs=1)
            reason = answers.first.result()
        if reason:
            raise ConfigError(f"cluster.jobs: {system.name} rejects the jobs: {reason}")
        stack.pop_all()
    if doubt:
        log.warning("%s may never start the jobs: %s", system.name, doubt)
    cluster.adapt(minimum_jobs=min(jobs.min_jobs, most), maximum_jobs=most)
    _show_waiting(cluster, system)
    return cluster


def job_arguments(
    config: ClusterConfig, worker_memory: int, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return dask-jobqueue's arguments for the jobs of a configuration."""
    jobs = config.jobs
    walltime = walltime_seconds(jobs.walltime)
    # A worker leaves before its job ends; the stagger keeps workers from leaving all at once.
    margin = min(300, max(30, walltime // 10))
    options = ["--nanny", "--nworkers", str(jobs.workers_per_job)]
    options += ["--no-dashboard", "--dashboard-address", NO_PAGES]
    options += ["--lifetime", f"{walltime - margin}s", "--lifetime-stagger", f"{margin // 3}s"]
    if jobs.worker_ports:
        options += ["--worker-port", jobs.worker_ports]
    inherited = f"export DASK_INTERNAL_INHERIT_CONFIG={dask.config.serialize(settings)}"
    folder = f"cd {shlex.quote(str(Path.cwd()))}"  # some systems start jobs elsewhere
    own = SYSTEMS[config.kind].arguments(jobs, Request(walltime, worker_memory))
    return own | {
        "cores": jobs.workers_per_job,
        "processes": jobs.workers_per_job,
        "memory": format_bytes(worker_memory * jobs.workers_per_job),
        "interface": jobs.interface,
        "worker_command": batch_worker.__name__,
        "job_script_prologue": [folder, inherited, *jobs.prologue],
        "worker_extra_args": options,
    }


def walltime_seconds(walltime: str, option: str = "cluster.jobs.walltime") -> int:
    """Return the seconds of a time limit: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S, as in Slurm."""
    days, dash, clock = walltime.rpartition("-")
    fields = clock.split(":")
    if len(fields) > 3 or not all(field.isdecimal() for field in (*fields, *[days] * len(dash))):
        forms = "minutes, M:S, H:M:S, D-H, D-H:M or D-H:M:S"
        raise ConfigError(f"{option} must be {forms}, got {walltime!r}")
    units = (3600, 60, 1) if dash or len(fields) == 3 else (60, 1)
    seconds = sum(int(field) * unit for field, unit in zip(fields, units, strict=False))
    seconds += int(days or 0) * 86400
    if seconds < 60:
        raise ConfigError(f"{option} must be at least a minute, got {walltime!r}")
    return seconds


def _doubt(system: BatchSystem, script: str) -> str:
    """Return why a job with this script could never run, or nothing."""
    if not system.check:
        return ""
    answer = subprocess.run(system.check, input=script, capture_output=True, text=True, check=False)
    return _in_a_line(answer.stderr or answer.stdout) if answer.returncode else ""


class _Answers:
    """The answers of a batch system to submitted jobs: the first one, and later refusals."""

    def __init__(self, name: str) -> None:
        self.first: Future[str] = Future()
        """Reason of the refusal, or nothing."""
        self._name, self._next = name, 0.0

    def accepted(self) -> None:
        """Note that a job is in the queue."""
        if not self.first.done():
            self.first.set_result("")

    def refused(self, reason: str) -> None:
        """Note a refusal; report it, at most once a minute, if jobs were accepted before."""
        if not self.first.done():
            self.first.set_result(reason)
        elif self.first.result() == "" and (now := time.monotonic()) >= self._next:
            self._next = now + AGAIN_S
            what = "rejects a job, which is submitted again every minute"
            log.warning("%s %s: %s", self._name, what, reason)


class _Resubmitted(Job):
    """A job of any batch system that is submitted again while the system refuses it.

    By itself, dask-jobqueue logs a traceback and waits for the job's workers indefinitely.
    """

    answers: _Answers
    executable = "/bin/bash"  # of HTCondor, as the other systems run the prologue in bash
    _submission: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Submit the job in the background."""
        self._end = asyncio.Event()
        self._submission = asyncio.ensure_future(self._submit())
        self.status = Status.running

    async def _submit(self) -> None:
        while not self._end.is_set():
            try:
                await super().start()
            except (RuntimeError, ValueError, OSError) as error:
                text = str(error)  # of dask-jobqueue: exit code, command, stdout and stderr
                stderr = text.partition("\nstderr:\n")[2].strip()
                self.answers.refused(_in_a_line(stderr or text))
            else:
                self.answers.accepted()
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._end.wait(), AGAIN_S)

    @contextmanager
    def job_file(self) -> Iterator[str]:
        """Yield the path of the script, which other users of this machine cannot replace."""
        with tempfile.NamedTemporaryFile("w", suffix=".sh", dir=scratch()) as script:
            script.write(self.job_script())
            script.flush()
            yield script.name

    async def _submit_job(self, script_filename: str) -> str:
        if getattr(self, "use_stdin", False):  # LSF, whose error messages the library discards
            with Path(script_filename).open() as script:
                return str(await self._call([self.submit_command], stdin=script))
        return str(await super()._submit_job(script_filename))

    async def close(self) -> None:
        """Delete the job; one that is being submitted is not left behind."""
        if self._submission is not None:
            self._end.set()
            await self._submission
        await super().close()
        self.status = Status.closed


def _in_a_line(text: str) -> str:
    return " ".join(text.split()).removesuffix(" Exiting.") or "no reason given"


def _show_waiting(cluster: Cluster, system: BatchSystem) -> None:
    """Show a line now and then, while there are jobs but no worker."""
    words: list[Words] = []

    def ask() -> str:
        ids = [job.job_id for job in cluster.workers.values() if job.job_id]
        if not ids:
            return f"no Dask worker runs, and {system.name} has not accepted the jobs"
        names = ", ".join(ids[:3]) + ("" if len(ids) < 4 else f" and {len(ids) - 3} more")
        what = f"no Dask worker runs: {system.name} has not started job {names}, or it failed"
        return f"{what}; see `{system.lists}` and the files {system.logs}"

    def every_second() -> None:
        if cluster.status != Status.running:
            callback.stop()
        elif cluster.scheduler_info["workers"] or not cluster.worker_spec:
            words.clear()
        else:
            words[:] = words or [Words(ask)]
            words[0]()

    callback = PeriodicCallback(every_second, _POLL_MS)
    cluster.loop.add_callback(callback.start)
