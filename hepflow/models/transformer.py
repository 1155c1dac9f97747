"""A small transformer over the hardest particles, whose attention knows how far apart two of them are.

In the spirit of the Particle Transformer (Qu, Li, Qian, arXiv:2202.03772): pair features of distance and relative transverse momentum
become a bias of the attention. The high-level features enter as one more token, from which the answer is read.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from hepflow.errors import ConfigError, DataError
from hepflow.models.inputs import Inputs
from hepflow.models.layers import InputNorm, Scale, check_arguments
from hepflow.models.net import Net

# B events, P particles, Q kept particles, T tokens (Q + 1), C particle features, F high-level features, W width, A heads, K classes

TINY = 1e-6
EXCLUDED = (
    -1e4
)  # of the attention's logits; finite, so that a token that sees nobody stays finite too


class TransformerNet(Net):
    """Attention over the hardest particles and one token of high-level features.

    Parameters
    ----------
    width : int
        Width of a token.
    heads : int
        Attention heads; they share the width.
    layers : int
        Attention blocks.
    max_particles : int
        Particles of highest Pt that are kept: the pairs grow with its square.
    dropout : float
        Share dropped behind each block in training.
    scale : {"standard", "symlog"}
        How features are normalised, see InputNorm.
    """

    reads: ClassVar[tuple[str, ...]] = ("hlf", "particles", "lengths")

    def __init__(
        self,
        inputs: Inputs,
        *,
        width: int = 48,
        heads: int = 4,
        layers: int = 2,
        max_particles: int = 40,
        dropout: float = 0.1,
        scale: Scale = "symlog",
    ) -> None:
        super().__init__(
            inputs,
            width=width,
            heads=heads,
            layers=layers,
            max_particles=max_particles,
            dropout=dropout,
            scale=scale,
        )
        check_arguments(width=width, heads=heads, max_particles=max_particles, dropout=dropout)
        if width % heads:
            raise ConfigError(
                f"model.net.width must be a multiple of model.net.heads, got {width} and {heads}"
            )
        if missing := {"Pt", "Eta", "Phi"} - set(inputs.particles):
            raise DataError(
                f"the store has no particle feature {' and '.join(sorted(missing))}, from which the transformer makes its pair features"
            )
        self.columns = tuple(inputs.particles.index(name) for name in ("Pt", "Eta", "Phi"))
        self.max_particles = max_particles
        self.norm_hlf = InputNorm(inputs.statistics["hlf"], scale)
        self.norm_particles = InputNorm(inputs.statistics["particles"], scale)
        self.embed_hlf = nn.Linear(len(inputs.hlf), width)
        self.embed_particles = nn.Sequential(
            nn.Linear(len(inputs.particles), width), nn.GELU(), nn.Linear(width, width)
        )
        self.pairs = nn.Sequential(nn.Linear(3, 8), nn.GELU(), nn.Linear(8, heads))
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, len(inputs.classes)))

    def forward(self, hlf: Tensor, particles: Tensor, lengths: Tensor) -> Tensor:
        """Logits (B, K) of ``hlf`` (B, F) and ``particles`` (B, P, C), of which the first ``lengths`` (B) count."""
        particles_BQC, real_BQ = self._hardest(particles, lengths)
        tokens_BQW = self.embed_particles(self.norm_particles(particles_BQC))
        x_BTW = torch.cat([self.embed_hlf(self.norm_hlf(hlf))[:, None], tokens_BQW], dim=1)
        bias_BATT = functional.pad(
            self.pairs(self._pair_features(particles_BQC)).permute(0, 3, 1, 2), (1, 0, 1, 0)
        )
        seen_BT = functional.pad(real_BQ, (1, 0), value=True)
        bias_BATT = bias_BATT.masked_fill(~seen_BT[:, None, None, :], EXCLUDED)
        for block in self.blocks:
            x_BTW = block(x_BTW, bias_BATT)
        logits_BK: Tensor = self.head(x_BTW[:, 0])
        return logits_BK

    def _hardest(self, particles_BPC: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """The particles of highest Pt, and which of them are there: shapes that do not depend on the longest event."""
        padded_BPC = functional.pad(particles_BPC, (0, 0, 0, self.max_particles))
        real_BP = torch.arange(padded_BPC.shape[1], device=lengths_B.device) < lengths_B[:, None]
        pt_BP = torch.where(real_BP, padded_BPC[..., self.columns[0]].clamp(min=0), -1.0)
        _, index_BQ = torch.topk(pt_BP, self.max_particles, dim=1)
        hardest_BQC = padded_BPC.gather(1, index_BQ[..., None].expand(-1, -1, padded_BPC.shape[2]))
        real_BQ = real_BP.gather(1, index_BQ)
        return torch.where(real_BQ[..., None], hardest_BQC, 0.0), real_BQ

    def _pair_features(self, particles_BQC: Tensor) -> Tensor:
        """Logarithms of distance, relative transverse momentum and momentum share of each pair, (B, Q, Q, 3)."""
        pt, eta, phi = (particles_BQC[..., column] for column in self.columns)
        pt = pt.clamp(min=0)
        delta_phi = (phi[:, :, None] - phi[:, None, :] + torch.pi) % (2 * torch.pi) - torch.pi
        distance2 = (eta[:, :, None] - eta[:, None, :]) ** 2 + delta_phi**2
        softer = torch.minimum(pt[:, :, None], pt[:, None, :])
        share = softer / (pt[:, :, None] + pt[:, None, :] + TINY)
        log_distance, log_softer = 0.5 * torch.log(distance2 + TINY), torch.log(softer + TINY)
        return torch.stack(
            [log_distance, log_distance + log_softer, torch.log(share + TINY)], dim=-1
        )


class Block(nn.Module):
    """Attention and a dense layer, each behind a layer norm and beside a shortcut."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_in, self.norm_mid = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.dense = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTW: Tensor, bias_BATT: Tensor) -> Tensor:
        """Tokens (B, T, W), with a bias (B, A, T, T) of the attention's logits."""
        split = (x_BTW.shape[0], x_BTW.shape[1], 3, self.heads, x_BTW.shape[2] // self.heads)
        q, k, v = self.to_qkv(self.norm_in(x_BTW)).view(split).permute(2, 0, 3, 1, 4)
        seen = (
            functional.scaled_dot_product_attention(q, k, v, attn_mask=bias_BATT)
            .transpose(1, 2)
            .flatten(2)
        )
        x_BTW = x_BTW + self.dropout(self.out(seen))
        return x_BTW + self.dropout(self.dense(self.norm_mid(x_BTW)))
