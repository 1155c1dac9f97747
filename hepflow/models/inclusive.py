"""The inclusive classifier: the particles' recurrent state and the high-level features."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from hepflow.models.inputs import Inputs
from hepflow.models.layers import CELLS, Cell, InputNorm, Scale, check_arguments
from hepflow.models.net import Net

# B events, P particles, C particle features, F high-level features, H hidden, K classes


class InclusiveNet(Net):
    """GRU over the particles and the high-level features, each with dropout, then a dense layer.

    12,353 parameters on the shipped features and classes.

    Parameters
    ----------
    hidden : int
        Width of the recurrent state.
    dense : int
        Width of the dense layer after both.
    dropout : float
        Fraction of the state, and of the high-level features, dropped in training.
    cell : {"gru", "lstm"}
        Recurrent cell.
    scale : {"standard", "symlog"}
        Normalisation of the features, see InputNorm.
    """

    reads: ClassVar[tuple[str, ...]] = ("hlf", "particles", "lengths")

    def __init__(
        self,
        inputs: Inputs,
        *,
        hidden: int = 50,
        dense: int = 25,
        dropout: float = 0.2,
        cell: Cell = "gru",
        scale: Scale = "standard",
    ) -> None:
        sizes = {"hidden": hidden, "dense": dense}
        super().__init__(inputs, **sizes, dropout=dropout, cell=cell, scale=scale)
        check_arguments(**sizes, dropout=dropout)
        self.norm_hlf = InputNorm(inputs.statistics["hlf"], scale)
        self.norm_particles = InputNorm(inputs.statistics["particles"], scale)
        self.rnn = CELLS[cell](len(inputs.particles), hidden)
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Linear(hidden + len(inputs.hlf), dense)
        self.head = nn.Linear(dense, len(inputs.classes))

    def forward(self, hlf: Tensor, particles: Tensor, lengths: Tensor) -> Tensor:
        """Return logits (B, K) of ``hlf`` (B, F) and the first ``lengths`` of ``particles``."""
        h_BH = self.dropout(self.rnn(self.norm_particles(particles), lengths))
        both = torch.cat([h_BH, self.dropout(self.norm_hlf(hlf))], dim=1)
        logits_BK: Tensor = self.head(torch.relu(self.dense(both)))
        return logits_BK
