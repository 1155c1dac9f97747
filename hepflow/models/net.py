"""The interface of a net, which is built from the store's own description, not from constants."""

import sys
from collections.abc import Mapping
from hashlib import blake2b
from importlib import import_module
from typing import Any, ClassVar

from torch import nn

from hepflow.errors import ConfigError
from hepflow.models.inputs import Inputs, words


class Net(nn.Module):
    """A classifier: named inputs -> logits, one per class.

    Subclasses name in ``reads`` the arguments of their ``forward``: some of ``hlf`` (B, F),
    ``particles`` (B, P, C; zero-padded) and ``lengths`` (B). Their ``forward`` returns logits
    (B, K). They pass their own arguments to this constructor, so that a checkpoint can rebuild
    them.
    """

    reads: ClassVar[tuple[str, ...]] = ()

    def __init__(self, inputs: Inputs, **arguments: Any) -> None:
        super().__init__()
        if len(inputs.classes) < 2:
            known = words(inputs.classes)
            raise ConfigError(f"a classifier needs at least two classes, the store has {known}")
        self.inputs, self.arguments = inputs, arguments

    def describe(self) -> dict[str, Any]:
        """Return what `rebuild` needs, in plain types."""
        net = f"{type(self).__module__}.{type(self).__qualname__}"
        return {"net": net, "arguments": self.arguments, "inputs": self.inputs.to_dict()}


def rebuild(description: Mapping[str, Any]) -> Net:
    """Return the net of a description, with new weights."""
    module, _, name = str(description["net"]).rpartition(".")
    try:
        if module.partition(".")[0] in sys.stdlib_module_names:  # some do things when imported
            raise ImportError("no net is in Python's own modules")
        own = getattr(import_module(module), name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        why = f"cannot import the checkpoint's net {module}.{name} ({error})"
        raise ConfigError(f"{why}. Add its folder to PYTHONPATH.") from error
    if not (isinstance(own, type) and issubclass(own, Net)):  # a checkpoint may name anything
        raise ConfigError(f"{module}.{name}: not a subclass of hepflow.models.net.Net.")
    net: Net = own(Inputs.from_dict(description["inputs"]), **description["arguments"])
    return net


def weights_hash(net: nn.Module) -> str:
    """Return a hash of the weights at single precision, the same for checkpoint and export."""
    state = blake2b(digest_size=8)
    for name, value in sorted(net.state_dict().items()):
        state.update(name.encode())
        state.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return state.hexdigest()


def parameters(net: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)
