"""Parquet events -> jagged Zarr parts (Dask). One fragment makes one part; a rerun makes only what is missing or has changed."""

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from operator import attrgetter
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from hepflow.config.stages import FeaturesConfig
from hepflow.data.blocks import StoreSpec
from hepflow.data.events import EventsDataset, Fragment, empty_events, open_events
from hepflow.data.output import refuse_to_replace
from hepflow.data.provenance import digest
from hepflow.data.store import EventStore
from hepflow.engines import dask
from hepflow.errors import DataError
from hepflow.features.parts import compare_fragment, make_part
from hepflow.physics import own
from hepflow.physics.ablation import FEATURES, Change
from hepflow.schema import SPLITS
from hepflow.system import locks
from hepflow.system.terminal import counted

log = logging.getLogger(__name__)

_SETTINGS = ("classes", "definitions", "physics", "splits", "keep_bits")
"""What all parts of a store have in common."""
_INTERPRETER_BYTES = 470_000_000
"""A worker with its libraries, and what a task of any size needs."""
_BYTES_PER_BYTE = 10
"""Memory at the peak of a task a byte of uncompressed Parquet: the events, their features, and those again by split and class.

Both measured by benchmarks/scale.py, and compared with the truth at the end of every run."""


def run(config: FeaturesConfig) -> None:
    """Make the store of a dataset of events, or bring it up to date."""
    dataset = open_events(config.input, task_bytes(config))
    if config.compare_definitions:
        _compare(config, dataset)
        return
    spec = _spec(config, dataset)
    with locks.exclusive(config.output):
        if _up_to_date(config.output, spec, dataset):
            there = EventStore.open(config.output)
            log.info("%s is up to date: %s", config.output, there.summary())
            _warn_of_empty_classes(there)
            return
        if not config.overwrite:
            _check_replaceable(config.output, spec)
        store = EventStore.create(config.output, spec, keep=True)
        missing = _missing(store, dataset)
        if missing:
            _make_parts(config, store, missing)
        _finish(config.output, spec, dataset)


def memory_of_task(fragment: Fragment) -> int:
    """Bytes that a worker holds at most while it makes the part of a fragment, the interpreter included."""
    return _INTERPRETER_BYTES + _BYTES_PER_BYTE * fragment.n_bytes


