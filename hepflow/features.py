"""Parquet events -> jagged Zarr parts (Dask). One fragment makes one part; a rerun makes only what is missing or has changed."""

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import awkward as ak
import numpy as np
from dask.utils import format_bytes
from distributed import Client, as_completed
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn, track
from rich.table import Table

from hepflow import clusters, locks
from hepflow.config import FeaturesConfig
from hepflow.errors import DataError
from hepflow.fragments import EventsDataset, Fragment, empty_events, open_events, read_fragment
from hepflow.identity import split_index
from hepflow.ledger import Ledger, digest
from hepflow.physics import own
from hepflow.physics.ablation import FEATURES, Change, compare
from hepflow.physics.features import FeatureSet
from hepflow.schema import SPLITS
from hepflow.store import EventBlock, EventStore, StoreSpec

log = logging.getLogger(__name__)

_INTERPRETER_BYTES = 400_000_000  # a worker with its libraries, with room to spare
_BYTES_PER_BYTE = 12  # memory of a task at its peak per byte of Parquet, a cautious guess: Arrow, features, and the parts' copies


@dataclass(frozen=True)
class Outcome:
    """What a task tells of its part."""

    name: str
    n_events: int
    seconds: Mapping[str, float]
    """Wall time of reading, physics and writing."""
    error: str | None = None
    """What was wrong with the fragment."""


def run(config: FeaturesConfig) -> None:
    """Make the store of a dataset of events, or bring it up to date."""
    dataset = open_events(config.input, config.task_mb * 2**20)
    if config.compare_definitions:
        _compare(config, dataset)
        return
    spec = _spec(config, dataset)
    with locks.exclusive(config.output):
        if _up_to_date(config.output, spec):
            log.info("%s is up to date: %s", config.output, EventStore.open(config.output).summary())
            return
        store = EventStore.create(config.output, spec, keep=True)
        missing = _missing(store, dataset)
        if missing:
            _make_parts(config, store, missing)
        _finish(config.output, spec, dataset)


def make_part(store: EventStore, fragment: Fragment, physics: str | None) -> Outcome:
    """Read a fragment, compute its features and write its part. This is a task: it runs in a worker.

    Parameters
    ----------
    store : EventStore
    fragment : Fragment
    physics : str or None
        A user's own, see `hepflow.physics.own.load`.
    """
    clock = [time.perf_counter()]
    try:
        events = read_fragment(fragment)
        clock.append(time.perf_counter())
        features = own.check(own.load(physics)(events, store.spec.definitions), len(events), physics or "physics")
        clock.append(time.perf_counter())
        blocks = split_blocks(features, events, store.spec)
    except DataError as error:
        return Outcome(
            fragment.name, fragment.n_events, {}, str(error) if str(fragment.path) in str(error) else f"{fragment.path}: {error}"
        )
    ledger = Ledger(n_in=len(events), n_out=len(features.index), rejected=dict(features.rejected))
    store.write_part(fragment.name, blocks, ledger, source=fragment.fingerprint)
    clock.append(time.perf_counter())
    return Outcome(fragment.name, len(events), dict(zip(("reading", "physics", "writing"), np.diff(clock).tolist(), strict=True)))


def split_blocks(features: FeatureSet, events: ak.Array, spec: StoreSpec) -> dict[tuple[str, str], EventBlock]:
    """The features of a chunk by split and class.

    Raises
    ------
    DataError
        A label is none of the classes'.
    """
    label = ak.to_numpy(events["label"])[features.index]
    event_id = ak.to_numpy(events["event_id"])[features.index]
    if len(label) and not 0 <= label.min() <= label.max() < len(spec.classes):
        msg = f"labels from {label.min()} to {label.max()}, but there are {len(spec.classes)} classes. Run `hepflow ingest` again."
        raise DataError(msg)
    split = split_index(event_id, {name: spec.splits[name] for name in SPLITS})
    counts = np.diff(features.offsets)
    blocks = {}
    for i, split_name in enumerate(SPLITS):
        for j, class_name in enumerate(spec.classes):
            rows = (split == i) & (label == j)
            if rows.any():
                blocks[split_name, class_name] = EventBlock(
                    hlf=features.hlf[rows],
                    particles=features.particles[np.repeat(rows, counts)],
                    offsets=np.concatenate([[0], np.cumsum(counts[rows])]),
                    label=label[rows].astype(np.int8),
                    event_id=event_id[rows],
                )
    return blocks


def compare_fragment(fragment: Fragment) -> dict[str, Change]:
    """What each difference between the definitions does to a fragment. A task."""
    return compare(read_fragment(fragment))


def _compare(config: FeaturesConfig, dataset: EventsDataset) -> None:
    changes: dict[str, Change] = {}
    with clusters.connect(config.cluster, len(dataset.fragments)) as client:
        futures = client.map(compare_fragment, dataset.fragments, pure=False)
        for _, found in track(as_completed(futures, with_results=True), "comparing", total=len(futures)):
            changes = {name: changes[name] + change if changes else change for name, change in found.items()}
    for table in comparison_tables(changes):
        Console().print(table)
    n_before = changes["all together"].n_before
    log.info("compared the definitions on %d events that pass by the reference ones; nothing was written", n_before)


