"""A small transformer over the hardest particles, with attention biased by their distances.

In the spirit of the Particle Transformer (Qu, Li, Qian, arXiv:2202.03772): pair features (distance
and relative transverse momentum) become a bias of the attention. The high-level features are one
more token, from which the head reads.

    hlf (B, F) ----------> 1 token  --+
                                      +--> T tokens -> attention blocks -> token 0 -> (B, K)
    hardest Q particles -> Q tokens --+                      ^
                     +---> pairs (B, Q, Q, 3) -> bias (B, A, T, T)
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from hepflow.errors import ConfigError, DataError
from hepflow.models.inputs import Inputs
from hepflow.models.layers import InputNorm, Scale, check_arguments
from hepflow.models.net import Net

# B events, P particles, Q kept particles, T tokens (Q + 1), C particle features,
# F high-level features, W width, A heads, K classes

TINY = 1e-6
EXCLUDED = -1e4  # bias of padding in the attention; finite, to keep the softmax free of NaN


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
        Particles of highest Pt that are kept; cost grows with its square.
    dropout : float
        Fraction dropped after each block in training.
    scale : {"standard", "symlog"}
        Normalisation of the features, see InputNorm.
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
        sizes = {"width": width, "heads": heads, "max_particles": max_particles}
        super().__init__(inputs, **sizes, layers=layers, dropout=dropout, scale=scale)
        check_arguments(**sizes, dropout=dropout)
        if width % heads:
            rule = "model.net.width must be a multiple of model.net.heads"
            raise ConfigError(f"{rule}, got {width} and {heads}")
        if missing := " and ".join(sorted({"Pt", "Eta", "Phi"} - set(inputs.particles))):
            why = "which the transformer needs for its pair features. Choose another net."
            raise DataError(f"the store has no particle feature {missing}, {why}")
        self.columns = tuple(inputs.particles.index(name) for name in ("Pt", "Eta", "Phi"))
        self.max_particles = max_particles
        self.norm_hlf = InputNorm(inputs.statistics["hlf"], scale)
        self.norm_particles = InputNorm(inputs.statistics["particles"], scale)
        self.embed_hlf = nn.Linear(len(inputs.hlf), width)
        embed = nn.Linear(len(inputs.particles), width), nn.GELU(), nn.Linear(width, width)
        self.embed_particles = nn.Sequential(*embed)
        self.pairs = nn.Sequential(nn.Linear(3, 8), nn.GELU(), nn.Linear(8, heads))
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, len(inputs.classes)))

    def forward(self, hlf: Tensor, particles: Tensor, lengths: Tensor) -> Tensor:
        """Return logits (B, K) of ``hlf`` (B, F) and the first ``lengths`` of ``particles``."""
        particles_BQC, real_BQ = self._hardest(particles, lengths)
        tokens_BQW = self.embed_particles(self.norm_particles(particles_BQC))
        x_BTW = torch.cat([self.embed_hlf(self.norm_hlf(hlf))[:, None], tokens_BQW], dim=1)
        pairs_BAQQ = self.pairs(self._pair_features(particles_BQC)).permute(0, 3, 1, 2)
        bias_BATT = functional.pad(pairs_BAQQ, (1, 0, 1, 0))  # no bias for the token of hlf
        seen_BT = functional.pad(real_BQ, (1, 0), value=True)
        bias_BATT = bias_BATT.masked_fill(~seen_BT[:, None, None, :], EXCLUDED)
        for block in self.blocks:
            x_BTW = block(x_BTW, bias_BATT)
        logits_BK: Tensor = self.head(x_BTW[:, 0])
        return logits_BK

    def _hardest(self, particles_BPC: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return the particles of highest Pt, and which are real; Q of them in any batch."""
        padded_BPC = functional.pad(particles_BPC, (0, 0, 0, self.max_particles))
        real_BP = torch.arange(padded_BPC.shape[1], device=lengths_B.device) < lengths_B[:, None]
        pt_BP = torch.where(real_BP, padded_BPC[..., self.columns[0]].clamp(min=0), -1.0)
        _, index_BQ = torch.topk(pt_BP, self.max_particles, dim=1)
        hardest_BQC = padded_BPC.gather(1, index_BQ[..., None].expand(-1, -1, padded_BPC.shape[2]))
        real_BQ = real_BP.gather(1, index_BQ)
        return torch.where(real_BQ[..., None], hardest_BQC, 0.0), real_BQ

    def _pair_features(self, particles_BQC: Tensor) -> Tensor:
        """Return logarithms of distance, relative Pt and Pt fraction per pair, (B, Q, Q, 3)."""
        pt, eta, phi = (particles_BQC[..., column] for column in self.columns)
        pt = pt.clamp(min=0)
        delta_phi = (phi[:, :, None] - phi[:, None, :] + torch.pi) % (2 * torch.pi) - torch.pi
        distance2 = (eta[:, :, None] - eta[:, None, :]) ** 2 + delta_phi**2
        softer = torch.minimum(pt[:, :, None], pt[:, None, :])
        share = softer / (pt[:, :, None] + pt[:, None, :] + TINY)
        log_distance, log_softer = 0.5 * torch.log(distance2 + TINY), torch.log(softer + TINY)
        relative_pt = log_distance + log_softer
        return torch.stack([log_distance, relative_pt, torch.log(share + TINY)], dim=-1)


class Block(nn.Module):
    """Attention and a dense layer, each with a layer norm before it and a shortcut around it."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_in, self.norm_mid = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        dense = nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        self.dense = nn.Sequential(*dense)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTW: Tensor, bias_BATT: Tensor) -> Tensor:
        """Return tokens (B, T, W), given a bias (B, A, T, T) of the attention's logits."""
        shape = (x_BTW.shape[0], x_BTW.shape[1], 3, self.heads, x_BTW.shape[2] // self.heads)
        q, k, v = self.to_qkv(self.norm_in(x_BTW)).view(shape).permute(2, 0, 3, 1, 4)
        seen_BATW = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias_BATT)
        x_BTW = x_BTW + self.dropout(self.out(seen_BATW.transpose(1, 2).flatten(2)))
        return x_BTW + self.dropout(self.dense(self.norm_mid(x_BTW)))
