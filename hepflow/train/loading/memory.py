"""Awkward arrays in memory -> batches for any training loop, without a store or Lightning.

The events become blocks of the same plan that reads a feature store, so the batches are those of a
training on a store of these events.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np

from hepflow.config.train import Balance, DataConfig
from hepflow.data.blocks import EventBlock, Range, StoreSpec
from hepflow.data.moments import Moments
from hepflow.data.store import EventStore
from hepflow.errors import DataError, one_line
from hepflow.models.inputs import Inputs, Order
from hepflow.physics.features import FeatureSet, compute_features
from hepflow.schema import CLASSES, COLLECTIONS, HLF, PARTICLE
from hepflow.train.loading.batches import Batch
from hepflow.train.loading.loader import EventLoader
from hepflow.train.loading.plan import EpochPlan, make_plan
from hepflow.train.loading.reader import BlockReader, require_finite


class EventBatches:
    """Batches of events in memory; iterate over it for epoch 0, then epoch 1 and so on."""

    def __init__(
        self, plan: EpochPlan, reader: BlockReader, inputs: Inputs, rejected: Mapping[str, int]
    ) -> None:
        self.inputs = inputs
        """Classes, features and their statistics: what a net of `hepflow.models` is made from."""
        self.rejected = rejected
        """Reason -> events that the physics rejected."""
        self._plan, self._reader, self._next = plan, reader, 0

    def __len__(self) -> int:
        return self._plan.n_batches

    def epoch(self, number: int) -> Iterator[Batch]:
        """Return the batches of an epoch: the same seed and number give the same batches."""
        self._next = number + 1
        loader = EventLoader(self._plan, self._reader, workers=0)
        loader.set_epoch(number)
        return iter(loader)

    def __iter__(self) -> Iterator[Batch]:
        return self.epoch(self._next)


def batches_of_events(
    events: ak.Array,
    label: Any = None,
    *,
    hlf: Any = None,
    event_id: Any = None,
    batch_size: int = 64,
    shuffle: bool = True,
    seed: int = 1,
    order: Order = "delta_r",
    balance: Balance = "natural",
    bucket_batches: int = 4,
    definitions: str = "corrected",
    classes: Sequence[str] = CLASSES,
) -> EventBatches:
    """Return batches of padded tensors from events in an awkward array.

    Parameters
    ----------
    events : ak.Array
        Either raw events, (n,) records as `hepflow.data.events.read_fragment` returns them: the
        trigger selection is applied and the features are computed. Or particles, (n, var) records
        with the fields of `hepflow.schema.PARTICLE`, or (n, var, 19) numbers in that order.
    label : (n,) integers, optional
        Class of each event; default: the field ``label`` of raw events.
    hlf : (n, 14) numbers, optional
        High-level features of `hepflow.schema.HLF` next to particles; default: none.
    event_id : (n,) integers, optional
        Identity of each event; default: the field of raw events, or else the position.
    batch_size, order, balance, bucket_batches
        As in `hepflow.config.train.DataConfig`.
    shuffle : bool
        Another order in every epoch; False: every event once, always in the same order.
    seed : int
        Decides the order, together with the number of the epoch.
    definitions : {"corrected", "reference"}
        Physics of raw events.
    classes : sequence of str
        Names of the classes; a label is a position in it.
    """
    sizes: dict[str, Any] = {"batch_size": batch_size, "eval_batch_size": batch_size}
    options = DataConfig(**sizes, balance=balance, bucket_batches=bucket_batches, order=order)
    n_events = len(events)
    fields = set(ak.fields(events))
    if label is None:
        if "label" not in fields:
            raise DataError("events: no field 'label'. Give the labels as the second argument.")
        label = events["label"]
    if event_id is None:
        event_id = events["event_id"] if "event_id" in fields else np.arange(n_events)
    if fields & set(COLLECTIONS):
        if hlf is not None:
            raise DataError("hlf: raw events have their features computed. Leave hlf out.")
        made = compute_features(events, definitions)
    else:
        made = _given(events, hlf)
    label = _integers("label", label, n_events)[made.index]
    event_id = _integers("event_id", event_id, n_events)[made.index]
    if not len(label):
        reasons = ", ".join(f"{n} {reason}" for reason, n in made.rejected.items())
        raise DataError(f"events: none of {n_events} passes ({reasons or 'there are none'}).")
    if not 0 <= label.min() <= label.max() < len(classes):
        known = f"{len(classes)} classes ({', '.join(classes)}). Name yours with classes=(...)."
        raise DataError(f"label: values from {label.min()} to {label.max()}, but {known}")
    features = made.hlf_features, made.particle_features
    spec = StoreSpec(tuple(classes), *features, definitions, "memory")
    block = EventBlock(made.hlf, made.particles, made.offsets, label, event_id)
    require_finite(block, spec, "events", 0, "Remove the event, or fix what made it.")
    store = _InMemory(spec, block)
    plan = make_plan(store, "train", options, shuffle=shuffle, seed=seed)
    size = options.block_events
    reader = BlockReader(store, particles=True, order=order, keep=True, block_events=size)
    return EventBatches(plan, reader, Inputs.of(store, order), made.rejected)


class _InMemory(EventStore):
    """A store of one split with one range per class; it has no files."""

    def __init__(self, spec: StoreSpec, block: EventBlock) -> None:
        super().__init__(Path("events"), spec)
        labels = range(len(spec.classes))
        self._blocks = [block[block.label == label] for label in labels]
        arrays = {"hlf": block.hlf, "particles": block.particles}
        self._statistics = {name: Moments.of(one).statistics() for name, one in arrays.items()}

    @property
    def statistics(self) -> dict[str, Any]:
        return self._statistics

    def ranges(self, split: str, class_name: str) -> list[Range]:
        block = self._blocks[self.spec.classes.index(class_name)]
        own = Range(split, class_name, 0, len(block), len(block.particles))
        return [own] if len(block) else []

    def read(self, rows: Range, start: int = 0, stop: int | None = None, **_: Any) -> EventBlock:
        return self._blocks[self.spec.classes.index(rows.class_name)][start:stop]


def _given(events: ak.Array, hlf: Any) -> FeatureSet:
    """Return the features of events that are particles already."""
    names = [feature.name for feature in PARTICLE]
    fields = ak.fields(events)
    if missing := [name for name in names if name not in fields] if fields else []:
        found = f"no particle field {', '.join(missing)}, only {', '.join(fields)}"
        advice = "Give all fields of hepflow.schema.PARTICLE, or raw events."
        raise DataError(f"events: {found}. {advice}")
    try:
        lists = ak.zip({name: events[name] for name in names}, depth_limit=2) if fields else events
        offsets = np.concatenate([[0], np.cumsum(ak.to_numpy(ak.num(lists, axis=1)))])
        flat = ak.flatten(lists, axis=1)
        columns = [_numpy("events", flat[name]) for name in fields and names]
        rows = np.stack(columns, axis=1) if fields else _numpy("events", flat)
    except ValueError as error:
        why = one_line(error)
        raise DataError(f"events: not a list of particles per event ({why}).") from error
    high = np.zeros((len(events), 0)) if hlf is None else _numpy("hlf", hlf)
    features = () if hlf is None else HLF
    shapes = (offsets[-1], len(PARTICLE)), (len(events), len(features))
    for name, values, expected in zip(("events", "hlf"), (rows, high), shapes, strict=True):
        if values.shape != expected:
            raise DataError(f"{name}: numbers of shape {values.shape}, expected {expected}.")
    index = np.arange(len(events))
    rows, high = rows.astype(np.float32), high.astype(np.float32)
    return FeatureSet(high, rows, offsets, index, {}, features, PARTICLE)


def _integers(name: str, values: Any, n_events: int) -> np.ndarray:
    array = _numpy(name, values)
    if array.shape != (n_events,) or not np.issubdtype(array.dtype, np.integer):
        expected = f"expected one integer for each of the {n_events} events."
        raise DataError(f"{name}: {array.dtype} of shape {array.shape}, {expected}")
    return array.astype(np.int64)


def _numpy(name: str, values: Any) -> np.ndarray:
    try:
        array = ak.to_numpy(values, allow_missing=False) if isinstance(values, ak.Array) else values
        array = np.asarray(array)
    except ValueError as error:
        raise DataError(f"{name}: not an array of numbers ({one_line(error)}).") from error
    if array.dtype.kind not in "iuf":
        raise DataError(f"{name}: {array.dtype}, expected numbers.")
    return array
