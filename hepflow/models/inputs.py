"""Inputs of a net for training and scoring: names and statistics, taken from a store."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from hepflow.data.store import EventStore
from hepflow.errors import DataError

Order = Literal["delta_r", "stored"]


@dataclass(frozen=True)
class Inputs:
    """Everything a net takes from a store, and keeps in its checkpoint."""

    classes: tuple[str, ...]
    hlf: tuple[str, ...]
    particles: tuple[str, ...]
    # "hlf", "particles" -> count, and mean, std, min, max per feature, of the training split
    statistics: Mapping[str, Mapping[str, Any]]
    definitions: str
    provenance: str  # hash of the store
    # of the particles: by decreasing distance from the first, or as stored
    order: Order = "delta_r"

    @classmethod
    def of(cls, store: EventStore, order: Order = "delta_r") -> "Inputs":
        """Return the inputs that a finished store offers."""
        spec = store.spec
        hlf = tuple(feature.name for feature in spec.hlf)
        particles = tuple(feature.name for feature in spec.particles)
        about = (store.statistics, spec.definitions, spec.provenance, order)
        return cls(spec.classes, hlf, particles, *about)

    def to_dict(self) -> dict[str, Any]:
        """Return plain types, for a checkpoint."""
        items = asdict(self).items()
        return {key: list(value) if isinstance(value, tuple) else value for key, value in items}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Inputs":
        """Invert `to_dict`."""
        items = data.items()
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in items}
        return cls(**plain)

    def require_same_features(self, other: "Inputs", where: str) -> None:
        """Refuse a net that was made for other inputs."""
        for name in ("classes", "hlf", "particles", "definitions", "order"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                why = f"made for {name} {words(mine)}, the store has {words(theirs)}"
                raise DataError(f"{where}: {why}. Give the store it was trained on.")


def words(value: Any) -> str:
    """Return names separated by commas, and any other value as text."""
    return ", ".join(value) if isinstance(value, tuple) else str(value)
