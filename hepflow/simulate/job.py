"""SimulateConfig -> ``<output>/<class>/<class>_0000.root`` and so on, each with a JSON sidecar.

One file is one job, seeded by its class, its number and the config's seed: the events do not depend on how many jobs run at once or in what
order. A file made with the same settings is left alone, so a rerun goes on where it stopped, and asking for more events adds files.
Files of other settings never stay beside the new ones: with ``overwrite`` they go, without it they are an error, as are longer ones.
"""

import logging
import multiprocessing
import queue
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hepflow.config.stages import SimulateConfig
from hepflow.data.output import refuse_to_replace
from hepflow.errors import ConfigError, HepflowError
from hepflow.schema import CLASSES
from hepflow.simulate.pool import ensure_pool, identity_of, load
from hepflow.simulate.sample import Sample, make_sample
from hepflow.system import locks, processes
from hepflow.system.files import read_json
from hepflow.system.terminal import MESSAGES, counted

log = logging.getLogger(__name__)

# the longest jobs first, so that none is left alone at the end
_SLOWEST_FIRST = ("qcd", "ttbar", "wjets")
_POLL_S = 0.2


def run(config: SimulateConfig) -> None:
    """Make the files that are missing."""
    samples = plan(config)
    missing = [sample for sample in samples if not sample.up_to_date]
    if len(missing) < len(samples):
        log.info(
            "%s is up to date in %d of %s",
            config.output,
            len(samples) - len(missing),
            counted(len(samples), "file"),
        )
    surplus = list(_surplus(samples))
    stale = [sample for sample in surplus if config.overwrite or not sample.made_alike]
    if kept := len(surplus) - len(stale):
        more = counted(kept, "file")
        log.info(
            "%s holds %s more than asked for, of the same settings: kept, --overwrite removes them",
            config.output,
            more,
        )
    if not missing and not stale:
        return
    with locks.exclusive(config.output):
        if config.overwrite:
            _remove(stale)
        else:
            _check_replaceable([*missing, *stale])
        if missing:
            _make_missing(config, samples, missing)


def _make_missing(
    config: SimulateConfig, samples: Sequence[Sample], missing: Sequence[Sample]
) -> None:
    start = time.perf_counter()
    if config.input is None:
        config.output.mkdir(parents=True, exist_ok=True)
        ensure_pool(missing[0].pool, config.pool, config.seed)
    with _progress_bar(samples, missing) as advance:
        _make(missing, min(config.jobs or processes.cores(), len(missing)), advance)
    total, seconds = sum(sample.target for sample in missing), time.perf_counter() - start
    log.info(
        "wrote %s with %s to %s in %.0f s",
        counted(len(missing), "file"),
        counted(total, "selected event"),
        config.output,
        seconds,
    )


def _check_replaceable(samples: Sequence[Sample]) -> None:
    """Refuse to replace files of other settings or of more events; what is missing or too short may be made."""
    for sample in samples:
        if sample.path.is_file() and sample.sidecar.is_file():
            about = read_json(sample.sidecar)
            refuse_to_replace(sample.folder, sample.path.name, about["settings"], sample.settings)
            if about["selected"] > sample.target:
                refuse_to_replace(
                    sample.folder,
                    sample.path.name,
                    {"events": about["selected"]},
                    {"events": sample.target},
                )


def _surplus(samples: Sequence[Sample]) -> Iterator[Sample]:
    """Files of these classes that an earlier run made, and this one does not."""
    planned = {sample.sidecar for sample in samples}
    for first in (sample for sample in samples if sample.index == 0):
        for path in sorted(set(first.sidecar.parent.glob(f"{first.name}_????*.json")) - planned):
            number = path.stem.removeprefix(f"{first.name}_")
            if number.isdecimal():
                yield replace(first, index=int(number))


def _remove(samples: Sequence[Sample]) -> None:
    for sample in samples:
        sample.path.unlink(missing_ok=True)
        sample.sidecar.unlink(missing_ok=True)  # last: by it the file is known
    if samples:
        log.info(
            "removed %s not asked for (the first: %s)",
            counted(len(samples), "file"),
            samples[0].path,
        )


