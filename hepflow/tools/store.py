"""`hepflow store check` and `hepflow store info`: verify a feature store, and show its content."""

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
from rich.filesize import decimal

from hepflow.config.tools import StoreConfig
from hepflow.data.arrays import REPAIR
from hepflow.data.blocks import EventBlock, Range
from hepflow.data.identity import split_index
from hepflow.data.layout import RANGES
from hepflow.data.moments import Moments
from hepflow.data.store import EventStore
from hepflow.data.store_writer import StoreWriter
from hepflow.errors import DataError
from hepflow.schema import SPLITS, STORE_SCHEMA_VERSION
from hepflow.system.storage import sizes_below
from hepflow.system.terminal import RESULTS, counted, show, table, tracked

log = logging.getLogger(__name__)

_MAX_SHOWN = 5
_REPAIR = "Delete the file, or the store if no file is named, and run `hepflow features` again."
_STATISTICS = ("mean", "std", "min", "max")


def check(config: StoreConfig) -> None:
    """Read and verify everything; log all problems, and raise the first one as a DataError."""
    store = EventStore.open(config.input)
    problems = list(find_problems(store))
    if config.json:
        found = {"store": str(store.path), "sound": not problems, "problems": problems}
        print(json.dumps(found, indent=1))
    for problem in problems:
        log.error("%s: %s", store.path, problem)
    if problems:
        more = f" (and {len(problems) - 1} more, above)" if len(problems) > 1 else ""
        raise DataError(f"{store.path}: {problems[0]}{more}. {_REPAIR}")
    agree = "checksums, counts, offsets, values, splits, statistics and ledger agree"
    log.info("%s is sound: %s; %s", store.path, store.summary(), agree)


def find_problems(store: EventStore) -> Iterator[str]:
    """Yield the problems of a store, one line each; memory holds one range of events at a time.

    Checked are sizes of files, the checksums of all chunks (by reading them), array shapes against
    the records, offsets, labels, finite values, event identities (each once, in the split given by
    its hash), the statistics of the training split, counts and ledger, and parts without a record.
    """
    yield from _file_problems(store)
    identities: dict[str, list[np.ndarray]] = {split: [np.empty(0, np.int64)] for split in SPLITS}
    unreadable: set[str] = set()  # ranges share chunks, so one may come up again
    hlf, particles = Moments.none(len(store.spec.hlf)), Moments.none(len(store.spec.particles))
    for rows in tracked(store.all_ranges(*SPLITS), "checking"):
        try:
            block = store.read(rows)
        except DataError as error:
            problem = str(error).removeprefix(f"{store.path}/").removesuffix(f". {REPAIR}")
            if problem not in unreadable:
                yield problem
            unreadable.add(problem)
            continue
        where = f"{rows.group or f'rows {rows.first:,} on'} ({rows.split} {rows.class_name})"
        yield from (f"{where}: {problem}" for problem in _block_problems(store, rows, block))
        identities[rows.split].append(block.event_id)
        if rows.split == "train":
            with np.errstate(invalid="ignore"):  # values that are not finite were reported above
                hlf += Moments.of(block.hlf)
                particles += Moments.of(block.particles)
    ids = [np.concatenate(of_split) for of_split in identities.values()]
    yield from _identity_problems(ids)
    if not unreadable:  # otherwise counts and statistics differ for this reason alone
        yield from _count_problems(store, sum(map(len, ids)))
        for name, moments in (("hlf", hlf), ("particles", particles)):
            again, stored = moments.statistics(), store.statistics[name]
            if not all(np.allclose(again[k], stored[k], rtol=1e-6, atol=1e-9) for k in again):
                yield f"the statistics of {name} are not those of the training split"


def _name(store: EventStore, path: Path) -> str:
    return path.relative_to(store.path).as_posix()


def _file_problems(store: EventStore) -> Iterator[str]:
    for path in store.orphans()[:_MAX_SHOWN]:
        yield f"{_name(store, path)}: a part without a record, left by an unfinished run"
    for path in [*store.incomplete()][:_MAX_SHOWN]:
        yield f"{_name(store, path)}: missing, or of another size than it was written with"
    is_old = store.attributes["schema_version"] != STORE_SCHEMA_VERSION
    recorded = None if is_old else StoreWriter(store.path, store.spec).range_rows
    if recorded is not None and not np.array_equal(store.range_rows, recorded):
        yield f"{RANGES}: other rows than in the records of the parts"


