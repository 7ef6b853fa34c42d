"""Rotary position embeddings (Su et al. 2021, https://arxiv.org/abs/2104.09864), with transformers' scalings."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, dynamic_rope_update

from ...configuration import PlaitTransformerConfig


class PlaitRotaryEmbedding(nn.Module):
    """Computes the cosine and sine of the rotary angles, with any scaling of transformers
    (`rope_parameters["rope_type"]`)."""

    inv_freq: Tensor
    original_inv_freq: Tensor

    def __init__(self, config: PlaitTransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.rope_type = find_rope_parameters(config)["rope_type"]
        self.max_seq_len_cached = self.original_max_seq_len = config.max_position_embeddings
        scaled = ROPE_INIT_FUNCTIONS.get(self.rope_type, self.compute_default_rope_parameters)
        inverse_frequencies, self.attention_scaling = scaled(config)
        self.register_buffer("inv_freq", inverse_frequencies, persistent=False)
        self.register_buffer("original_inv_freq", inverse_frequencies.clone(), persistent=False)

    @staticmethod
    def compute_default_rope_parameters(config: PlaitTransformerConfig, **kwargs: Any) -> tuple[Tensor, float]:
        """Computes theta^(-2i / head_dim) for i = 0 .. head_dim / 2 - 1, equation 15, and the attention scaling 1."""
        exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float) / config.head_dim
        return 1.0 / find_rope_parameters(config)["rope_theta"] ** exponents, 1.0

    @torch.no_grad()
    @dynamic_rope_update
    def forward(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Maps positions: (batch, length) to cosine and sine, (batch, 1, length, head_dim) each, in the dtype of
        `x`."""
        with torch.autocast(x.device.type, enabled=False):
            angles = positions[:, None, :, None].float() * self.inv_freq.float()
            angles = torch.cat((angles, angles), dim=-1)
            cos, sin = angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling
        return cos.to(x.dtype), sin.to(x.dtype)


def find_rope_parameters(config: PlaitTransformerConfig) -> dict[str, Any]:
    """Returns the config's `rope_parameters`. Raises ValueError if they are None."""
    if config.rope_parameters is None:
        raise ValueError("rotary positions need rope_parameters, but config.rope_parameters is None: set them")
    return config.rope_parameters


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates each pair (x_i, x_{i + head_dim / 2}) by its angle (equation 34, with the pairs as Llama stores them).

    x: (batch, heads, length, head_dim); cos, sin: (batch, 1, length, head_dim).
    """
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin
