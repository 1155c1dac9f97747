"""The tasks of the features stage: one fragment of Parquet events -> one part of the store. They run in workers.

Workers import this and nothing of the cluster: dask-jobqueue cannot even be imported outside a main thread.
"""

import re
import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import awkward as ak
import numpy as np
from numcodecs.bitround import BitRound

from hepflow.data.blocks import FLOAT_BITS, EventBlock, StoreSpec
from hepflow.data.events import Fragment, read_fragment
from hepflow.data.identity import split_index
from hepflow.data.ledger import Ledger
from hepflow.data.store import EventStore
from hepflow.errors import DataError
from hepflow.physics import own
from hepflow.physics.ablation import Change, compare
from hepflow.physics.features import FeatureSet
from hepflow.schema import SPLITS


@dataclass(frozen=True)
class Outcome:
    """What a task tells of its part."""

    name: str
    n_events: int
    seconds: Mapping[str, float]
    """Wall time of reading, physics and writing."""
    peak_bytes: int = 0
    """Most memory that its worker has ever held."""
    error: str | None = None
    """What was wrong with the fragment."""


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
        features = own.check(
            own.load(physics)(events, store.spec.definitions), len(events), physics or "physics"
        )
        label, event_id = (
            ak.to_numpy(events[name])[features.index] for name in ("label", "event_id")
        )
        ledger = Ledger(
            n_in=len(events), n_out=len(features.index), rejected=dict(features.rejected)
        )
        del events  # not needed beside the copies that follow
        clock.append(time.perf_counter())
        blocks = split_blocks(features, label, event_id, store.spec)
    except DataError as error:
        where = "" if str(fragment.path) in str(error) else f"{fragment.path}: "
        return Outcome(fragment.name, fragment.n_events, {}, error=f"{where}{error}")
    store.write_part(fragment.name, blocks, ledger, source=fragment.fingerprint)
    clock.append(time.perf_counter())
    seconds = dict(zip(("reading", "physics", "writing"), np.diff(clock).tolist(), strict=True))
    return Outcome(fragment.name, ledger.n_in, seconds, peak_bytes=_peak_bytes())


def _peak_bytes() -> int:
    """Most memory that this program has held; what ``getrusage`` tells includes that of the program it was forked from."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.is_file() else None
    return 1024 * (
        int(found.group(1)) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    )


def split_blocks(
    features: FeatureSet, label: np.ndarray, event_id: np.ndarray, spec: StoreSpec
) -> dict[tuple[str, str], EventBlock]:
    """The features of a chunk by split and class.

    Parameters
    ----------
    features : FeatureSet
    label, event_id : (kept) integers
    spec : StoreSpec

    Raises
    ------
    DataError
        A label is none of the classes'.
    """
    if len(label) and not 0 <= label.min() <= label.max() < len(spec.classes):
        raise DataError(
            f"labels from {label.min()} to {label.max()}, but there are {len(spec.classes)} classes. Run `hepflow ingest` again."
        )
    particles = features.particles
    if spec.keep_bits < FLOAT_BITS:
        particles = BitRound(spec.keep_bits).encode(particles).view(np.float32)
    block = EventBlock(features.hlf, particles, features.offsets, label.astype(np.int8), event_id)
    split = split_index(event_id, {name: spec.splits[name] for name in SPLITS})
    places = product(enumerate(SPLITS), enumerate(spec.classes))
    wanted = {
        (name, class_name): np.flatnonzero((split == i) & (label == j))
        for (i, name), (j, class_name) in places
    }
    return {place: block[events] for place, events in wanted.items() if len(events)}


def compare_fragment(fragment: Fragment) -> dict[str, Change]:
    """What each difference between the definitions does to a fragment. A task."""
    return compare(read_fragment(fragment))
