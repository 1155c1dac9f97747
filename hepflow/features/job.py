"""Parquet events -> jagged Zarr arrays (Dask). A rerun makes only the parts that changed."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import attrgetter
from pathlib import Path

import awkward as ak
import numpy as np
from rich.filesize import decimal
from rich.table import Table

from hepflow.config.stages import FeaturesConfig
from hepflow.data.blocks import StoreSpec
from hepflow.data.events import EventsDataset, Fragment, empty_events, open_events
from hepflow.data.provenance import digest
from hepflow.data.records import write_plan
from hepflow.data.store import EventStore
from hepflow.data.store_writer import StoreWriter, check_replaceable
from hepflow.engines import dask
from hepflow.errors import DataError
from hepflow.features.packing import PlannedPart, plan_parts
from hepflow.features.parts import compare_fragment, make_part
from hepflow.physics import own
from hepflow.physics.ablation import FEATURES, Change, compare
from hepflow.schema import SPLITS
from hepflow.system import locks
from hepflow.system.storage import sizes_below
from hepflow.system.terminal import counted, show, table

log = logging.getLogger(__name__)

# Settings that all parts of a store have in common
_SETTINGS = ("classes", "definitions", "physics", "splits", "keep_bits")
# Checked by benchmarks/scale.py, and compared with the real peak after every run
_INTERPRETER_BYTES = 470_000_000  # of a worker with its libraries, without events
_BYTES_PER_BYTE = 10  # peak of a task per byte of uncompressed Parquet: events and features


def run(config: FeaturesConfig) -> None:
    """Make the store of a dataset of events, or bring it up to date."""
    dask.prepare(config.cluster, {"input": config.input, "output": config.output})
    dataset = open_events(config.input, task_bytes(config))
    if config.compare_definitions:
        _compare(config, dataset)
        return
    spec = spec_of(config, dataset)
    path = config.output
    with locks.exclusive(path):
        if (store := _up_to_date(path, spec, dataset)) is not None:
            log.info("%s is up to date: %s", path, store.summary())
            _warn_of_empty_classes(store)
            StoreWriter(path, spec).tidy()
            dask.nothing_to_do(config.cluster)
            return
        if not config.overwrite:
            check_replaceable(path, spec, _SETTINGS)
        store = StoreWriter.create(path, spec, keep=True)
        if missing := _missing(config, store, dataset):
            _make_parts(config, store, missing)
            store.refresh()
            if late := len({part.number for part in missing} - store.sources().keys()):
                what = f"the store does not list {late:,} of {len(missing):,} new parts yet"
                raise DataError(f"{path}: {what}. Run the same command again later.")
        else:
            dask.nothing_to_do(config.cluster)
        ledger, n_in = store.ledger(), dataset.ledger.n_out
        if ledger.n_in != n_in:
            raise AssertionError(f"features counted {ledger.n_in} events, ingest {n_in}")
        if ledger.n_out == 0:
            what = f"no event passes the trigger ({ledger.summary()})"
            raise DataError(f"{dataset.path}: {what}. Is it the right input, with units of GeV?")
        store.finalise()
        log.info("selection: %s", ledger.summary())
        size = decimal(sum(sizes_below(path).values()))
        log.info("wrote %s: %s, %s", path, store.summary(), size)
        _warn_of_empty_classes(store)


def memory_of_task(fragments: Sequence[Fragment]) -> int:
    """Return the most bytes that a worker uses for a round, including the interpreter."""
    return _INTERPRETER_BYTES + _BYTES_PER_BYTE * sum(fragment.n_bytes for fragment in fragments)


def task_bytes(config: FeaturesConfig) -> int:
    """Return the uncompressed bytes per task: as configured, unless a worker has less memory."""
    wanted, memory = config.task_mb * 2**20, dask.worker_memory(config.cluster)
    if memory is None:
        return wanted
    return max(1, min(wanted, (memory - _INTERPRETER_BYTES) // _BYTES_PER_BYTE))


def _compare(config: FeaturesConfig, dataset: EventsDataset) -> None:
    changes: dict[str, Change] = {}
    fragments = [replace(one, path=one.path.absolute()) for one in dataset.fragments]
    with dask.dask_client(config.cluster, len(fragments)) as client:
        for found in dask.watch(client, compare_fragment, fragments, "comparing", "fragments"):
            for name, change in found.items():
                changes[name] = changes[name] + change if name in changes else change
    show(*_tables(changes))
    n_events = counted(changes["all together"].n_before, "event")
    message = "compared the definitions on %s that pass by the reference ones; nothing was written"
    log.info(message, n_events)


def compare_definitions(events: ak.Array) -> tuple[Table, Table]:
    """Return, for a notebook, what each difference between the definitions does to the events."""
    return _tables(compare(events))


def _tables(changes: Mapping[str, Change]) -> tuple[Table, Table]:
    """Return two tables: a row per difference, and a row per feature that a difference moves."""
    counts, moves = [], []
    for name, change in changes.items():
        changed = f"{change.changed:,} ({change.changed / max(change.n_before, 1):.1%})"
        counts.append((name, f"{change.gained:,}", f"{change.lost:,}", changed))
        for i in np.flatnonzero(change.moved):
            n, farthest = int(change.moved[i]), f"{change.farthest[i]:.3g}"
            moves.append((name, FEATURES[i], f"{n:,}", f"{change.distance[i] / n:.3g}", farthest))
    head = ["reference -> corrected, one at a time", "gained", "lost", "changed"]
    first = table(head, counts, "events that pass by the reference definitions")
    head = ["difference", "feature", "events moved", "mean distance", "farthest"]
    return first, table(head, moves, "how far the features of those events move")


def spec_of(config: FeaturesConfig, dataset: EventsDataset) -> StoreSpec:
    """Return the description of the store of a dataset."""
    spec = StoreSpec(
        dataset.classes,
        *own.names(config.physics, config.definitions, empty_events()),
        config.definitions,
        provenance="",
        splits={name: config.splits[name] for name in SPLITS},
        physics=own.identity(config.physics),
        keep_bits=config.keep_bits,
        input=dataset.provenance,
    )
    sources = sorted((fragment.name, fragment.fingerprint) for fragment in dataset.fragments)
    return replace(spec, provenance=digest(spec.settings, dataset.provenance, sources))


def _up_to_date(path: Path, spec: StoreSpec, dataset: EventsDataset) -> EventStore | None:
    """Return the store, if it is finished, of these events and settings, and has all its files."""
    try:
        store = EventStore.open(path)
    except DataError:
        return None
    present = {name for sources in store.sources().values() for name in sources}
    complete = present == {fragment.name for fragment in dataset.fragments}
    same = complete and store.spec.provenance == spec.provenance
    return store if same and not store.incomplete() else None


def _missing(
    config: FeaturesConfig, store: StoreWriter, dataset: EventsDataset
) -> list[PlannedPart]:
    """Discard the parts of fragments that changed, and return the parts to make."""
    missing, stale = plan_parts(store, dataset.fragments, int(config.part_mb * 2**20))
    write_plan(store.path, {part.number: part.sources for part in missing})
    if stale:
        parts = counted(len(stale), "part")
        log.info("removed %s: events or files of the store have changed or are missing", parts)
        store.discard(stale)
    if good := len(store.sources()):
        n_parts = counted(good + len(missing), "part")
        log.info("%s is up to date in %d of %s", store.path, good, n_parts)
    return missing


def _make_parts(config: FeaturesConfig, store: StoreWriter, missing: list[PlannedPart]) -> None:
    round_bytes = task_bytes(config)
    rounds = (own for part in missing for own in part.rounds(round_bytes))
    announced = max(map(memory_of_task, rounds))
    dask.check_memory(config.cluster, len(missing), announced)
    started = time.perf_counter()
    own.load(config.physics)(empty_events(), config.definitions)  # one worker compiles, not all
    if (seconds := time.perf_counter() - started) > 5.0:
        log.info("compiled the physics in %.0f s; the next run uses numba's cache", seconds)
    started = time.perf_counter()
    there = StoreWriter(store.path.absolute(), store.spec)  # workers may run in another folder
    task = partial(make_part, there, physics=config.physics, round_bytes=round_bytes)
    longest_first = sorted(missing, key=lambda part: (-part.n_events, part.number))
    count = attrgetter("n_events")
    with dask.dask_client(config.cluster, len(missing), own.loose_file(config.physics)) as client:
        items, words = [part.absolute() for part in longest_first], ("features", "parts")
        done = list(dask.watch(client, task, items, *words, n_events=count, retries=2))
    if bad := [outcome for outcome in done if outcome.error is not None]:
        what = f"{len(bad):,} of {counted(len(missing), 'part')} could not be made"
        raise DataError(f"{what}; the rest is done. The first: {bad[0].error}")
    elapsed = time.perf_counter() - started
    n_events = sum(outcome.n_events for outcome in done)
    spent = {what: sum(outcome.seconds[what] for outcome in done) for what in done[0].seconds}
    fractions = ", ".join(f"{what} {s / sum(spent.values()):.0%}" for what, s in spent.items())
    rate = f"{n_events / elapsed:,.0f} events/s"
    log.info("%s in %.1f s, %s (%s)", counted(n_events, "event"), elapsed, rate, fractions)
    peak, estimate = decimal(max(outcome.peak_bytes for outcome in done)), decimal(announced)
    log.info("memory: a worker process used up to %s (estimated before: %s)", peak, estimate)


def _warn_of_empty_classes(store: EventStore) -> None:
    counts = store.attributes["counts"]["train"]
    empty = [name for name in store.spec.classes if not counts[name]]
    if empty and store.spec.splits["train"]:
        what = f"class{'' if len(empty) == 1 else 'es'} {', '.join(empty)}"
        advice = "Check the losses reported by `hepflow ingest`, or add files."
        message = "no training events of %s; `hepflow train` will refuse this store. %s"
        log.warning(message, what, advice)