def _block_problems(store: EventStore, rows: Range, block: EventBlock) -> Iterator[str]:
    shapes = (len(block.hlf), len(block.label), len(block.event_id), len(block.offsets) - 1)
    if set(shapes) != {rows.n_events} or len(block.particles) != rows.n_particles:
        record = f"the record has {rows.n_events} and {rows.n_particles}"
        yield f"arrays of {shapes} events and {len(block.particles)} particles, but {record}"
    ends = (block.offsets[0], block.offsets[-1])
    if ends != (0, rows.n_particles) or (np.diff(block.offsets) < 0).any():
        yield f"offsets do not rise from 0 to {rows.n_particles}"
    for name, values in (("hlf", block.hlf), ("particles", block.particles)):
        if not np.isfinite(values).all():
            yield f"NaN or infinite in {name}: {counted((~np.isfinite(values)).sum(), 'value')}"
    if (block.label != store.spec.classes.index(rows.class_name)).any():
        yield f"labels of other classes than {rows.class_name}"
    if store.spec.splits:
        fractions = {split: store.spec.splits[split] for split in SPLITS}
        wrong = (split_index(block.event_id, fractions) != SPLITS.index(rows.split)).sum()
        if wrong:
            yield f"in the wrong split by the hash of the event_id: {counted(wrong, 'event')}"


def _identity_problems(by_split: list[np.ndarray]) -> Iterator[str]:
    distinct = [np.unique(ids) for ids in by_split]
    n_distinct = sum(map(len, distinct))
    if n_repeated := sum(map(len, by_split)) - n_distinct:
        yield f"more than once in a split: {counted(n_repeated, 'event')}"
    if n_shared := n_distinct - len(np.unique(np.concatenate(distinct))):
        yield f"in more than one split: {counted(n_shared, 'event')}"


def _count_problems(store: EventStore, n_events: int) -> Iterator[str]:
    counts = store.attributes["counts"]
    try:
        ledger = store.ledger()
    except AssertionError as error:  # a bug of hepflow, unless someone changed a record
        yield str(error)
        return
    if not sum(sum(split.values()) for split in counts.values()) == ledger.n_out == n_events:
        others = f"the ledger has {ledger.n_out:,} and the counts are {counts}"
        yield f"{counted(n_events, 'event')}, but {others}"


def info(config: StoreConfig) -> None:
    """Print events by split and class, size, and the features with their statistics."""
    store = EventStore.open(config.input)
    spec, statistics = store.spec, store.statistics
    events, particles = _totals(store, "n_events"), _totals(store, "n_particles")
    size = sum(sizes_below(store.path).values())
    features = {"hlf": spec.hlf, "particles": spec.particles}
    if config.json:
        listed = {kind: [asdict(one) for one in own] for kind, own in features.items()}
        content = {"store": str(store.path), "bytes": size, "classes": list(spec.classes)}
        content |= {"events": events, "particles": particles}
        content |= {"features": listed, "statistics": statistics, "definitions": spec.definitions}
        content |= {"physics": spec.physics, "provenance": spec.provenance}
        print(json.dumps({**content, "ledger": store.ledger().to_dict()}, indent=1))
        return
    n_events, rows = 0, []
    for name in spec.classes:
        counts = [events[split][name] for split in SPLITS]
        mean = sum(particles[split][name] for split in SPLITS) / max(sum(counts), 1)
        rows.append((name, *(f"{count:,}" for count in counts), f"{mean:.1f}"))
        n_events += sum(counts)
    per_event = f"{size / max(n_events, 1):,.0f} bytes per event"
    title = f"{store.path}: {decimal(size)} in {len(store.sources())} parts, {per_event}"
    show(table(("events", *SPLITS, "particles per event"), rows, title))
    for kind, own in features.items():
        rows = []
        for i, feature in enumerate(own):
            unit = "" if feature.unit == "1" else f" [{feature.unit}]"
            values = (f"{statistics[kind][key][i]:.4g}" for key in _STATISTICS)
            rows.append((f"{feature.name}{unit}", *values))
        title = f"{kind}: {statistics[kind]['count']:,} rows of the training split"
        show(table(("feature", *_STATISTICS), rows, title))
    origin = f"physics {spec.physics} · provenance {spec.provenance}"
    RESULTS.print(f"definitions {spec.definitions} · {origin}", highlight=False)
    RESULTS.print(f"ledger: {store.ledger().summary()}", highlight=False)


def _totals(store: EventStore, key: str) -> dict[str, dict[str, int]]:
    """Return a number of the ranges, added up by split and class."""
    totals = {split: dict.fromkeys(store.spec.classes, 0) for split in SPLITS}
    for rows in store.all_ranges(*SPLITS):
        totals[rows.split][rows.class_name] += getattr(rows, key)
    return totals
