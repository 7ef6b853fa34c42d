"""The denoiser: noisy images, their times and a condition to predicted images."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init

from ...configuration import PlaitDenoiserConfig
from ..core.adaptive import AdaptiveModulation, build_plain_norm, modulate
from ..core.layers import SelfInitializing
from ..core.transformer import PlaitTransformer
from ..towers.patches import interpolate_positions

TIME_FREQUENCIES = 64
SHORTEST, LONGEST = 1e-4, 1 - 1e-4  # times, whose log-odds must be finite


class TimeEmbedding(nn.Module):
    """Embeds a time by its log-odds l = log(t / (1 - t)), which spread the times near noise and image:
    MLP([cos(w_i 50 (l + 10)); sin(w_i 50 (l + 10))]) with w_i = 10000^(-i / 64) (Vaswani et al. 2017, section 3.5)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up_proj = nn.Linear(2 * TIME_FREQUENCIES, width)
        self.down_proj = nn.Linear(width, width)

    def forward(self, times: Tensor) -> Tensor:
        """Maps times: (batch,) to (batch, width)."""
        times = times.to(torch.promote_types(times.dtype, torch.float))
        places = torch.logit(times.clamp(SHORTEST, LONGEST)) + 10
        number = torch.arange(TIME_FREQUENCIES, dtype=times.dtype, device=times.device)
        angles = places[:, None] * 50 * torch.exp(-math.log(10_000) * number / TIME_FREQUENCIES)
        waves = torch.cat((angles.cos(), angles.sin()), dim=1).to(self.up_proj.weight.dtype)
        return self.down_proj(nn.functional.silu(self.up_proj(waves)))


class PlaitDenoiser(SelfInitializing):
    """A transformer over the patches of a noisy image (DiT, Peebles and Xie 2023, https://arxiv.org/abs/2212.09748).
    The tokens of the condition are read by cross-attention; their mean and the time set the adaptive norms."""

    def __init__(self, config: PlaitDenoiserConfig) -> None:
        super().__init__()
        self.config = config
        width, pixels = config.hidden_size, config.num_channels * config.patch_size**2
        rows, columns = config.grid
        self.input_proj = nn.Linear(pixels, width)
        self.position_embedding = nn.Embedding(rows * columns, width)
        self.time_embedding = TimeEmbedding(config.condition_size or width)
        self.context_norm = nn.LayerNorm(config.context_size, eps=config.norm_eps)
        self.pooled_proj = nn.Linear(config.context_size, config.condition_size or width)
        self.transformer = PlaitTransformer(config)
        self.output_norm = build_plain_norm(config)
        self.output_modulation = AdaptiveModulation(config, sublayers=0)
        self.output_proj = nn.Linear(width, pixels)

    def init_weights(self, std: float) -> None:
        """Initializes the positions with sines and cosines of row and column, and the linear layers uniformly within
        1 / sqrt(inputs); what a layer adds is divided by sqrt(layers), what the condition and the output add is 0."""
        init.copy_(self.position_embedding.weight, build_grid_sinusoids(*self.config.grid, self.config.hidden_size))
        modulations = {each.proj for each in self.modules() if isinstance(each, AdaptiveModulation)}
        for linear in self.modules():
            if isinstance(linear, nn.Linear) and linear not in modulations:
                init_linear(linear)
        layers: Any = self.transformer.layers
        for layer in layers:
            for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
                init_linear(linear, len(layers) ** -0.5)
            if layer.crosses:
                init.zeros_(layer.cross_attn.o_proj.weight)
        init.zeros_(self.output_proj.weight)

    def forward(self, noisy: Tensor, times: Tensor, context: Tensor, context_mask: Tensor) -> Tensor:
        """Predicts the image (or the velocity: `config.prediction`) of noisy images, (batch, channels, height, width).

        times: (batch,), 0 for noise, 1 for an image; context: (batch, tokens, context width), context_mask: (batch,
        tokens). Another size than the config's has interpolated positions; it is a multiple of the patch size.
        """
        size = self.config.patch_size
        grid = (noisy.shape[-2] // size, noisy.shape[-1] // size)
        x = self.input_proj(to_patches(noisy, size).to(self.input_proj.weight.dtype))
        x = x + interpolate_positions(self.position_embedding.weight, self.config.grid, grid, 0)
        condition = self.compute_condition(times, context, context_mask)
        context = self.context_norm(context)
        x = self.transformer(
            x, context=context, context_mask=context_mask, condition=condition, grid=grid
        ).last_hidden_state
        (modulation,) = self.output_modulation(condition)
        return from_patches(self.output_proj(modulate(x, self.output_norm, modulation)), grid, size)

    def compute_condition(self, times: Tensor, context: Tensor, context_mask: Tensor) -> Tensor:
        """Computes silu(time + W norm(mean of the context's tokens)), (batch, condition width)."""
        weights = context_mask[..., None].to(context.dtype)
        pooled = (context * weights).sum(dim=1) / weights.sum(dim=1)
        return nn.functional.silu(self.time_embedding(times) + self.pooled_proj(self.context_norm(pooled)))


def init_linear(linear: nn.Linear, gain: float = 1.0) -> None:
    """Initializes a linear layer uniformly within gain / sqrt(inputs), its bias with 0."""
    bound = gain * linear.in_features**-0.5
    init.uniform_(linear.weight, -bound, bound)
    if linear.bias is not None:
        init.zeros_(linear.bias)


def build_grid_sinusoids(rows: int, columns: int, width: int) -> Tensor:
    """Builds positions, (rows * columns, width): sines and cosines of the row, then of the column, with wavelengths
    from half of the grid on, at half amplitude."""
    quarter = width // 4
    frequencies = torch.exp(-math.log(16) * torch.arange(quarter) / max(quarter, 1))
    tables = []
    for count in (rows, columns):
        angles = torch.arange(count)[:, None] * (12 / count) * frequencies
        tables.append(torch.cat((angles.sin(), angles.cos()), dim=1))
    row, column = tables[0][:, None].expand(-1, columns, -1), tables[1][None].expand(rows, -1, -1)
    table = torch.cat((row, column), dim=2).flatten(0, 1) / 2
    return nn.functional.pad(table, (0, width - table.shape[1]))


def to_patches(images: Tensor, size: int) -> Tensor:
    """Cuts images, (batch, channels, height, width), into patches, (batch, patches, channels * size * size), row by
    row."""
    patches = images.unflatten(2, (-1, size)).unflatten(4, (-1, size))
    return patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def from_patches(patches: Tensor, grid: tuple[int, int], size: int) -> Tensor:
    """Joins patches, (batch, patches, channels * size * size), to images, (batch, channels, height, width)."""
    x = patches.unflatten(1, grid).unflatten(3, (-1, size, size))
    return x.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
