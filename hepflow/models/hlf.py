"""The high-level classifier: a few dense layers on the features of the whole event."""

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

from torch import Tensor, nn

from hepflow.models.inputs import Inputs
from hepflow.models.layers import InputNorm, Scale, check_arguments
from hepflow.models.net import Net

# B events, F high-level features, K classes


class HLFNet(Net):
    """Dense ReLU layers: 14-50-20-10-3 on the shipped features and classes.

    Parameters
    ----------
    hidden : sequence of int
        Widths of the hidden layers.
    scale : {"standard", "symlog"}
        Normalisation of the features, see InputNorm.
    """

    reads: ClassVar[tuple[str, ...]] = ("hlf",)

    def __init__(
        self, inputs: Inputs, *, hidden: Sequence[int] = (50, 20, 10), scale: Scale = "standard"
    ) -> None:
        super().__init__(inputs, hidden=list(hidden), scale=scale)
        check_arguments(**{f"hidden[{i}]": width for i, width in enumerate(hidden)})
        self.norm = InputNorm(inputs.statistics["hlf"], scale)
        widths = [len(inputs.hlf), *hidden]
        layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], len(inputs.classes)))

    def forward(self, hlf: Tensor) -> Tensor:
        """Return logits (B, K) of ``hlf`` (B, F)."""
        logits_BK: Tensor = self.layers(self.norm(hlf))
        return logits_BK