def comparison_tables(changes: Mapping[str, Change]) -> Iterable[Table]:
    """For a terminal: a row a difference; then a row a feature that it moves."""
    table = Table(
        "reference -> corrected, one at a time", "gained", "lost", "changed", title="events that pass by the reference definitions"
    )
    for name, change in changes.items():
        table.add_row(
            name, f"{change.gained:,}", f"{change.lost:,}", f"{change.changed:,} ({change.changed / max(change.n_before, 1):.1%})"
        )
    yield table
    table = Table("difference", "feature", "events moved", "mean distance", "farthest", title="how far the features of those events move")
    for name, change in changes.items():
        for i in np.flatnonzero(change.moved):
            moved = int(change.moved[i])
            table.add_row(name, FEATURES[i], f"{moved:,}", f"{change.distance[i] / moved:.3g}", f"{change.farthest[i]:.3g}")
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
        input=dataset.provenance,
    )
    return replace(spec, provenance=digest(spec.settings, dataset.provenance, sources))


def _up_to_date(path: Path, spec: StoreSpec) -> bool:
    try:
        return EventStore.open(path).spec.provenance == spec.provenance
    except DataError:
        return False


def _missing(store: EventStore, dataset: EventsDataset) -> list[Fragment]:
    """Fragments without a good part; parts of fragments that are gone or have changed are removed."""
    wanted = {fragment.name: fragment.fingerprint for fragment in dataset.fragments}
    there = store.sources()
    stale = [name for name, source in there.items() if wanted.get(name) != source]
    if stale:
        log.info("%d parts are of fragments that have changed or gone: removed", len(stale))
        store.discard(stale)
    good = there.keys() - set(stale)
    if good:
        log.info("%d of %d fragments are done already", len(good), len(wanted))
    return [fragment for fragment in dataset.fragments if fragment.name not in good]


def _make_parts(config: FeaturesConfig, store: EventStore, missing: list[Fragment]) -> None:
    largest = max(fragment.n_bytes for fragment in missing)
    clusters.check_memory(config.cluster, len(missing), _INTERPRETER_BYTES + _BYTES_PER_BYTE * largest)
    _compile(config)
    started = time.perf_counter()
    with clusters.connect(config.cluster, len(missing)) as client:
        loose = own.loose_file(config.physics)
        if loose is not None:
            client.upload_file(str(loose))
        outcomes = list(_watch(client, store, missing, config.physics))
    bad = [outcome for outcome in outcomes if outcome.error is not None]
    if bad:
        msg = f"{len(bad)} of {len(missing)} fragments could not be used; the rest is done. The first: {bad[0].error}"
        raise DataError(msg)
    elapsed = time.perf_counter() - started
    n_events = sum(outcome.n_events for outcome in outcomes)
    spent = {what: sum(outcome.seconds[what] for outcome in outcomes) for what in outcomes[0].seconds}
    shares = ", ".join(f"{what} {seconds / sum(spent.values()):.0%}" for what, seconds in spent.items())
    log.info("%d events in %.1f s, %.0f events/s (of the workers' time: %s)", n_events, elapsed, n_events / elapsed, shares)


def _compile(config: FeaturesConfig) -> None:
    """Fill numba's cache once, rather than in every worker."""
    started = time.perf_counter()
    own.load(config.physics)(empty_events(), config.definitions)
    if time.perf_counter() - started > 5.0:
        log.info("compiled the physics in %.0f s; the next run finds it in numba's cache", time.perf_counter() - started)


def _watch(client: Client, store: EventStore, fragments: list[Fragment], physics: str | None) -> Iterable[Outcome]:
    """Submit a task a fragment, longest first, and show how they end."""
    longest_first = sorted(fragments, key=lambda fragment: (-fragment.n_events, fragment.name))
    stores, names = [store] * len(fragments), [physics] * len(fragments)
    futures = client.map(make_part, stores, longest_first, names, pure=False, retries=2)
    rate = TextColumn("fragments, {task.fields[rate]:,.0f} events/s")
    columns = (SpinnerColumn(), TextColumn("features"), BarColumn(), MofNCompleteColumn(), rate)
    with Progress(*columns, TimeRemainingColumn()) as progress:
        bar = progress.add_task("features", total=len(futures), rate=0.0)
        n_events, started = 0, time.perf_counter()
        for future, outcome in as_completed(futures, with_results=True):
            n_events += outcome.n_events
            progress.update(bar, advance=1, rate=n_events / (time.perf_counter() - started))
            future.release()
            yield outcome


def _finish(path: Path, spec: StoreSpec, dataset: EventsDataset) -> None:
    store = EventStore(path, spec)
    ledger = store.ledger()
    if ledger.n_in != dataset.ledger.n_out:
        msg = f"features counted {ledger.n_in} events, ingest {dataset.ledger.n_out}"
        raise AssertionError(msg)
    if ledger.n_out == 0:
        msg = f"{dataset.path}: no event passes the trigger ({ledger.summary()}). Is it the right input, and are its units GeV?"
        raise DataError(msg)
    store.finalise()
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    log.info("wrote %s: %s, %s", path, store.summary(), format_bytes(size))
