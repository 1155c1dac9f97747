"""SimulateConfig -> ``<output>/<class>/<class>_0000.root`` and so on, each with a JSON sidecar.

One file is one job, seeded by its class, its number and the config's seed: the events depend
neither on the number of parallel jobs nor on their order. Files with the same settings are kept, so
a rerun resumes, and asking for more events adds files. Files with other settings never stay next to
the new ones: with ``overwrite`` they are removed, without it they are an error, as are longer ones.
With ``delphes``, Delphes is the detector instead of the parametric one.
"""

import logging
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from importlib import import_module
from types import ModuleType

from hepflow.config.stages import SimulateConfig
from hepflow.data.output import refuse_to_replace
from hepflow.errors import ConfigError, HepflowError, MissingDependency
from hepflow.schema import CLASSES
from hepflow.simulate.delphes_card import read_card
from hepflow.simulate.pool import SEED, ensure_pool, identity_of, load, place
from hepflow.simulate.sample import Sample, make_sample
from hepflow.system import locks, processes
from hepflow.system.storage import listed, make_folder, remove_all
from hepflow.system.terminal import bars, counted

log = logging.getLogger(__name__)

# the longest jobs first, so that none of them remains alone at the end
_SLOWEST_FIRST = ("qcd", "ttbar", "wjets")
_POLL_S = 0.2
Advance = Callable[[str, int], None]
Make = Callable[[Sample, Callable[[int], None]], None]


def run(config: SimulateConfig) -> None:
    """Write the missing files."""
    samples = plan(config)
    missing = [sample for sample in samples if not sample.up_to_date]
    n_done, n_files = len(samples) - len(missing), counted(len(samples), "file")
    if n_done:
        log.info("%s is up to date in %d of %s", config.output, n_done, n_files)
    surplus = list(_surplus(samples))
    stale = [sample for sample in surplus if config.overwrite or not sample.same_settings]
    if kept := len(surplus) - len(stale):
        text = "%s contains %s more than requested, of the same settings; --overwrite removes them"
        log.info(text, config.output, counted(kept, "file"))
    if not missing and not stale:
        return
    delphes = _delphes() if missing and config.delphes is not None else None
    program = delphes.find_program() if delphes else None
    with locks.exclusive(config.output, *config.classes):
        if not config.overwrite:
            _check_replaceable([*missing, *stale])
        elif stale:
            remove_all(sample.path for sample in stale)
            remove_all(sample.sidecar for sample in stale)  # last: it marks the file as ours
            n_removed = counted(len(stale), "file")
            log.info("removed %s not requested (first: %s)", n_removed, stale[0].path)
        if missing:
            start = time.perf_counter()
            jobs = config.jobs or processes.cores()
            if config.input is None:
                make_folder(config.output)
                ensure_pool(missing[0].pool, config.pool, SEED, jobs)
            make: Make = make_sample
            if delphes:
                first = missing[0]
                make = partial(
                    delphes.make_sample, delphes.prepare(first.card, program, first.pool)
                )
            _make(samples, missing, min(jobs, len(missing)), make)
            n_events = counted(sum(sample.target for sample in missing), "selected event")
            n_files, seconds = counted(len(missing), "file"), time.perf_counter() - start
            log.info("wrote %s with %s to %s in %.0f s", n_files, n_events, config.output, seconds)


def plan(config: SimulateConfig) -> list[Sample]:
    """Return the files of a config, the slowest first."""
    classes = set(config.classes)
    if not classes or not classes <= set(CLASSES) or len(classes) < len(config.classes):
        got, known = ", ".join(config.classes) or "none", ", ".join(CLASSES)
        raise ConfigError(f"classes: got {got}; each must be one of {known}, and only once")
    if config.input is None:
        identity = identity_of(config.pool, SEED)
        path = place(config.output, identity)
    else:
        path, identity = config.input, load(config.input).identity
    card = None if config.delphes is None else read_card(config.delphes)
    firsts, size = range(0, config.events, config.events_per_file), config.events_per_file
    targets = [min(size, config.events - first) for first in firsts]
    return [
        Sample(config, name, index, target, path, identity, card)
        for name in sorted(config.classes, key=_SLOWEST_FIRST.index)
        for index, target in enumerate(targets)
    ]


