"""The parts of a layer that are not attention."""

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.activations import ACT2FN

from ..configuration import PlaitTransformerConfig

NORMS: dict[str, type[nn.Module]] = {"layer_norm": nn.LayerNorm, "rms_norm": nn.RMSNorm}


def norm_of(config: PlaitTransformerConfig, size: int | None = None) -> nn.Module:
    """The core's norm over the last dimension, `hidden_size` wide unless `size` is given."""
    return NORMS[config.norm_type](size or config.hidden_size, eps=config.norm_eps)


class Parameterised(nn.Module):
    """A module with parameters of its own beside those of its children: it says how they start."""

    def init_weights(self, std: float) -> None:
        """Initialise the module's own parameters (with `transformers.initialization`); `std` for random ones."""
        raise NotImplementedError


class LearnedTokens(Parameterised):
    """`count` learned vectors, `tokens`: (1, count, width)."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.empty(1, count, width))

    def init_weights(self, std: float) -> None:
        init.normal_(self.tokens, std=std)

    def forward(self, batch: int) -> Tensor:
        """The tokens for each row: (batch, count, width)."""
        return self.tokens.expand(batch, -1, -1)


class LayerScale(Parameterised):
    """A learned factor per channel (Touvron et al. 2021, https://arxiv.org/abs/2103.17239, equation 4)."""

    def __init__(self, width: int, start: float) -> None:
        super().__init__()
        self.start = start
        self.scale = nn.Parameter(torch.empty(width))

    def init_weights(self, std: float) -> None:
        init.constant_(self.scale, self.start)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class TanhGate(Parameterised):
    """tanh(a) x with a learned scalar a that starts at zero (Flamingo, Alayrac et al. 2022, section 2.2)."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.empty(1))

    def init_weights(self, std: float) -> None:
        init.zeros_(self.gate)

    def forward(self, x: Tensor) -> Tensor:
        return self.gate.tanh() * x


class PlaitMLP(nn.Module):
    """down(act(up(x))), token by token."""

    def __init__(self, config: PlaitTransformerConfig) -> None:
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.hidden_act = config.hidden_act
        self.act = ACT2FN[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act(self.up_proj(x)))


class PlaitGatedMLP(PlaitMLP):
    """down(act(gate(x)) * up(x)): SwiGLU and its kin (Shazeer 2020, https://arxiv.org/abs/2002.05202, equation 6)."""

    def __init__(self, config: PlaitTransformerConfig) -> None:
        super().__init__(config)
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act(self.gate_proj(x)) * self.up_proj(x))
