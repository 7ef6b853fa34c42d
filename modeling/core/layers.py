"""The parts of a transformer layer other than attention: norms, activations, MLPs, residuals, learned tokens."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.activations import ACT2FN

from ...configuration import PlaitTransformerConfig
from ..kernels.activations import QuickGELU
from ..kernels.layers import compute_activated, compute_gated, compute_linear

NORMS: dict[str, type[nn.Module]] = {"layer_norm": nn.LayerNorm, "rms_norm": nn.RMSNorm}


def build_norm(config: PlaitTransformerConfig, size: int | None = None, eps: float | None = None) -> nn.Module:
    """Builds the config's norm over the last dimension, by default `hidden_size` wide and with `norm_eps`."""
    return NORMS[config.norm_type](size or config.hidden_size, eps=config.norm_eps if eps is None else eps)


def build_activation(name: str) -> nn.Module:
    """Builds the activation of this name in transformers. For the tanh form of GELU it is torch's single operation:
    some of transformers' take six, each of which keeps a tensor for the gradient."""
    if name in ("gelu_new", "gelu_fast", "gelu_pytorch_tanh"):
        return nn.GELU(approximate="tanh")
    return QuickGELU() if name == "quick_gelu" else ACT2FN[name]


class SelfInitializing(nn.Module):
    """A module that initializes its own parameters; those of its children are initialized by the model."""

    def init_weights(self, std: float) -> None:
        """Initializes the module's own parameters with `transformers.initialization`; `std` is the standard deviation
        of random ones."""
        raise NotImplementedError


class LearnedTokens(SelfInitializing):
    """A fixed number of learned vectors, `tokens`: (1, count, width)."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.empty(1, count, width))

    def init_weights(self, std: float) -> None:
        """Initializes the tokens from a normal distribution."""
        init.normal_(self.tokens, std=std)

    def forward(self, batch: int) -> Tensor:
        """Repeats the tokens for each row: (batch, count, width)."""
        return self.tokens.expand(batch, -1, -1)


class LayerScale(SelfInitializing):
    """A learned factor per channel (Touvron et al. 2021, https://arxiv.org/abs/2103.17239, equation 4)."""

    def __init__(self, width: int, start: float) -> None:
        super().__init__()
        self.start = start
        self.scale = nn.Parameter(torch.empty(width))

    def init_weights(self, std: float) -> None:
        """Sets every factor to `start`."""
        init.constant_(self.scale, self.start)

    def forward(self, x: Tensor) -> Tensor:
        """Scales x: (..., width)."""
        return x * self.scale


class TanhGate(SelfInitializing):
    """tanh(a) x with a learned scalar a that starts at zero (Flamingo, Alayrac et al. 2022, section 2.2)."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.empty(1))

    def init_weights(self, std: float) -> None:
        """Closes the gate: a is zero."""
        init.zeros_(self.gate)

    def forward(self, x: Tensor) -> Tensor:
        """Scales x: (..., width)."""
        return self.gate.tanh() * x


class Sinusoids(SelfInitializing):
    """A fixed table of sines and cosines, `weight`: (count, width) (Vaswani et al. 2017, section 3.5; all sines before
    all cosines, as in Whisper). As a buffer it is saved and loaded with the weights, but never trained."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        if width % 2 or width < 4:
            raise ValueError(f"sinusoidal positions need an even width of at least 4, not {width}")
        self.weight = nn.Buffer(compute_sinusoids(count, width))

    def init_weights(self, std: float) -> None:
        """Computes the table again, for a module that was built on the meta device."""
        init.copy_(self.weight, compute_sinusoids(*self.weight.shape))

    def forward(self, positions: Tensor) -> Tensor:
        """Looks positions: (...) up in the table: (..., width)."""
        return self.weight[positions]


def compute_sinusoids(count: int, width: int) -> Tensor:
    """Computes the table of `Sinusoids`, (count, width)."""
    half = width // 2
    rates = torch.exp(torch.arange(half) * (-math.log(10000) / (half - 1)))
    angles = torch.arange(count)[:, None] * rates
    return torch.cat((angles.sin(), angles.cos()), dim=1)


class PlaitMLP(nn.Module):
    """down(act(up(x))), applied to each token."""

    def __init__(self, config: PlaitTransformerConfig) -> None:
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.hidden_act = config.hidden_act
        self.act = build_activation(config.hidden_act)
        self.dropout = nn.Dropout(config.activation_dropout) if config.activation_dropout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Maps x: (batch, length, width) to the same shape."""
        return compute_linear(self.down_proj, self.dropout(compute_activated(self.up_proj, self.act, x)))


class PlaitGatedMLP(PlaitMLP):
    """down(act(gate(x)) * up(x)): gated linear units (Shazeer 2020, https://arxiv.org/abs/2002.05202, equation 6)."""

    def __init__(self, config: PlaitTransformerConfig) -> None:
        super().__init__(config)
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        """Maps x: (batch, length, width) to the same shape."""
        gated = compute_gated(self.gate_proj, self.act, self.up_proj, x)
        return compute_linear(self.down_proj, self.dropout(gated))


def build_scale(config: PlaitTransformerConfig) -> nn.Module:
    """Builds the scale of a sublayer's update: `LayerScale`, or the identity if the config has none."""
    return nn.Identity() if config.layer_scale is None else LayerScale(config.hidden_size, config.layer_scale)


class ResidualSublayers(nn.Module):
    """Sublayers with a residual connection: a function f (`name`) with its norm (`name_norm`) and its scale
    (`name_scale`) maps x to x + scale(f(norm(x))) with a norm before it, or to norm(x + scale(f(x))) with a norm after
    it (Xiong et al. 2020, https://arxiv.org/abs/2002.04745, figure 1)."""

    def __init__(self, config: PlaitTransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.pre_norm: dict[str, bool] = {}
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def add_sublayer(self, name: str, function: nn.Module, gated: bool = False) -> None:
        """Adds a function with its norm and its scale; `gated` makes the scale a `TanhGate`."""
        self.add_module(name, function)
        self.add_module(f"{name}_norm", build_norm(self.config))
        self.add_module(f"{name}_scale", TanhGate() if gated else build_scale(self.config))
        self.pre_norm[name] = gated or self.config.norm_position == "pre"  # with a closed gate x must pass unchanged

    def residual(self, x: Tensor, name: str, *inputs: Any) -> tuple[Tensor, Tensor | None]:
        """Maps x: (batch, length, width) through one sublayer to the same shape and, for attention, its weights.

        inputs: further arguments of the sublayer's function.
        """
        norm, pre_norm = getattr(self, f"{name}_norm"), self.pre_norm[name]
        output = getattr(self, name)(norm(x) if pre_norm else x, *inputs)
        update, weights = output if isinstance(output, tuple) else (output, None)
        x = x + self.dropout(getattr(self, f"{name}_scale")(update))
        return x if pre_norm else norm(x), weights