def _delphes() -> ModuleType:
    """Return the module of the other detector: few users have what it needs."""
    try:
        return import_module("hepflow.simulate.delphes")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("hepflow"):
            raise
        needed = f"--delphes needs the package {error.name!r}"
        raise MissingDependency(f"{needed}. Run: pip install 'hepflow[delphes]'") from error


def _surplus(samples: Sequence[Sample]) -> Iterator[Sample]:
    """Yield files of these classes from an earlier run that are not in this one."""
    planned = {sample.sidecar for sample in samples}
    for first in (sample for sample in samples if sample.index == 0):
        for path in sorted(set(listed(first.sidecar.parent, f"{first.name}_????*.json")) - planned):
            number = path.stem.removeprefix(f"{first.name}_")
            if number.isdecimal():
                yield replace(first, index=int(number))


def _check_replaceable(samples: Sequence[Sample]) -> None:
    """Refuse to replace files with other settings or more events; shorter ones may be replaced."""
    for sample in samples:
        if sample.path.is_file() and (about := sample.about):
            longer = sample.requested > sample.target
            before = about["settings"] | ({"events": sample.requested} if longer else {})
            now = sample.settings | {"events": sample.target}
            refuse_to_replace(sample.config.output, sample.path.name, before, now)


def _make(samples: Sequence[Sample], missing: Sequence[Sample], jobs: int, make: Make) -> None:
    """Write the missing samples, with a bar of selected events per class."""
    total, done = Counter[str](), Counter[str]()
    for sample in samples:
        total[sample.name] += sample.target
        done[sample.name] += sample.target
    for sample in missing:
        done[sample.name] -= sample.target
    with bars() as new:
        names = dict.fromkeys(sample.name for sample in missing)
        rows = {name: new(f"simulate {name}", total[name], done[name]) for name in names}

        def advance(name: str, n: int) -> None:
            done[name] += n
            rows[name].update(done[name], f"{done[name]:,} of {total[name]:,} selected")

        if jobs > 1:
            _make_in_processes(missing, jobs, make, advance)
        else:
            for sample in missing:
                make(sample, partial(advance, sample.name))


def _make_in_processes(samples: Sequence[Sample], jobs: int, make: Make, advance: Advance) -> None:
    """Write samples in worker processes; none of them survives an error, Ctrl-C, or a kill."""
    context = multiprocessing.get_context("spawn")
    reports: multiprocessing.Queue[tuple[str, int]] = context.Queue()
    before = set(multiprocessing.active_children())
    executor = ProcessPoolExecutor(jobs, context, processes.begin, (_keep, reports))
    try:
        pending = {executor.submit(_work, make, sample) for sample in samples}
        while pending:
            done, pending = wait(pending, timeout=_POLL_S, return_when=FIRST_COMPLETED)
            while not reports.empty():
                advance(*reports.get())
            for future in done:
                future.result()
        executor.shutdown()
    except BaseException as error:
        executor.shutdown(wait=False, cancel_futures=True)
        for worker in set(multiprocessing.active_children()) - before:
            worker.terminate()
        if isinstance(error, BrokenProcessPool):
            unfinished = [sample.path.name for sample in samples if not sample.up_to_date]
            raise HepflowError(
                "a simulation process died (out of memory, or a crash in Pythia or FastJet); not "
                f"written: {', '.join(unfinished)}. Finished files are kept: run the same command "
                "again, with fewer --jobs if memory is short."
            ) from error
        raise


_reports: "multiprocessing.Queue[tuple[str, int]] | None" = None


def _keep(reports: "multiprocessing.Queue[tuple[str, int]]") -> None:
    global _reports  # noqa: PLW0603 - a worker process reports to its only parent
    _reports = reports


def _work(make: Make, sample: Sample) -> None:
    reports = _reports
    assert reports is not None, "this function runs in a worker"
    make(sample, lambda n: reports.put((sample.name, n)))