def task_bytes(config: FeaturesConfig) -> int:
    """Uncompressed Parquet that a task may hold: as much as was asked for, and as a worker has room for."""
    wanted, memory = config.task_mb * 2**20, dask.worker_memory(config.cluster)
    return (
        wanted
        if memory is None
        else max(1, min(wanted, (memory - _INTERPRETER_BYTES) // _BYTES_PER_BYTE))
    )


def _compare(config: FeaturesConfig, dataset: EventsDataset) -> None:
    changes: dict[str, Change] = {}
    with dask.connect(config.cluster, len(dataset.fragments)) as client:
        for found in dask.watch(
            client, compare_fragment, dataset.fragments, "comparing", "fragments"
        ):
            changes = {
                name: changes[name] + change if changes else change
                for name, change in found.items()
            }
    for table in comparison_tables(changes):
        Console().print(table)
    n_before = changes["all together"].n_before
    log.info(
        "compared the definitions on %s that pass by the reference ones; nothing was written",
        counted(n_before, "event"),
    )


def comparison_tables(changes: Mapping[str, Change]) -> Iterable[Table]:
    """For a terminal: a row a difference; then a row a feature that it moves."""
    table = Table(
        "reference -> corrected, one at a time",
        "gained",
        "lost",
        "changed",
        title="events that pass by the reference definitions",
    )
    for name, change in changes.items():
        table.add_row(
            name,
            f"{change.gained:,}",
            f"{change.lost:,}",
            f"{change.changed:,} ({change.changed / max(change.n_before, 1):.1%})",
        )
    yield table
    table = Table(
        "difference",
        "feature",
        "events moved",
        "mean distance",
        "farthest",
        title="how far the features of those events move",
    )
    for name, change in changes.items():
        for i in np.flatnonzero(change.moved):
            moved = int(change.moved[i])
            table.add_row(
                name,
                FEATURES[i],
                f"{moved:,}",
                f"{change.distance[i] / moved:.3g}",
                f"{change.farthest[i]:.3g}",
            )
        table.add_section()
    yield table


def _spec(config: FeaturesConfig, dataset: EventsDataset) -> StoreSpec:
    hlf, particles = own.names(config.physics, config.definitions, empty_events())
    sources = sorted((fragment.name, fragment.fingerprint) for fragment in dataset.fragments)
    spec = StoreSpec(
        classes=dataset.classes,
        hlf=hlf,
        particles=particles,
        definitions=config.definitions,
        provenance="",
        splits={name: config.splits[name] for name in SPLITS},
        physics=own.identity(config.physics),
        keep_bits=config.keep_bits,
        input=dataset.provenance,
    )
    return replace(spec, provenance=digest(spec.settings, dataset.provenance, sources))


def _up_to_date(path: Path, spec: StoreSpec, dataset: EventsDataset) -> bool:
    """Whether the store is finished, of these events and settings, and no part was deleted because it was damaged."""
    try:
        store = EventStore.open(path)
    except DataError:
        return False
    return store.spec.provenance == spec.provenance and store.done() == {
        fragment.name for fragment in dataset.fragments
    }


def _check_replaceable(path: Path, spec: StoreSpec) -> None:
    """Refuse to replace a finished store of other settings; one whose events have changed is brought up to date."""
    try:
        there = EventStore.open(path).spec
    except DataError:
        return
    before, now = ({name: getattr(side, name) for name in _SETTINGS} for side in (there, spec))
    refuse_to_replace(path, "a store", before, now)


def _missing(store: EventStore, dataset: EventsDataset) -> list[Fragment]:
    """Fragments without a good part; parts of fragments that are gone or have changed are removed."""
    wanted = {fragment.name: fragment.fingerprint for fragment in dataset.fragments}
    there = store.sources()
    stale = [name for name, source in there.items() if wanted.get(name) != source]
    if stale:
        log.info(
            "removed %s, made from events that have changed or are no longer there",
            counted(len(stale), "part"),
        )
        store.discard(stale)
    good = there.keys() - set(stale)
    if good:
        log.info(
            "%s is up to date in %d of %s", store.path, len(good), counted(len(wanted), "part")
        )
    return [fragment for fragment in dataset.fragments if fragment.name not in good]


def _make_parts(config: FeaturesConfig, store: EventStore, missing: list[Fragment]) -> None:
    announced = max(memory_of_task(fragment) for fragment in missing)
    dask.check_memory(config.cluster, len(missing), announced)
    _compile(config)
    started = time.perf_counter()
    with dask.connect(config.cluster, len(missing)) as client:
        loose = own.loose_file(config.physics)
        if loose is not None:
            client.upload_file(str(loose))
        task = partial(make_part, store, physics=config.physics)
        longest_first = sorted(missing, key=lambda fragment: (-fragment.n_events, fragment.name))
        outcomes = list(
            dask.watch(
                client,
                task,
                longest_first,
                "features",
                "fragments",
                n_events=attrgetter("n_events"),
                retries=2,
            )
        )
    bad = [outcome for outcome in outcomes if outcome.error is not None]
    if bad:
        raise DataError(
            f"{len(bad):,} of {counted(len(missing), 'fragment')} could not be used; the rest is done. The first: {bad[0].error}"
        )
    elapsed = time.perf_counter() - started
    n_events = sum(outcome.n_events for outcome in outcomes)
    spent = {
        what: sum(outcome.seconds[what] for outcome in outcomes) for what in outcomes[0].seconds
    }
    shares = ", ".join(
        f"{what} {seconds / sum(spent.values()):.0%}" for what, seconds in spent.items()
    )
    rate = f"{n_events / elapsed:,.0f} events/s"
    log.info("%s in %.1f s, %s (time spent: %s)", counted(n_events, "event"), elapsed, rate, shares)
    peak = max(outcome.peak_bytes for outcome in outcomes)
    log.info(
        "memory: a worker process used up to %s (estimated before: %s)",
        decimal(peak),
        decimal(announced),
    )


def _compile(config: FeaturesConfig) -> None:
    """Fill numba's cache once, rather than in every worker."""
    started = time.perf_counter()
    own.load(config.physics)(empty_events(), config.definitions)
    if time.perf_counter() - started > 5.0:
        log.info(
            "compiled the physics in %.0f s; the next run finds it in numba's cache",
            time.perf_counter() - started,
        )


def _finish(path: Path, spec: StoreSpec, dataset: EventsDataset) -> None:
    store = EventStore(path, spec)
    ledger = store.ledger()
    if ledger.n_in != dataset.ledger.n_out:
        raise AssertionError(
            f"features counted {ledger.n_in} events, ingest {dataset.ledger.n_out}"
        )
    if ledger.n_out == 0:
        raise DataError(
            f"{dataset.path}: no event passes the trigger ({ledger.summary()}). Is it the right input, and are its units GeV?"
        )
    store.finalise()
    log.info("selection: %s", ledger.summary())
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    log.info("wrote %s: %s, %s", path, store.summary(), decimal(size))
    _warn_of_empty_classes(store)


def _warn_of_empty_classes(store: EventStore) -> None:
    counts = store.attributes["counts"]["train"]
    empty = [name for name in store.spec.classes if not counts[name]]
    if empty and store.spec.splits["train"]:
        which = f"class{'' if len(empty) == 1 else 'es'} {', '.join(empty)}"
        log.warning(
            "no events to train on of %s: `hepflow train` will refuse it. Look at what `hepflow ingest` lost, or add files.",
            which,
        )
