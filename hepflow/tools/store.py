"""`hepflow store check` and `hepflow store info`: is a store what it says it is, and what is inside."""

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.filesize import decimal
from rich.progress import track
from rich.table import Table

from hepflow.config.tools import StoreConfig
from hepflow.data.arrays import MEND
from hepflow.data.blocks import EventBlock, Part
from hepflow.data.identity import split_index
from hepflow.data.moments import Moments
from hepflow.data.store import EventStore
from hepflow.errors import DataError
from hepflow.schema import SPLITS
from hepflow.system.terminal import MESSAGES, counted

log = logging.getLogger(__name__)

_MAX_SHOWN = 5
_TOLERANCE = 1e-9


def check(config: StoreConfig) -> None:
    """Read everything and verify it.

    Raises
    ------
    DataError
        With the first of the problems; all are logged.
    """
    store = EventStore.open(config.input)
    problems = list(find_problems(store))
    if config.json:
        print(
            json.dumps(
                {"store": str(store.path), "sound": not problems, "problems": problems}, indent=1
            )
        )
    for problem in problems:
        log.error("%s: %s", store.path, problem)
    if problems:
        more = f" (and {len(problems) - 1} more, above)" if len(problems) > 1 else ""
        raise DataError(f"{store.path}: {problems[0]}{more}. {MEND}")
    log.info(
        "%s is sound: %s; checksums, counts, offsets, values, splits, statistics and ledger agree",
        store.path,
        store.summary(),
    )


def find_problems(store: EventStore) -> Iterator[str]:
    """What is wrong with a store, a line a problem, part by part; nothing larger than a part is held.

    Checked: checksums of every chunk (by reading it), array shapes against the parts' records, offsets, labels, finite values, identities
    (none twice, none in two splits, each in the split that its hash says), statistics of the training split, counts and ledger, and parts
    that nobody recorded.
    """
    parts = [
        part for split in SPLITS for name in store.spec.classes for part in store.parts(split, name)
    ]
    yield from _unrecorded(store, parts)
    identities: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
    complete = True
    hlf, particles = Moments.none(len(store.spec.hlf)), Moments.none(len(store.spec.particles))
    for part in track(parts, description="checking", transient=True, console=MESSAGES):
        try:
            block = store.read(part)
        except DataError as error:
            yield str(error).removeprefix(f"{store.path}/").removesuffix(f". {MEND}")
            complete = False
            continue
        yield from (f"{part.path}: {problem}" for problem in _block_problems(store, part, block))
        identities[part.split].append(block.event_id)
        if part.split == "train":
            with np.errstate(invalid="ignore"):  # values that are not finite were named above
                hlf, particles = (
                    hlf + Moments.of(block.hlf),
                    particles + Moments.of(block.particles),
                )
    yield from _identity_problems(
        [np.concatenate([np.empty(0, np.int64), *found]) for found in identities.values()]
    )
    if not complete:  # counts and statistics would differ for this reason alone
        return
    yield from _count_problems(
        store, sum(len(ids) for found in identities.values() for ids in found)
    )
    for name, moments in (("hlf", hlf), ("particles", particles)):
        if not _agree(moments, store.statistics[name]):
            yield f"the statistics of {name} are not those of the training split"


def info(config: StoreConfig) -> None:
    """Print what is inside: events by split and class, size, features with their statistics."""
    store = EventStore.open(config.input)
    if config.json:
        print(json.dumps(_contents(store), indent=1))
        return
    console = Console()
    console.print(_events_table(store))
    for name, features in (("hlf", store.spec.hlf), ("particles", store.spec.particles)):
        statistics = store.statistics[name]
        table = Table(
            "feature",
            "unit",
            "mean",
            "std",
            "min",
            "max",
            title=f"{name}: {statistics['count']:,} rows of the training split",
        )
        for i, feature in enumerate(features):
            table.add_row(
                feature.name,
                feature.unit,
                *(f"{statistics[key][i]:.4g}" for key in ("mean", "std", "min", "max")),
            )
        console.print(table)
    console.print(
        f"definitions {store.spec.definitions} · physics {store.spec.physics} · provenance {store.spec.provenance}",
        highlight=False,
    )
    console.print(f"ledger: {store.ledger().summary()}", highlight=False)


