"""`hepflow store compact`: copy a store, of any version, into one of few large files."""

import logging
from collections import defaultdict

from rich.filesize import decimal

from hepflow.config.tools import CompactConfig
from hepflow.data.blocks import EventBlock
from hepflow.data.ledger import Ledger, total
from hepflow.data.packing import packed, part_bytes
from hepflow.data.store import EventStore
from hepflow.data.store_writer import StoreWriter, check_replaceable
from hepflow.errors import ConfigError, DataError
from hepflow.system import locks
from hepflow.system.storage import sizes_below
from hepflow.system.terminal import bar, counted

log = logging.getLogger(__name__)

_ROUND_BYTES = 64 << 20  # of particles that are in memory at once


def run(config: CompactConfig) -> None:
    """Copy events, ledgers and sources, so that `hepflow features` can add events to the copy."""
    old = EventStore.open(config.input)
    if config.input == config.output:
        raise ConfigError(f"{config.output}: the store itself. Choose another output.")
    with locks.exclusive(config.output):
        if not config.overwrite:
            present = check_replaceable(config.output, old.spec, ("provenance",))
            if present is not None:
                StoreWriter(config.output, present).tidy()
                log.info("%s is up to date: %s", config.output, old.summary())
                return
        new = StoreWriter.create(config.output, old.spec)
        _copy(old, new)
        if new.finalise() != old.ledger():
            raise DataError(f"{old.path}: it changed meanwhile. Run the same command again.")
    sizes = (sizes_below(store.path) for store in (old, new))
    before, after = (f"{counted(len(own), 'file')}, {decimal(sum(own.values()))}" for own in sizes)
    log.info("wrote %s: %s; %s (before: %s)", new.path, new.summary(), after, before)


def _copy(old: EventStore, new: StoreWriter) -> None:
    sizes = {number: old.size(*old.parts.get(number, [])) for number in old.records}
    n_bytes = sum(size[0] for size in sizes.values())
    done = new.sources()
    groups = packed(old.records, part_bytes(n_bytes), sizes.__getitem__)
    with bar("copying", len(old.records)) as progress:
        for number, group in enumerate(groups):
            if number in done:
                progress.advance(len(group))
                continue
            with new.part_writer(number) as part:
                for numbers in packed(group, _ROUND_BYTES, sizes.__getitem__):
                    blocks: dict[tuple[str, str], list[EventBlock]] = defaultdict(list)
                    for rows in (one for n in numbers for one in old.parts.get(n, [])):
                        blocks[rows.split, rows.class_name].append(old.read(rows))
                    part.add({place: EventBlock.joined(own) for place, own in blocks.items()})
                    progress.advance(len(numbers))
                records = [old.records[n] for n in group]
                sources = {name: mark for one in records for name, mark in one["sources"].items()}
                part.finish(total(Ledger.from_dict(one["ledger"]) for one in records), sources)
