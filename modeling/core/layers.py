"""The parts of a layer that are not attention."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.activations import ACT2FN

from ...configuration import PlaitTransformerConfig

NORMS: dict[str, type[nn.Module]] = {"layer_norm": nn.LayerNorm, "rms_norm": nn.RMSNorm}


def build_norm(config: PlaitTransformerConfig, size: int | None = None, eps: float | None = None) -> nn.Module:
    """The core's norm over the last dimension, `hidden_size` wide and with the core's epsilon unless others are
    given."""
    return NORMS[config.norm_type](size or config.hidden_size, eps=config.norm_eps if eps is None else eps)


def build_activation(name: str) -> nn.Module:
    """The activation of that name in transformers. The tanh form of GELU, which some of its names spell out in six
    operations that each keep a tensor for the gradient, is torch's one."""
    if name in ("gelu_new", "gelu_fast", "gelu_pytorch_tanh"):
        return nn.GELU(approximate="tanh")
    return QuickGELU() if name == "quick_gelu" else ACT2FN[name]


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x) (Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415, section 2), through SiLU,
    z sigmoid(z) with z = 1.702 x: without gradients one new tensor in the place of three."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (...) to the same."""
        if torch.is_grad_enabled():
            return nn.functional.silu(x * 1.702) / 1.702
        return nn.functional.silu(x * 1.702, inplace=True).div_(1.702)


def quick_gelu_(x: Tensor) -> Tensor:
    """The same in place, without gradients."""
    return nn.functional.silu(x.mul_(1.702), inplace=True).div_(1.702)


class SelfInitializing(nn.Module):
    """A module with parameters of its own beside those of its children: it says how they start."""

    def init_weights(self, std: float) -> None:
        """Initialise the module's own parameters (with `transformers.initialization`); `std` for random ones."""
        raise NotImplementedError


class LearnedTokens(SelfInitializing):
    """`count` learned vectors, `tokens`: (1, count, width)."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.empty(1, count, width))

    def init_weights(self, std: float) -> None:
        init.normal_(self.tokens, std=std)

    def forward(self, batch: int) -> Tensor:
        """The tokens for each row: (batch, count, width)."""
        return self.tokens.expand(batch, -1, -1)


class LayerScale(SelfInitializing):
    """A learned factor per channel (Touvron et al. 2021, https://arxiv.org/abs/2103.17239, equation 4)."""

    def __init__(self, width: int, start: float) -> None:
        super().__init__()
        self.start = start
        self.scale = nn.Parameter(torch.empty(width))

    def init_weights(self, std: float) -> None:
        init.constant_(self.scale, self.start)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class TanhGate(SelfInitializing):
    """tanh(a) x with a learned scalar a that starts at zero (Flamingo, Alayrac et al. 2022, section 2.2)."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.empty(1))

    def init_weights(self, std: float) -> None:
        init.zeros_(self.gate)

    def forward(self, x: Tensor) -> Tensor:
        return self.gate.tanh() * x


class Sinusoids(SelfInitializing):
    """A table of sines and cosines, `weight`: (count, width), that is not trained (Vaswani et al. 2017, section 3.5;
    all sines before all cosines, as in Whisper). A buffer: it is saved and read with the weights, and stays frozen."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        if width % 2 or width < 4:
            raise ValueError(f"sinusoidal positions need an even width of at least 4, not {width}")
        self.weight = nn.Buffer(torch.empty(count, width))

    def init_weights(self, std: float) -> None:
        count, half = self.weight.shape[0], self.weight.shape[1] // 2
        rates = torch.exp(torch.arange(half) * (-math.log(10000) / (half - 1)))
        angles = torch.arange(count)[:, None] * rates
        init.copy_(self.weight, torch.cat((angles.sin(), angles.cos()), dim=1))

    def forward(self, positions: Tensor) -> Tensor:
        """positions: (...) to (..., width)."""
        return self.weight[positions]


class PlaitMLP(nn.Module):
    """down(act(up(x))), token by token."""

    def __init__(self, config: PlaitTransformerConfig) -> None:
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.hidden_act = config.hidden_act
        self.act = build_activation(config.hidden_act)
        self.dropout = nn.Dropout(config.activation_dropout) if config.activation_dropout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.dropout(self.act(self.up_proj(x))))


class PlaitGatedMLP(PlaitMLP):
    """down(act(gate(x)) * up(x)): SwiGLU and its kin (Shazeer 2020, https://arxiv.org/abs/2002.05202, equation 6)."""

    def __init__(self, config: PlaitTransformerConfig) -> None:
        super().__init__(config)
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.dropout(self.act(self.gate_proj(x)) * self.up_proj(x)))


def build_scale(config: PlaitTransformerConfig) -> nn.Module:
    return nn.Identity() if config.layer_scale is None else LayerScale(config.hidden_size, config.layer_scale)


class ResidualSublayers(nn.Module):
    """Sublayers that are added to the running tokens by one rule: a function f (`name`) with its norm (`name_norm`)
    and its scale (`name_scale`), where x becomes x + scale(f(norm(x))) when the norm comes first and
    norm(x + scale(f(x))) when it comes last (Xiong et al. 2020, https://arxiv.org/abs/2002.04745, figure 1)."""

    def __init__(self, config: PlaitTransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.pre_norm: dict[str, bool] = {}
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def add_sublayer(self, name: str, function: nn.Module, gated: bool = False) -> None:
        self.add_module(name, function)
        self.add_module(f"{name}_norm", build_norm(self.config))
        self.add_module(f"{name}_scale", TanhGate() if gated else build_scale(self.config))
        self.pre_norm[name] = gated or self.config.norm_position == "pre"  # after a gate at zero, no norm may follow

    def residual(self, x: Tensor, name: str, *inputs: Any) -> tuple[Tensor, Tensor | None]:
        """x: (batch, length, width) to the same, and the weights where the sublayer is an attention."""
        norm, pre_norm = getattr(self, f"{name}_norm"), self.pre_norm[name]
        output = getattr(self, name)(norm(x) if pre_norm else x, *inputs)
        update, weights = output if isinstance(output, tuple) else (output, None)
        x = x + self.dropout(getattr(self, f"{name}_scale")(update))
        return x if pre_norm else norm(x), weights
