"""A small feature store whose classes differ, more in the particles than in the features."""

from pathlib import Path

import numpy as np

from hepflow.data.blocks import EventBlock, StoreSpec
from hepflow.data.ledger import Ledger
from hepflow.data.store import EventStore
from hepflow.data.store_writer import StoreWriter
from hepflow.schema import CLASSES, HLF, PARTICLE, SPLITS, Feature


def toy_store(
    path: Path,
    *,
    classes: tuple[str, ...] = CLASSES,
    hlf: tuple[Feature, ...] = HLF,
    particles: tuple[Feature, ...] = PARTICLE,
    events: int | dict[str, int] = 60,
    parts: int = 2,
    mean_particles: int = 12,
    seed: int = 1,
) -> EventStore:
    """A finished store.

    Parameters
    ----------
    events : int or mapping
        Events per class, in each part and split; or class -> events.
    parts : int
        Parts; each has all classes and splits.
    """
    spec = StoreSpec(classes, hlf, particles, "corrected", f"toy-{seed}")
    store = StoreWriter.create(path, spec)
    rng = np.random.default_rng(seed)
    first_id = 0
    for number in range(parts):
        blocks = {}
        for split in SPLITS:
            for label, name in enumerate(classes):
                count = events if isinstance(events, int) else events[name]
                if count:
                    blocks[split, name] = toy_block(
                        rng,
                        count,
                        label,
                        len(hlf),
                        [f.name for f in particles],
                        mean_particles,
                        first_id,
                    )
                    first_id += count
        total = sum(len(block) for block in blocks.values())
        store.write_part(number, blocks, Ledger(n_in=total, n_out=total))
    store.finalise()
    return EventStore.open(path)


def toy_block(
    rng: np.random.Generator,
    count: int,
    label: int,
    n_hlf: int,
    names: list[str],
    mean_particles: int,
    first_id: int,
) -> EventBlock:
    """Return events of one class: shifted features, other multiplicities."""
    lengths = rng.poisson(mean_particles * (1 + label), count)
    lengths[0] = 0  # some event has no particle
    particles = rng.normal(0.3 * label, 1, (lengths.sum(), len(names))).astype(np.float32)
    for name, width in (("Eta", 2.0), ("Phi", 1.5)):
        if name in names:
            particles[:, names.index(name)] *= width / 2
    hlf = rng.normal(0.7 * label, 1, (count, n_hlf)).astype(np.float32)
    hlf[:, -1] = 1  # a constant feature
    return EventBlock(
        hlf=hlf,
        particles=particles,
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        label=np.full(count, label, dtype=np.int8),
        event_id=np.arange(first_id, first_id + count, dtype=np.int64),
    )
