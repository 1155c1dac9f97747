"""The only place that creates a Dask client: local, of batch jobs, in Spark, or of a scheduler."""

import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from importlib import import_module
from itertools import islice
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, TypeVar

import dask
from dask.utils import parse_bytes
from distributed import (
    Client,
    Future,
    LocalCluster,
    Security,
    Worker,
    WorkerPlugin,
    as_completed,
    performance_report,
)
from distributed.deploy.cluster import Cluster
from distributed.scheduler import KilledWorker
from distributed.system import MEMORY_LIMIT
from rich.filesize import decimal

from hepflow.config.engines import ClusterConfig
from hepflow.engines.batch import batch_cluster
from hepflow.engines.dask_security import OF_WORKERS, Access, keys_of_user
from hepflow.errors import ConfigError, DataError, HepflowError, one_line
from hepflow.system import processes
from hepflow.system.publishing import scratch
from hepflow.system.store_options import of_this_run
from hepflow.system.terminal import bar

log = logging.getLogger(__name__)
Item = TypeVar("Item")
Result = TypeVar("Result")

_KEYS: dict[str, Security] = {}
"""Address of the scheduler -> keys, of the clusters that this process has started."""
TASKS_AT_ONCE = 4_000
"""Tasks that a scheduler holds, each of which takes it up to tens of kB; enough for 1,000 cores."""
_CHATTY = ("distributed", "tornado", "asyncio")
_JOB_MEMORY = "4GiB"
# glibc returns large arrays to the kernel, which clears their pages for the next task: a quarter of
# the CPU time, and of the memory bandwidth that the workers of a machine share. All tasks are
# alike, so a worker keeps the memory of its largest one.
_MALLOC = {"MALLOC_ARENA_MAX": 1, "MALLOC_MMAP_MAX_": 0, "MALLOC_TRIM_THRESHOLD_": 2**40}
# The client reports failed tasks; tasks that end with their worker, and a scheduler that is gone
# after Ctrl-C, are expected. Low memory is worth a message. A worker sets up its logging before it
# reads any other setting.
_LEVELS = {"distributed.worker": "critical", "distributed.worker.memory": "info"}
_LOGGING = {"DASK_LOGGING": repr({**dask.config.get("logging", {}), **_LEVELS})}
SETTINGS = {
    # A worker that dies is no verdict on its task: a killed node takes many tasks with it.
    "distributed.scheduler.allowed-failures": 30,
    # Parts go to disk, so memory holds one task; spilling would only hide wrong estimates, and a
    # worker that pauses would do so indefinitely, as it keeps its memory.
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.pause": False,
    "distributed.comm.timeouts.connect": "60s",
    # A worker keeps 1,800 call trees, one per cycle, for the profile on the dashboard: with Dask's
    # cycle of 1 s its memory grew by 0.25 MB per second, for half an hour.
    "distributed.worker.profile.cycle": "60s",
} | {f"distributed.nanny.pre-spawn-environ.{k}": v for k, v in (_MALLOC | _LOGGING).items()}


def worker_environment() -> dict[str, str]:
    """Return the variables that worker processes start with."""
    with dask.config.set(SETTINGS):
        found = dask.config.get("distributed.nanny.pre-spawn-environ")
    return {name: str(value) for name, value in found.items()}


class _Variables(WorkerPlugin):
    """Sets variables of the environment in all workers, also those that start later."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self.variables = variables
        self.name = "hepflow-variables"

    def setup(self, worker: Worker) -> None:  # noqa: ARG002 - the caller is distributed
        """Set them."""
        os.environ.update(self.variables)


@contextlib.contextmanager
def dask_client(
    config: ClusterConfig, n_tasks: int, module: Path | None = None
) -> Iterator[Client]:
    """Yield a client of the configured cluster, which ends with the context unless it ran before.

    It is no larger than the number of tasks. Its workers get a copy of ``module``.
    """
    nanny = logging.getLogger("distributed.nanny")
    logging.getLogger("tornado.application").addFilter(_is_news)
    for name in (*_CHATTY, nanny.name):  # they report every connection
        logging.getLogger(name).setLevel(logging.WARNING)
    with contextlib.ExitStack() as stack:
        stack.callback(_set_levels, {logger: logger.level for logger in _chatty()})
        if config.kind == "address":
            stack.enter_context(dask.config.set(SETTINGS))
            client = stack.enter_context(_client_at(config))
            log.info("Dask dashboard: %s", client.dashboard_link)
        else:
            access, memory = Access(config.dashboard_address), worker_memory(config, n_tasks) or 0
            own = {"temporary-directory": str(scratch())}  # modules of the user are imported there
            stack.enter_context(dask.config.set(SETTINGS | access.settings | own))
            if config.kind == "local":
                new = _local(config, n_tasks, access)
            elif config.kind == "spark":
                settings = SETTINGS | OF_WORKERS | {"logging": _LEVELS}
                new = _in_spark().cluster(config, n_tasks, memory, access, settings, _MALLOC)
            else:
                new = batch_cluster(config, n_tasks, memory, access, SETTINGS | OF_WORKERS)
            cluster = stack.enter_context(new)
            access.close_other_pages(cluster.scheduler)
            _KEYS[cluster.scheduler_address] = access.keys
            stack.callback(_KEYS.pop, cluster.scheduler_address)
            client = stack.enter_context(Client(cluster))
            access.show(client.dashboard_link, config.kind)
        if config.performance_report is not None:
            config.performance_report.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(performance_report(filename=str(config.performance_report)))
        # At the end, connections close; their errors concern nobody.
        stack.callback(lambda: _set_levels(dict.fromkeys(_chatty(), logging.CRITICAL)))
        if variables := of_this_run():
            client.register_plugin(_Variables(variables))
        if module is not None:
            client.upload_file(str(module))
        try:
            yield client
        except KilledWorker as error:
            what = "workers kept dying, probably out of memory. Use fewer --cluster.workers"
            advice = "raise --cluster.memory, or make the tasks smaller."
            raise HepflowError(f"{what}, {advice}") from error
        finally:
            # An idle worker that is slow to end is killed, which is no news.
            nanny.setLevel(max(nanny.level, logging.ERROR))


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
    """Run ``task`` on each item in a worker, and yield the results as they finish, with a bar.

    The bar counts items by their ``unit``, and shows the rate of ``n_events`` of the results.
    ``failed`` gives the result of an item that killed its workers; without it `KilledWorker` is
    raised. A task that raises an error is run up to ``retries`` times more. The scheduler holds
    `TASKS_AT_ONCE` of them.
    """
    left, waiting = iter(items), dict[Future, Item]()

    def more() -> list[Future]:
        own = list(islice(left, TASKS_AT_ONCE - len(waiting)))
        futures = client.map(task, own, pure=False, retries=retries)
        waiting.update(zip(futures, own, strict=True))
        return futures

    total, started = 0, time.perf_counter()
    with bar(label, len(items)) as progress:
        finished = as_completed(more())
        for done, future in enumerate(finished, start=1):
            item = waiting.pop(future)
            try:
                result = future.result()
            except (KilledWorker, CancelledError):
                if failed is None:
                    raise
                result = failed(item)
            if len(waiting) <= TASKS_AT_ONCE // 2:
                finished.update(more())
            note = f"{done:,}/{len(items):,} {unit}"
            if n_events is not None:
                total += n_events(result)
                note += f", {total / (time.perf_counter() - started):,.0f} events/s"
            progress.advance(1, note)
            future.release()
            yield result


def _is_news(record: logging.LogRecord) -> bool:
    """Return False for distributed's NameError when Ctrl-C hits a call that has not begun yet."""
    return "sync.<locals>.cancel" not in record.getMessage()


