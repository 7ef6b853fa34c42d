"""Embeds audio samples as tokens: the convolutions of wav2vec2 and HuBERT."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.activations import ACT2FN

from ...configuration import PlaitWaveformConfig
from ..core.layers import LearnedTokens, SelfInitializing
from ..core.precision import cast_to_module
from ..graphs import is_recording_graph


class AudioTokens(NamedTuple):
    """Embedded audio clips. tokens: (clips, tokens, width); mask: (clips, tokens) bool, None if every token is real."""

    tokens: Tensor
    mask: Tensor | None


class WaveformEmbeddings(nn.Module):
    """Embeds samples by strided convolutions, a projection, and positions from one more convolution (Baevski et al.
    2020, https://arxiv.org/abs/2006.11477, section 2). A clip shorter than the receptive field is padded with zeros."""

    item_dimensions = 1

    def __init__(self, config: PlaitWaveformConfig) -> None:
        super().__init__()
        self.receptive_field = config.receptive_field
        self.convolutions = nn.ModuleList(WaveConvolution(config, number) for number in range(len(config.conv_dim)))
        width = config.conv_dim[-1]
        self.norm = nn.LayerNorm(width, eps=config.norm_eps) if config.feat_proj_layer_norm else nn.Identity()
        self.projection = nn.Linear(width, config.hidden_size)
        self.dropout = nn.Dropout(config.feat_proj_dropout)
        self.mask_token = LearnedTokens(1, config.hidden_size) if config.mask_token else None
        self.position_embedding = ConvolutionalPositions(config)

    @property
    def entry(self) -> nn.Module:
        """The first convolution."""
        return self.convolutions[0].get_submodule("convolution")

    @entry.setter
    def entry(self, value: nn.Conv1d) -> None:
        self.convolutions[0].register_module("convolution", value)

    def forward(self, input_values: Tensor, mask: Tensor | None = None) -> AudioTokens:
        """Returns one token for each stride of samples; input_values and mask: (clips, samples)."""
        self.check(input_values, mask)
        short = max(self.receptive_field - input_values.shape[1], 0)
        x = nn.functional.pad(cast_to_module(input_values, self.convolutions), (0, short))[:, None]
        lengths = None if mask is None else mask.long().sum(1).clamp(min=self.receptive_field)
        for convolution in self.convolutions:
            x, lengths = convolution(x, lengths)
        x = self.dropout(self.projection(self.norm(x.transpose(1, 2))))
        real = None if lengths is None else build_length_mask(lengths, x.shape[1])
        x = x if real is None else x * real[..., None]
        return AudioTokens(x + self.position_embedding(x), real)

    def check(self, input_values: Tensor, mask: Tensor | None) -> None:
        """Raises ValueError for a wrong rank, no samples, or a mask with padding before the end."""
        if input_values.ndim != 2 or not input_values.shape[1]:
            raise ValueError(
                f"audio clips have shape {tuple(input_values.shape)}, not (clips, samples) with at least one sample"
            )
        if mask is not None and not is_recording_graph() and bool((mask[:, 1:] > mask[:, :-1]).any()):
            raise ValueError("input_values_mask has padding before the end of a clip: pad on the right")


def build_length_mask(lengths: Tensor, count: int) -> Tensor:
    """Returns a mask (clips, count), True for the first lengths[i] places of clip i; lengths: (clips,)."""
    return torch.arange(count, device=lengths.device)[None] < lengths[:, None]


class WaveConvolution(SelfInitializing):
    """Computes act(norm(convolution(x))) over time."""

    def __init__(self, config: PlaitWaveformConfig, number: int) -> None:
        super().__init__()
        before = config.conv_dim[number - 1] if number else 1
        after, self.kernel, self.stride = (
            config.conv_dim[number],
            config.conv_kernel[number],
            config.conv_stride[number],
        )
        self.convolution = nn.Conv1d(before, after, self.kernel, stride=self.stride, bias=config.conv_bias)
        normed = not number or config.feat_extract_norm == "layer"
        self.norm = CONVOLUTION_NORMS[config.feat_extract_norm if normed else "none"](after)
        self.act = ACT2FN[config.feat_extract_activation]

    def init_weights(self, std: float) -> None:
        """Draws weights by He et al. 2015 (https://arxiv.org/abs/1502.01852): layers keep the variance."""
        init.kaiming_normal_(self.convolution.weight)

    def forward(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Returns the output frames and their lengths; x: (clips, channels, frames); lengths: (clips,), real frames."""
        lengths = None if lengths is None else (lengths - self.kernel) // self.stride + 1
        return self.act(self.norm(self.convolution(x), lengths)), lengths


class NoNorm(nn.Module):
    """Returns x unchanged: no norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """Returns x, (clips, channels, frames)."""
        return x


class TimeNorm(nn.GroupNorm):
    """Norms each channel over the real frames of its clip, so that padding changes nothing."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Norms x, (clips, channels, frames); lengths: (clips,), the real frames, all if None."""
        if lengths is None:
            return super().forward(x)
        real, count = build_length_mask(lengths, x.shape[2])[:, None], lengths[:, None, None]
        centred = x - (x * real).sum(2, keepdim=True) / count
        variance = (centred.square() * real).sum(2, keepdim=True) / count
        return centred * (variance + self.eps).rsqrt() * self.weight[:, None] + self.bias[:, None]


class ChannelNorm(nn.LayerNorm):
    """Norms each frame over its channels."""

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Norms x, (clips, channels, frames)."""
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


CONVOLUTION_NORMS = {"none": NoNorm, "group": TimeNorm, "layer": ChannelNorm}


class ConvolutionalPositions(SelfInitializing):
    """Computes positions as act(convolution(x)), with the same number of frames: its neighbours tell a frame's position
    (Baevski et al. 2020, section 2). The weight is normalized over all dimensions but time: magnitude * direction /
    |direction| (Salimans and Kingma 2016, https://arxiv.org/abs/1602.07868, equation 2)."""

    def __init__(self, config: PlaitWaveformConfig) -> None:
        super().__init__()
        self.kernel, self.groups = config.num_conv_pos_embeddings, config.num_conv_pos_embedding_groups
        width = config.hidden_size
        self.magnitude = nn.Parameter(torch.empty(1, 1, self.kernel))
        self.direction = nn.Parameter(torch.empty(width, width // self.groups, self.kernel))
        self.bias = nn.Parameter(torch.empty(width))
        self.act = ACT2FN[config.feat_extract_activation]

    def init_weights(self, std: float) -> None:
        """Draws the direction from a normal distribution, and sets the magnitude to its norm."""
        init.normal_(self.direction, std=2 * math.sqrt(1 / (self.kernel * len(self.direction))))
        init.copy_(self.magnitude, self.compute_norm().detach())
        init.zeros_(self.bias)

    def compute_norm(self) -> Tensor:
        """Computes |direction|: (1, 1, kernel)."""
        return torch.linalg.vector_norm(self.direction, dim=(0, 1), keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        """Returns positions (clips, frames, width) of x (clips, frames, width)."""
        weight = self.direction * (self.magnitude / self.compute_norm())
        padded = nn.functional.conv1d(
            x.transpose(1, 2), weight, self.bias, padding=self.kernel // 2, groups=self.groups
        )
        return self.act(padded[..., : x.shape[1]]).transpose(1, 2)
