"""Tasks of the features stage: fragments of events -> one part of the store.

Workers import this module, and nothing of the cluster: dask-jobqueue cannot be imported outside a
main thread.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import awkward as ak
import numpy as np
from numcodecs.bitround import BitRound

from hepflow.data.blocks import FLOAT_BITS, EventBlock, StoreSpec
from hepflow.data.events import Fragment, read_fragment
from hepflow.data.identity import split_index
from hepflow.data.ledger import Ledger
from hepflow.data.store_writer import StoreWriter
from hepflow.errors import DataError
from hepflow.features.packing import PlannedPart
from hepflow.physics import own
from hepflow.physics.ablation import Change, compare
from hepflow.schema import SPLITS
from hepflow.system.processes import peak_bytes


@dataclass(frozen=True)
class Outcome:
    """Report of a task on its part."""

    name: str
    n_events: int
    seconds: Mapping[str, float]  # wall time of reading, physics and writing
    peak_bytes: int = 0  # most memory that the worker has used so far
    error: str | None = None  # reason why a fragment could not be used; None if all could


def make_part(
    store: StoreWriter, planned: PlannedPart, physics: str | None, round_bytes: int
) -> Outcome:
    """Write a part: round by round, read fragments and compute features by `own.load(physics)`."""
    name = planned.fragments[0].name
    spent, ledger = dict.fromkeys(("reading", "physics", "writing"), 0.0), Ledger()
    try:
        with store.part_writer(planned.number) as part:
            for fragments in planned.rounds(round_bytes):
                blocks, counts, seconds = _round(store.spec, fragments, physics)
                started = time.perf_counter()
                part.add(blocks)
                seconds["writing"] = time.perf_counter() - started
                ledger += counts
                spent = {what: spent[what] + seconds[what] for what in spent}
            started = time.perf_counter()
            part.finish(ledger, planned.sources)
            spent["writing"] += time.perf_counter() - started
    except DataError as error:
        return Outcome(name, planned.n_events, {}, error=str(error))
    return Outcome(name, ledger.n_in, spent, peak_bytes=peak_bytes())


def _round(
    spec: StoreSpec, fragments: Sequence[Fragment], physics: str | None
) -> tuple[dict[tuple[str, str], EventBlock], Ledger, dict[str, float]]:
    """Return the events of fragments by split and class, their ledger, and the seconds spent."""
    clock = [time.perf_counter()]
    where = ", ".join(str(fragment.path) for fragment in fragments[:2])
    try:
        events, *more = map(read_fragment, fragments)
        events = ak.concatenate([events, *more]) if more else events
        clock.append(time.perf_counter())
        made = own.load(physics)(events, spec.definitions)
        features = own.check(made, len(events), physics or "physics")
        label = ak.to_numpy(events["label"])[features.index]
        event_id = ak.to_numpy(events["event_id"])[features.index]
        ledger = Ledger(len(events), len(features.index), dict(features.rejected))
        del events  # frees memory for the copies that follow
        if len(label) and not 0 <= label.min() <= label.max() < len(spec.classes):
            what = f"labels from {label.min()} to {label.max()}"
            known = f"there are {len(spec.classes)} classes"
            raise DataError(f"{what}, but {known}. Run `hepflow ingest` again.")
    except DataError as error:
        named = any(str(fragment.path) in str(error) for fragment in fragments)
        raise DataError(str(error) if named else f"{where}: {error}") from error
    particles = features.particles
    if spec.keep_bits < FLOAT_BITS:
        particles = BitRound(spec.keep_bits).encode(particles).view(np.float32)
    block = EventBlock(features.hlf, particles, features.offsets, label.astype(np.int8), event_id)
    split = split_index(event_id, {name: spec.splits[name] for name in SPLITS})
    blocks = by_split_and_class(block, split, SPLITS, spec.classes)
    clock.append(time.perf_counter())
    return blocks, ledger, dict(zip(("reading", "physics"), np.diff(clock).tolist(), strict=True))


def by_split_and_class(
    block: EventBlock, split: np.ndarray, splits: Sequence[str], classes: Sequence[str]
) -> dict[tuple[str, str], EventBlock]:
    """Return the events of each split and class that has any; ``split``: positions, (events,)."""
    blocks = {}
    for i, split_name in enumerate(splits):
        for j, class_name in enumerate(classes):
            events = np.flatnonzero((split == i) & (block.label == j))
            if len(events):
                blocks[split_name, class_name] = block[events]
    return blocks


def compare_fragment(fragment: Fragment) -> dict[str, Change]:
    """Return the effect of each difference between the definitions on a fragment, in a worker."""
    return compare(read_fragment(fragment))
