"""What a store is made of: its description, blocks of events, and where they lie."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hepflow.data.provenance import digest
from hepflow.schema import Feature

FLOAT_BITS = 23
"""Bits of a 32-bit float's mantissa."""


@dataclass(frozen=True)
class StoreSpec:
    """What a store holds: fixed when it is created, but for the provenance, which appending changes."""

    classes: tuple[str, ...]
    """The label of a class is its position."""
    hlf: tuple[Feature, ...]
    particles: tuple[Feature, ...]
    definitions: str
    """``corrected`` or ``reference``: what the physics was asked for."""
    provenance: str
    """Hash of the configuration and the input."""
    splits: Mapping[str, float] = field(default_factory=dict)
    """Share of the events in each split."""
    physics: str = ""
    """``package.module:function@hash`` of a user's own physics."""
    input: str = ""
    """Provenance of the events that the store was made from."""
    keep_bits: int = FLOAT_BITS
    """Bits of the mantissa that the particles' features keep."""

    @property
    def settings(self) -> str:
        """Hash of what every part has in common: parts of the same settings belong together."""
        return digest(
            self.classes,
            self.hlf,
            self.particles,
            self.definitions,
            dict(self.splits),
            self.physics,
            self.keep_bits,
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "StoreSpec":
        """From the attributes of a store."""
        hlf, particles = (
            tuple(Feature(**feature) for feature in data[key]) for key in ("hlf", "particles")
        )
        rest = {
            key: data[key] for key in ("splits", "physics", "input", "keep_bits") if key in data
        }
        return cls(
            tuple(data["classes"]), hlf, particles, data["definitions"], data["provenance"], **rest
        )


@dataclass(frozen=True)
class EventBlock:
    """Events, jagged; those of a part are of one class.

    ``particles[offsets[i]:offsets[i + 1]]`` are those of event ``i``.
    """

    hlf: np.ndarray
    """(events, n_hlf) float32"""
    particles: np.ndarray
    """(particles of all events, n_particle_features) float32"""
    offsets: np.ndarray
    """(events + 1) int64, from 0"""
    label: np.ndarray
    """(events) int8"""
    event_id: np.ndarray
    """(events) int64"""

    def __len__(self) -> int:
        """Events."""
        return len(self.label)

    def take(self, events: np.ndarray) -> "EventBlock":
        """Some of the events, by their positions."""
        spans = zip(self.offsets[events], self.offsets[events + 1], strict=True)
        return EventBlock(
            hlf=self.hlf[events],
            particles=np.concatenate(
                [self.particles[:0], *(self.particles[first:last] for first, last in spans)]
            ),
            offsets=np.concatenate([[0], np.cumsum(np.diff(self.offsets)[events])]),
            label=self.label[events],
            event_id=self.event_id[events],
        )


@dataclass(frozen=True)
class Part:
    """Where a block lies, and how large it is."""

    split: str
    class_name: str
    name: str
    n_events: int
    n_particles: int

    @property
    def path(self) -> str:
        """Group in the store."""
        return f"{self.split}/{self.class_name}/{self.name}"
