"""What a net is told about its inputs, and the interface that every net has.

A net is built from the store's own description: names, sizes and statistics come from there, never from constants.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any, ClassVar, Literal

from torch import nn

from hepflow.errors import ConfigError, DataError
from hepflow.store import EventStore

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
        hlf, particles = (tuple(feature.name for feature in features) for features in (spec.hlf, spec.particles))
        return cls(spec.classes, hlf, particles, store.statistics, spec.definitions, spec.provenance, order)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for a checkpoint."""
        data = asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in data.items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Inputs":
        """Inverse of `to_dict`."""
        plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
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
                msg = f"{where}: made for {name} {_words(mine)}, the store has {_words(theirs)}. Give the store it was trained on."
                raise DataError(msg)


class Net(nn.Module):
    """A classifier: named inputs -> logits, one a class.

    Subclasses name in ``reads`` the arguments of their ``forward``: some of ``hlf`` (B, F), ``particles`` (B, P, C; zero-padded) and
    ``lengths`` (B). Their ``forward`` gives logits (B, K). They hand their own arguments to this constructor, so that a checkpoint
    can rebuild them.
    """

    reads: ClassVar[tuple[str, ...]] = ()

    def __init__(self, inputs: Inputs, **arguments: Any) -> None:
        super().__init__()
        if len(inputs.classes) < 2:
            msg = f"a classifier needs two classes at least, the store has {_words(inputs.classes)}"
            raise ConfigError(msg)
        self.inputs = inputs
        self.arguments = arguments

    def describe(self) -> dict[str, Any]:
        """What `rebuild` needs, in plain types."""
        own = type(self)
        return {"net": f"{own.__module__}.{own.__qualname__}", "arguments": self.arguments, "inputs": self.inputs.to_dict()}


def rebuild(description: Mapping[str, Any]) -> Net:
    """The net of a description, with fresh weights."""
    module, name = str(description["net"]).rsplit(".", 1)
    own = getattr(import_module(module), name)
    net: Net = own(Inputs.from_dict(description["inputs"]), **description["arguments"])
    return net


def parameters(net: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


def _words(value: Any) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)
