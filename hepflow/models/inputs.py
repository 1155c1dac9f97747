"""What a net is told about its inputs: names, sizes and statistics out of a store. Training and scoring share it, with or without torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from hepflow.data.store import EventStore
from hepflow.errors import DataError

Order = Literal["delta_r", "stored"]


@dataclass(frozen=True)
class Inputs:
    """Classes, feature names and training-split statistics: everything a net takes from a store, and keeps in a checkpoint."""

    classes: tuple[str, ...]
    hlf: tuple[str, ...]
    particles: tuple[str, ...]
    statistics: Mapping[str, Mapping[str, Any]]
    """``hlf`` and ``particles`` -> count, and mean, std, min, max a feature."""
    definitions: str
    provenance: str
    """The store's hash."""
    order: Order = "delta_r"
    """How particles are handed over: by decreasing distance from the first of the event, or as stored."""

    @classmethod
    def of(cls, store: EventStore, order: Order = "delta_r") -> "Inputs":
        """From a finished store."""
        spec = store.spec
        hlf, particles = (
            tuple(feature.name for feature in features) for features in (spec.hlf, spec.particles)
        )
        return cls(
            spec.classes, hlf, particles, store.statistics, spec.definitions, spec.provenance, order
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for a checkpoint."""
        data = asdict(self)
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in data.items()
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Inputs":
        """Inverse of `to_dict`."""
        plain: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in data.items()
        }
        return cls(**plain)

    def require_same_features(self, other: "Inputs", where: str) -> None:
        """Refuse a checkpoint whose net was made for other inputs.

        Raises
        ------
        DataError
            Classes, features, their order or the physics definitions differ; the first difference is named.
        """
        for name in ("classes", "hlf", "particles", "definitions", "order"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise DataError(
                    f"{where}: made for {name} {words(mine)}, the store has {words(theirs)}. Give the store it was trained on."
                )


def words(value: Any) -> str:
    """Names side by side, or the value as it is."""
    return ", ".join(value) if isinstance(value, tuple) else str(value)