def _chatty() -> list[logging.Logger]:
    names = list(logging.root.manager.loggerDict)
    return [logging.getLogger(name) for name in names if name.partition(".")[0] in _CHATTY]


def _set_levels(levels: Mapping[logging.Logger, int]) -> None:
    for logger, level in levels.items():
        logger.setLevel(level)


def n_workers(config: ClusterConfig, n_tasks: int) -> int:
    """Return the number of worker processes of a local cluster."""
    return max(1, min(config.workers or processes.cores(), n_tasks))


def worker_memory(config: ClusterConfig, n_tasks: int = sys.maxsize) -> int | None:
    """Return the bytes that a worker may use; None for a running cluster, where it is not known."""
    if config.kind == "address":
        return None
    if config.memory == "auto" and config.kind == "local":
        return MEMORY_LIMIT // n_workers(config, n_tasks)
    if config.memory == "auto" and config.kind == "spark":
        return int(_in_spark().auto_memory(config, n_tasks))
    try:
        return parse_bytes(_JOB_MEMORY if config.memory == "auto" else config.memory)
    except ValueError as error:
        wanted = "a size such as 4GiB, or auto"
        raise ConfigError(f"cluster.memory must be {wanted}; got {config.memory!r}") from error


def prepare(config: ClusterConfig, paths: Mapping[str, Path | str]) -> None:
    """For kind spark, log in and check the paths (by option) as the stages on Spark do."""
    if config.kind == "spark":
        _in_spark().engine.prepare(config.spark, paths)


def nothing_to_do(config: ClusterConfig) -> None:
    """Without a task, start and stop Spark if YARN expects it of this process."""
    if config.kind == "spark":
        _in_spark().engine.nothing_to_do(config.spark, _in_spark().NAME)


def check_memory(config: ClusterConfig, n_tasks: int, needed: int) -> None:
    """Log the bytes that the largest task needs; raise a ConfigError if workers have less."""
    limit, need = worker_memory(config, n_tasks), f"the largest task needs about {decimal(needed)}"
    if limit is not None and needed > limit:
        advice = "raise --cluster.memory, or ingest with smaller row groups."
        what = f"{need}, a worker has {decimal(limit)}"
        raise ConfigError(f"{what}. Use fewer --cluster.workers, {advice}")
    log.info("%s %s", need, "in its worker" if limit is None else f"of {decimal(limit)}")


def _local(config: ClusterConfig, n_tasks: int, access: Access) -> Cluster:
    # A terminal sends Ctrl-C to all processes. The threads and processes that start here block it,
    # so that this thread alone gets it, and ends them. The resource tracker starts with the first
    # process and would unblock the signal, so it is started before; its warning about a killed
    # worker, after which it cleans up, is silenced.
    sys.warnoptions.append("ignore::UserWarning:multiprocessing.resource_tracker")
    resource_tracker.ensure_running()
    sys.warnoptions.pop()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return LocalCluster(
            n_workers=n_workers(config, n_tasks),
            threads_per_worker=1,
            processes=True,
            memory_limit=worker_memory(config, n_tasks),
            local_directory=str(scratch()),
            security=access.keys,
            scheduler_kwargs=access.scheduler,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _in_spark() -> Any:
    """Import Spark, which no other cluster needs; without it, the first module names the extra."""
    import_module("hepflow.engines.spark")
    return import_module("hepflow.engines.dask_on_spark")


def _client_at(config: ClusterConfig) -> Client:
    address = str(config.address)
    keys = _KEYS.get(address) or keys_of_user(address, config.tls)
    try:
        return Client(address, timeout="30s", security=keys)
    except (OSError, ValueError) as error:
        what = f"no Dask scheduler responds at {address} ({one_line(error)})"
        raise DataError(f"cluster.address: {what}. Start one with `dask scheduler`.") from error