def _contents(store: EventStore) -> dict[str, Any]:
    """What `info` prints, for programs."""
    parts = {
        split: {name: store.parts(split, name) for name in store.spec.classes} for split in SPLITS
    }
    return {
        "store": str(store.path),
        "bytes": _size(store.path),
        "classes": list(store.spec.classes),
        "events": {
            split: {name: sum(part.n_events for part in own) for name, own in found.items()}
            for split, found in parts.items()
        },
        "particles": {
            split: {name: sum(part.n_particles for part in own) for name, own in found.items()}
            for split, found in parts.items()
        },
        "features": {
            kind: [asdict(feature) for feature in features]
            for kind, features in (("hlf", store.spec.hlf), ("particles", store.spec.particles))
        },
        "statistics": store.statistics,
        "definitions": store.spec.definitions,
        "physics": store.spec.physics,
        "provenance": store.spec.provenance,
        "ledger": store.ledger().to_dict(),
    }


def _events_table(store: EventStore) -> Table:
    parts = [
        part for split in SPLITS for name in store.spec.classes for part in store.parts(split, name)
    ]
    size = _size(store.path)
    n_events = sum(part.n_events for part in parts)
    title = f"{store.path}: {decimal(size)} in {len(store.done())} parts, {size / max(n_events, 1):,.0f} bytes an event"
    table = Table("events", *SPLITS, "particles an event", title=title)
    for name in store.spec.classes:
        mine = [part for part in parts if part.class_name == name]
        row = [
            f"{sum(part.n_events for part in mine if part.split == split):,}" for split in SPLITS
        ]
        table.add_row(
            name,
            *row,
            f"{sum(part.n_particles for part in mine) / max(sum(part.n_events for part in mine), 1):.1f}",
        )
    return table


def _unrecorded(store: EventStore, parts: list[Part]) -> Iterator[str]:
    there = {
        f"{group.parent.parent.name}/{group.parent.name}/{group.name}"
        for split in SPLITS
        for group in store.path.glob(f"{split}/*/*/")
    }
    for path in sorted(there - {part.path for part in parts})[:_MAX_SHOWN]:
        yield f"{path}: a part without a record: an unfinished run"


def _block_problems(store: EventStore, part: Part, block: EventBlock) -> Iterator[str]:
    shapes = (len(block.hlf), len(block.label), len(block.event_id), len(block.offsets) - 1)
    if set(shapes) != {part.n_events} or len(block.particles) != part.n_particles:
        yield f"arrays of {shapes} events and {len(block.particles)} particles, recorded are {part.n_events} and {part.n_particles}"
    if (
        block.offsets[0] != 0
        or block.offsets[-1] != part.n_particles
        or (np.diff(block.offsets) < 0).any()
    ):
        yield f"offsets do not rise from 0 to {part.n_particles}"
    for name, values in (("hlf", block.hlf), ("particles", block.particles)):
        if not np.isfinite(values).all():
            yield f"NaN or infinite in {name}: {counted((~np.isfinite(values)).sum(), 'value')}"
    if (block.label != store.spec.classes.index(part.class_name)).any():
        yield f"labels of other classes than {part.class_name}"
    if store.spec.splits:
        expected = split_index(
            block.event_id, {split: store.spec.splits[split] for split in SPLITS}
        )
        wrong = (expected != SPLITS.index(part.split)).sum()
        if wrong:
            yield f"of another split by the hash of the event_id: {counted(wrong, 'event')}"


def _identity_problems(by_split: list[np.ndarray]) -> Iterator[str]:
    distinct = [np.unique(ids) for ids in by_split]
    n_repeated = sum(map(len, by_split)) - sum(map(len, distinct))
    if n_repeated:
        yield f"there more than once: {counted(n_repeated, 'event')}"
    n_shared = sum(map(len, distinct)) - len(np.unique(np.concatenate(distinct)))
    if n_shared:
        yield f"in more than one split: {counted(n_shared, 'event')}"


def _count_problems(store: EventStore, n_events: int) -> Iterator[str]:
    counts = store.attributes["counts"]
    try:
        ledger = store.ledger()
    except (
        AssertionError
    ) as error:  # raised for what is a bug of hepflow, unless a record was changed
        yield str(error)
        return
    if not sum(sum(split.values()) for split in counts.values()) == ledger.n_out == n_events:
        yield f"{counted(n_events, 'event')}, but the ledger says {ledger.n_out:,} and the counts {counts}"


def _agree(moments: Moments, statistics: dict[str, list[float]]) -> bool:
    own = moments.statistics()
    return all(
        np.allclose(own[key], statistics[key], rtol=1e-6, atol=_TOLERANCE)
        for key in ("count", "mean", "std", "min", "max")
    )


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
