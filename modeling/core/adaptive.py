"""Adaptive norms: a condition, one vector for each row, scales, shifts and gates what a layer computes."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import initialization as init

from ...configuration import PlaitTransformerConfig
from .layers import SelfInitializing


class Modulation(NamedTuple):
    """What a condition does to one sublayer: scale, shift and gate, (batch, 1, width) each."""

    scale: Tensor
    shift: Tensor
    gate: Tensor


class AdaptiveModulation(SelfInitializing):
    """The modulations of several sublayers, linear in the condition c (adaLN of DiT, Peebles and Xie 2023,
    https://arxiv.org/abs/2212.09748, section 3.2): (scale, shift, gate) = W c + b, with W and b zero at first and the
    gates' b at `adaptive_gate`."""

    def __init__(self, config: PlaitTransformerConfig, sublayers: int) -> None:
        super().__init__()
        self.sublayers, self.gate = sublayers, config.adaptive_gate or 0.0
        self.proj = nn.Linear(config.condition_size or config.hidden_size, 3 * sublayers * config.hidden_size)

    def init_weights(self, std: float) -> None:
        """Sets the projection to zero, but for the gates' bias."""
        init.zeros_(self.proj.weight)
        start = torch.zeros(self.sublayers, 3, self.proj.out_features // (3 * self.sublayers))
        start[:, 2] = self.gate
        init.copy_(self.proj.bias, start.flatten())

    def forward(self, condition: Tensor) -> list[Modulation]:
        """Computes the modulations of condition: (batch, condition width)."""
        parts = self.proj(condition)[:, None].chunk(3 * self.sublayers, dim=-1)
        return [Modulation(*parts[first : first + 3]) for first in range(0, len(parts), 3)]


def modulate(x: Tensor, norm: nn.Module, modulation: Modulation) -> Tensor:
    """Returns norm(x) (1 + scale) + shift; x: (batch, length, width)."""
    scale, shift, _ = modulation
    return torch.addcmul(shift, norm(x).to(scale.dtype), 1 + scale)


def build_plain_norm(config: PlaitTransformerConfig) -> nn.Module:
    """Builds the config's norm without learned scale and shift, which a modulation has in their place."""
    kind = nn.LayerNorm if config.norm_type == "layer_norm" else nn.RMSNorm
    return kind(config.hidden_size, eps=config.norm_eps, elementwise_affine=False)
