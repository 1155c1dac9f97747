"""Layers that the nets share."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hepflow.errors import ConfigError
from hepflow.models.gru import JaggedGRU, JaggedLSTM

# B events, P particles, C channels (any leading axes before it)

Scale = Literal["standard", "symlog"]
Cell = Literal["gru", "lstm"]
CELLS: Mapping[Cell, type[JaggedGRU | JaggedLSTM]] = {"gru": JaggedGRU, "lstm": JaggedLSTM}
"""Recurrent layers over padded sequences with lengths: (B, P, C), (B) -> (B, H)."""
HEAVY_TAIL = 10.0


class InputNorm(nn.Module):
    """Features -> numbers of order one, by the statistics of the training split.

    These are buffers, so a checkpoint or an exported model carries them. standard: subtract the
    mean, divide by the standard deviation. symlog: the same, but features with a heavy tail (an
    extreme beyond ten standard deviations, as momenta have) become ``sign(x) log(1 + |x| / rms)``.
    """

    shift: Tensor
    width: Tensor
    log: Tensor

    def __init__(self, statistics: Mapping[str, Any], scale: Scale = "standard") -> None:
        super().__init__()
        values = (statistics[name] for name in ("mean", "std", "min", "max"))
        mean, std, low, high = (torch.tensor(one, dtype=torch.float64) for one in values)
        std = torch.where(std > 0, std, 1.0)  # a constant feature becomes 0, not infinite
        tails = torch.maximum(high - mean, mean - low) / std > HEAVY_TAIL
        log = tails & (scale == "symlog")
        rms = (mean**2 + std**2).sqrt()
        self.register_buffer("shift", torch.where(log, 0.0, mean).float())
        self.register_buffer("width", torch.where(log, rms, std).float())
        self.register_buffer("log", log)
        self.uses_log = bool(log.any())

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as ``x`` (..., C)."""
        z = (x - self.shift) / self.width
        if not self.uses_log:
            return z
        return torch.where(self.log, torch.sign(z) * torch.log1p(z.abs()), z)


def check_arguments(*, dropout: float = 0.0, **sizes: int) -> None:
    """Refuse a net that torch could not build or run."""
    for name, size in sizes.items():
        if size < 1:
            raise ConfigError(f"model.net.{name} must be at least 1, got {size}")
    if not 0 <= dropout <= 1:
        raise ConfigError(f"model.net.dropout must be between 0 and 1, got {dropout}")
