"""The one place that makes a Dask client: a local cluster, jobs under Slurm, or a scheduler that already runs."""

import contextlib
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from multiprocessing import resource_tracker
from typing import TypeVar

import dask
from dask.utils import format_bytes, parse_bytes
from dask_jobqueue import SLURMCluster
from distributed import Client, LocalCluster, as_completed, performance_report
from distributed.deploy.cluster import Cluster
from distributed.scheduler import KilledWorker
from distributed.system import MEMORY_LIMIT
from rich.filesize import decimal

from hepflow.config.engines import ClusterConfig
from hepflow.errors import ConfigError, DataError, HepflowError
from hepflow.system import processes
from hepflow.system.terminal import bar

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

if getattr(signal.getsignal(signal.SIGINT), "__module__", None) == "dask_jobqueue.runner":
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # importing dask_jobqueue makes Ctrl-C end a program as if all was well

_CHATTY = ("distributed", "tornado", "asyncio")
_NANNY = "distributed.nanny"
_SLURM_MEMORY = "4GiB"
# glibc gives large arrays back to the kernel, which clears their pages for the next task again: a quarter of its CPU time, and of the
# memory's bandwidth, which the workers of a machine share. Tasks are all alike, so a worker keeps what its largest one needed.
_MALLOC = {"MALLOC_ARENA_MAX": 1, "MALLOC_MMAP_MAX_": 0, "MALLOC_TRIM_THRESHOLD_": 2**40}
# A task that fails is its client's to report, and one that ends with its worker, or a scheduler that is gone, as Ctrl-C has it, is no
# news; that memory is short is. A worker has its logging set up before it knows any other setting.
_LEVELS = {"distributed.worker": "critical", "distributed.worker.memory": "info"}
_LOGGING = {"DASK_LOGGING": repr({**dask.config.get("logging", {}), **_LEVELS})}
SETTINGS = {
    # A worker that dies is no verdict on its task: a killed node takes many tasks with it, again and again.
    "distributed.scheduler.allowed-failures": 30,
    # Parts go to disk, so what stays in memory is one task; spilling would only hide a wrong estimate.
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.target": False,
    "distributed.comm.timeouts.connect": "60s",
    **{
        f"distributed.nanny.pre-spawn-environ.{name}": value
        for name, value in (_MALLOC | _LOGGING).items()
    },
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
    for name in (*_CHATTY, _NANNY):  # what they tell of every connection is for their developers
        logging.getLogger(name).setLevel(logging.WARNING)
    with dask.config.set(SETTINGS), contextlib.ExitStack() as stack:
        stack.callback(_set_levels, {logger: logger.level for logger in _chatty()})
        if config.kind == "address":
            client = stack.enter_context(_client_at(str(config.address)))
        else:
            cluster = _local(config, n_tasks) if config.kind == "local" else _slurm(config, n_tasks)
            client = stack.enter_context(Client(stack.enter_context(cluster)))
        log.info("Dask dashboard: %s", client.dashboard_link or "none (is bokeh installed?)")
        if config.performance_report is not None:
            config.performance_report.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(performance_report(filename=str(config.performance_report)))
        stack.callback(
            lambda: _set_levels(dict.fromkeys(_chatty(), logging.CRITICAL))
        )  # nobody waits for the connections that end now
        try:
            yield client
        except KilledWorker as error:
            raise HepflowError(
                "workers died again and again, most likely for memory: fewer --cluster.workers, more --cluster.memory, or smaller tasks"
            ) from error
        finally:
            nanny = logging.getLogger(_NANNY)
            nanny.setLevel(
                max(nanny.level, logging.ERROR)
            )  # an idle worker that is slow to end is killed, and nobody's concern


def watch(
    client: Client,
    task: Callable[[Item], Result],
    items: Sequence[Item],
    label: str,
    unit: str,
    *,
    n_events: Callable[[Result], int] | None = None,
    failed: Callable[[Item], Result] | None = None,
    retries: int = 0,
) -> Iterator[Result]:
    """Run a task per item, in this order, and yield the results as they finish, with a bar.

    Parameters
    ----------
    client : Client
    task : callable
        Item -> result, in a worker.
    items : sequence
    label, unit : str
        Text before the bar, and what an item is, in the plural.
    n_events : callable, optional
        Events of a result: the bar shows their rate.
    failed : callable, optional
        Result for an item whose task killed its workers; without it `KilledWorker` is raised.
    retries : int
        Further attempts if the task raises an error.
    """
    futures = dict(zip(client.map(task, items, pure=False, retries=retries), items, strict=True))
    total, started = 0, time.perf_counter()
    with bar(label, len(futures)) as progress:
        for done, future in enumerate(as_completed(futures), start=1):
            try:
                result = future.result()
            except (KilledWorker, CancelledError):
                if failed is None:
                    raise
                result = failed(futures[future])
            note = f"{done:,}/{len(futures):,} {unit}"
            if n_events is not None:
                total += n_events(result)
                note += f", {total / (time.perf_counter() - started):,.0f} events/s"
            progress.advance(1, note)
            future.release()
            yield result


def _chatty() -> list[logging.Logger]:
    return [
        logging.getLogger(name)
        for name in list(logging.root.manager.loggerDict)
        if name.partition(".")[0] in _CHATTY
    ]


def _set_levels(levels: Mapping[logging.Logger, int]) -> None:
    for logger, level in levels.items():
        logger.setLevel(level)


def n_workers(config: ClusterConfig, n_tasks: int) -> int:
    """Worker processes of a local cluster."""
    return max(1, min(config.workers or processes.cores(), n_tasks))


def worker_memory(config: ClusterConfig, n_tasks: int = sys.maxsize) -> int | None:
    """Bytes a worker may use, None where only the running cluster knows.

    Raises
    ------
    ConfigError
        The configured memory is not a size.
    """
    if config.kind == "address":
        return None
    if config.memory == "auto":
        return (
            parse_bytes(_SLURM_MEMORY)
            if config.kind == "slurm"
            else MEMORY_LIMIT // n_workers(config, n_tasks)
        )
    try:
        return parse_bytes(config.memory)
    except ValueError as error:
        raise ConfigError(
            f"cluster.memory must be a size such as 4GiB, or auto; got {config.memory!r}"
        ) from error


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
        log.info("the largest task needs about %s in its worker", decimal(needed))
        return
    if needed > limit:
        raise ConfigError(
            f"the largest task needs about {decimal(needed)}, a worker has {decimal(limit)}: "
            "start fewer workers, raise --cluster.memory, or ingest with smaller row groups"
        )
    log.info("the largest task needs about %s of a worker's %s", decimal(needed), decimal(limit))


def _local(config: ClusterConfig, n_tasks: int) -> Cluster:
    with _deaf_to_interrupts():
        return LocalCluster(
            n_workers=n_workers(config, n_tasks),
            threads_per_worker=1,
            processes=True,
            memory_limit=worker_memory(config, n_tasks),
            dashboard_address=config.dashboard_address,
        )


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Threads and processes that begin in here leave Ctrl-C, which a terminal sends to all of them, to this thread, which ends them."""
    sys.warnoptions.append(
        "ignore::UserWarning:multiprocessing.resource_tracker"
    )  # it cleans up after a worker that is killed
    resource_tracker.ensure_running()  # it starts with the first process, and lets the signal through again
    sys.warnoptions.pop()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _slurm(config: ClusterConfig, n_tasks: int) -> Cluster:
    slurm = config.slurm
    lifetime, stagger = _lifetime(walltime_seconds(slurm.walltime))
    memory = worker_memory(config, n_tasks) or 0
    cluster = SLURMCluster(
        queue=slurm.partition,
        account=slurm.account,
        cores=slurm.workers_per_job,
        processes=slurm.workers_per_job,
        memory=format_bytes(memory * slurm.workers_per_job),
        walltime=slurm.walltime,
        interface=slurm.interface,
        job_script_prologue=[
            f"export DASK_INTERNAL_INHERIT_CONFIG={dask.config.serialize(SETTINGS)}",
            *slurm.prologue,
        ],
        job_extra_directives=list(slurm.directives),
        worker_extra_args=["--lifetime", f"{lifetime}s", "--lifetime-stagger", f"{stagger}s"],
        scheduler_options={"dashboard_address": config.dashboard_address},
    )
    try:
        _try_out(cluster.job_script())
    except ConfigError:
        cluster.close()
        raise
    most = min(slurm.max_jobs, -(-n_tasks // slurm.workers_per_job))
    cluster.adapt(minimum_jobs=min(slurm.min_jobs, most), maximum_jobs=most)
    return cluster


def walltime_seconds(walltime: str) -> int:
    """Seconds of a time limit in one of Slurm's formats: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S.

    Raises
    ------
    ConfigError
        It is none of them, or less than a minute.
    """
    days, dash, clock = walltime.rpartition("-")
    fields = clock.split(":")
    if len(fields) > 3 or not all(field.isdecimal() for field in (*fields, *[days] * len(dash))):
        raise ConfigError(
            f"cluster.slurm.walltime must be minutes, M:S, H:M:S, D-H, D-H:M or D-H:M:S, got {walltime!r}"
        )
    units = (3600, 60, 1) if dash or len(fields) == 3 else (60, 1)
    seconds = int(days or 0) * 86400 + sum(
        int(field) * unit for field, unit in zip(fields, units, strict=False)
    )
    if seconds < 60:
        raise ConfigError(f"cluster.slurm.walltime must be a minute at least, got {walltime!r}")
    return seconds


def _lifetime(walltime: int) -> tuple[int, int]:
    """Seconds after which a worker leaves, in good order and before Slurm ends it; and their spread, so that not all leave at once."""
    margin = min(300, max(30, walltime // 10))
    return walltime - margin, margin // 3


def _try_out(job_script: str) -> None:
    """Ask Slurm whether it would take a job: one that it refuses would be waited for without end."""
    try:
        answer = subprocess.run(
            ["sbatch", "--test-only"], input=job_script, capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise ConfigError(
            "cluster.kind slurm: there is no sbatch here. Run it on a machine that submits jobs, or choose kind local or address."
        ) from error
    if answer.returncode:
        raise ConfigError(
            f"cluster.slurm: Slurm would not take the jobs: {' '.join(answer.stderr.split())}"
        )


def _client_at(address: str) -> Client:
    try:
        return Client(address, timeout="30s")
    except (OSError, ValueError) as error:
        raise DataError(
            f"cluster.address: no Dask scheduler answers at {address} ({error}). Start one with `dask scheduler`."
        ) from error
