"""The particle-sequence classifier: a recurrent net over the particles alone."""

from typing import ClassVar

from torch import Tensor, nn

from hepflow.models.inputs import Inputs
from hepflow.models.layers import CELLS, Cell, InputNorm, Scale, check_arguments
from hepflow.models.net import Net

# B events, P particles, C particle features, H hidden, K classes


class SequenceNet(Net):
    """GRU over the particles, dropout, one linear layer.

    Parameters
    ----------
    hidden : int
        Width of the recurrent state.
    dropout : float
        Fraction of the state dropped in training.
    cell : {"gru", "lstm"}
        Recurrent cell.
    scale : {"standard", "symlog"}
        Normalisation of the features, see InputNorm.
    """

    reads: ClassVar[tuple[str, ...]] = ("particles", "lengths")

    def __init__(
        self,
        inputs: Inputs,
        *,
        hidden: int = 50,
        dropout: float = 0.2,
        cell: Cell = "gru",
        scale: Scale = "standard",
    ) -> None:
        super().__init__(inputs, hidden=hidden, dropout=dropout, cell=cell, scale=scale)
        check_arguments(hidden=hidden, dropout=dropout)
        self.norm = InputNorm(inputs.statistics["particles"], scale)
        self.rnn = CELLS[cell](len(inputs.particles), hidden)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, len(inputs.classes))

    def forward(self, particles: Tensor, lengths: Tensor) -> Tensor:
        """Return logits (B, K) of the first ``lengths`` (B) of ``particles`` (B, P, C)."""
        h_BH = self.dropout(self.rnn(self.norm(particles), lengths))
        logits_BK: Tensor = self.head(h_BH)
        return logits_BK
