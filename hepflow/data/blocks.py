"""A feature store in memory: its description, blocks of events, and the rows where they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from hepflow.data.provenance import digest
from hepflow.schema import Feature
from hepflow.system.files import inside, plain_name

FLOAT_BITS = 23  # bits of a 32-bit float's mantissa


@dataclass(frozen=True)
class StoreSpec:
    """Description of a store: fixed at its creation, except for the provenance of its events."""

    classes: tuple[str, ...]  # names of the classes; the label of a class is its position
    hlf: tuple[Feature, ...]
    particles: tuple[Feature, ...]
    definitions: str  # definitions of the physics, ``corrected`` or ``reference``
    provenance: str  # hash of the configuration and the input
    splits: Mapping[str, float] = field(default_factory=dict)
    """Fraction of the events in each split."""
    physics: str = ""  # ``package.module:function@hash`` of a user's own physics
    input: str = ""  # provenance of the events that the store was made from
    keep_bits: int = FLOAT_BITS  # bits of the mantissa that the particles' features keep

    @property
    def settings(self) -> str:
        """Hash of everything that the parts of one store have in common."""
        features = (self.hlf, self.particles, self.definitions)
        return digest(self.classes, *features, dict(self.splits), self.physics, self.keep_bits)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "StoreSpec":
        """Return the description in the attributes of a store."""
        # Older stores lack some of the fields with a default.
        names = [own.name for own in fields(cls)]
        values = {name: data[name] for name in names if name in data}
        for kind in ("hlf", "particles"):
            values[kind] = tuple(Feature(**feature) for feature in data[kind])
        return cls(**{**values, "classes": tuple(map(plain_name, data["classes"]))})


@dataclass(frozen=True)
class EventBlock:
    """Jagged events: ``particles[offsets[i]:offsets[i + 1]]`` are the particles of event ``i``.

    ``block[events]`` selects events by a slice (views, no copies), a mask or positions.
    """

    hlf: np.ndarray  # (events, n_hlf) float32
    particles: np.ndarray  # (particles of all events, n_particle_features) float32
    offsets: np.ndarray  # (events + 1) int64, from 0
    label: np.ndarray  # (events) int8
    event_id: np.ndarray  # (events) int64

    @classmethod
    def joined(cls, blocks: Sequence["EventBlock"]) -> "EventBlock":
        """Return the events of several blocks, one block after the other."""
        hlf, particles, label, event_id = (
            np.concatenate([getattr(block, name) for block in blocks])
            for name in ("hlf", "particles", "label", "event_id")
        )
        counts = np.concatenate([np.diff(block.offsets) for block in blocks])
        return cls(hlf, particles, np.concatenate([[0], np.cumsum(counts)]), label, event_id)

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, events: slice | np.ndarray) -> "EventBlock":
        if isinstance(events, slice):
            start, stop, step = events.indices(len(self))
            if step == 1:
                stop = max(start, stop)
                offsets = self.offsets[start : stop + 1] - self.offsets[start]
                particles = self.particles[self.offsets[start] : self.offsets[stop]]
                return self._with(events, particles, offsets)
            events = np.arange(start, stop, step)
        elif events.dtype == bool:
            events = np.flatnonzero(events)
        first, lengths = self.offsets[:-1][events], np.diff(self.offsets)[events]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        rows = np.arange(offsets[-1]) + np.repeat(first - offsets[:-1], lengths)
        return self._with(events, self.particles.take(rows, axis=0), offsets)

    def _with(self, chosen: Any, particles: np.ndarray, offsets: np.ndarray) -> "EventBlock":
        hlf, label, event_id = self.hlf[chosen], self.label[chosen], self.event_id[chosen]
        return EventBlock(hlf, particles, offsets, label, event_id)


@dataclass(frozen=True)
class Range:
    """Place and size of events of one split and class that follow each other in a store."""

    split: str
    class_name: str
    first: int
    """Row of the first event in the store's arrays of events."""
    n_events: int
    n_particles: int
    group: str = ""
    """Group of the arrays within the store, which only stores of version 1 have."""

    def __post_init__(self) -> None:
        for name in (self.split, self.class_name):
            plain_name(name)
        if self.group:
            inside(self.group)
        if min(self.first, self.n_events, self.n_particles) < 0:
            sizes = f"{self.n_events} events, {self.n_particles} particles"
            raise ValueError(f"{sizes} from row {self.first}")

    def place(self, store: Path) -> Path:
        """Return the group of the arrays of a store that hold these events."""
        return store / self.group if self.group else store