def plan(config: SimulateConfig) -> list[Sample]:
    """The files of a config, the slowest first.

    Raises
    ------
    ConfigError
        No class is named, or one that is unknown, or one twice.
    """
    if (
        not config.classes
        or not set(config.classes) <= set(CLASSES)
        or len(set(config.classes)) < len(config.classes)
    ):
        raise ConfigError(
            f"classes: {', '.join(config.classes) or 'none'}; each must be one of {', '.join(CLASSES)}, and be named once"
        )
    if config.input is None:
        identity = identity_of(config.pool, config.seed)
        path = config.output / f".pool-{identity}.npz"
    else:
        path, identity = config.input, load(config.input).identity
    return [
        Sample(
            name=name,
            index=index,
            target=min(config.events_per_file, config.events - first),
            seed=config.seed,
            pileup=config.pileup,
            underlying_event=config.underlying_event,
            qcd_quarks=config.qcd_quarks,
            pool=path,
            pool_identity=identity,
            folder=config.output,
        )
        for name in sorted(config.classes, key=_SLOWEST_FIRST.index)
        for index, first in enumerate(range(0, config.events, config.events_per_file))
    ]


Advance = Callable[[str, int], None]


def _make(samples: Sequence[Sample], jobs: int, advance: Advance) -> None:
    if jobs == 1:
        for sample in samples:
            make_sample(sample, partial(advance, sample.name))
    else:
        _make_in_processes(samples, jobs, advance)


def _make_in_processes(samples: Sequence[Sample], jobs: int, advance: Advance) -> None:
    """Make samples in worker processes; whatever goes wrong here, Ctrl-C included, none of them is left behind."""
    context = multiprocessing.get_context("spawn")
    reports: multiprocessing.Queue[tuple[str, int]] = context.Queue()
    before = set(multiprocessing.active_children())
    executor = ProcessPoolExecutor(jobs, context, _start_worker, (reports,))
    try:
        futures = {executor.submit(_work, sample): sample for sample in samples}
        _await(futures, reports, advance)
        executor.shutdown()
    except BaseException:
        executor.shutdown(wait=False, cancel_futures=True)
        for worker in set(multiprocessing.active_children()) - before:
            worker.terminate()
        raise


def _await(
    futures: dict[Future[None], Sample],
    reports: "multiprocessing.Queue[tuple[str, int]]",
    advance: Advance,
) -> None:
    pending = set(futures)
    while pending:
        done, pending = wait(pending, timeout=_POLL_S, return_when=FIRST_COMPLETED)
        for name, n in _drain(reports):
            advance(name, n)
        for future in done:
            try:
                future.result()
            except BrokenProcessPool as error:
                unfinished = ", ".join(
                    sample.path.name for sample in futures.values() if not sample.up_to_date
                )
                raise HepflowError(
                    f"a simulation process died (out of memory, or a crash inside Pythia or FastJet); not made: {unfinished}. "
                    "Finished files are kept: run the same command again, with fewer --jobs if memory is short."
                ) from error
    for name, n in _drain(reports):
        advance(name, n)


def _drain(reports: "multiprocessing.Queue[tuple[str, int]]") -> Iterator[tuple[str, int]]:
    while True:
        try:
            yield reports.get_nowait()
        except queue.Empty:
            return


@contextmanager
def _progress_bar(samples: Sequence[Sample], missing: Sequence[Sample]) -> Iterator[Advance]:
    """A bar a class, of selected events; yields the function that moves it."""
    columns = (
        TextColumn("simulate {task.description:<6}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("selected,"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=MESSAGES) as progress:
        tasks = {}
        for name in dict.fromkeys(sample.name for sample in missing):
            wanted = sum(sample.target for sample in samples if sample.name == name)
            to_do = sum(sample.target for sample in missing if sample.name == name)
            tasks[name] = progress.add_task(name, total=wanted, completed=wanted - to_do)
        yield lambda name, n: progress.advance(tasks[name], n)


_reports: "multiprocessing.Queue[tuple[str, int]] | None" = None


def _start_worker(reports: "multiprocessing.Queue[tuple[str, int]]") -> None:
    global _reports  # noqa: PLW0603 - a worker process has one parent to report to
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the parent too, which ends the workers
    _reports = reports


def _work(sample: Sample) -> None:
    reports = _reports
    if reports is None:
        raise AssertionError("no queue: this function runs in a worker")
    make_sample(sample, lambda n: reports.put((sample.name, n)))
