"""Adaptive norms: a condition, one vector for each row, scales, shifts and gates what a layer computes."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import initialization as init

from ...configuration import PlaitTransformerConfig
from .layers import SelfInitializing

NO_GATE: Any = None


class Modulation(NamedTuple):
    """What a condition does to one sublayer: scale, shift and gate, (batch, 1, width) each; to a norm alone, it has no
    gate."""

    scale: Tensor
    shift: Tensor
    gate: Tensor = NO_GATE


class AdaptiveModulation(SelfInitializing):
    """The modulations of several sublayers, linear in the condition c (adaLN of DiT, Peebles and Xie 2023,
    https://arxiv.org/abs/2212.09748, section 3.2): (scale, shift, gate) = W c + b, with W and b zero at first and the
    gates' b at `adaptive_gate`. Without sublayers, it is the (scale, shift) of one norm."""

    def __init__(self, config: PlaitTransformerConfig, sublayers: int) -> None:
        super().__init__()
        self.sublayers, self.gate = sublayers, config.adaptive_gate or 0.0
        width = config.hidden_size
        self.proj = nn.Linear(config.condition_size or width, (3 * sublayers or 2) * width)

    def init_weights(self, std: float) -> None:
        """Sets the projection to zero, but for the gates' bias."""
        init.zeros_(self.proj.weight)
        parts = torch.zeros(3 * self.sublayers or 2, 1)
        parts[2::3] = self.gate
        init.copy_(self.proj.bias, parts.expand(-1, self.proj.out_features // len(parts)).flatten())

    def forward(self, condition: Tensor) -> list[Modulation]:
        """Computes the modulations of condition: (batch, condition width)."""
        parts = self.proj(condition)[:, None].chunk(3 * self.sublayers or 2, dim=-1)
        return [Modulation(*parts[first : first + 3]) for first in range(0, len(parts), 3)]


def modulate(x: Tensor, norm: nn.Module, modulation: Modulation) -> Tensor:
    """Returns norm(x) (1 + scale) + shift; x: (batch, length, width)."""
    scale, shift, _ = modulation
    return torch.addcmul(shift, norm(x).to(scale.dtype), 1 + scale)


def build_plain_norm(config: PlaitTransformerConfig) -> nn.Module:
    """Builds the config's norm without learned scale and shift, which a modulation has in their place."""
    kind = nn.LayerNorm if config.norm_type == "layer_norm" else nn.RMSNorm
    return kind(config.hidden_size, eps=config.norm_eps, elementwise_affine=False)
