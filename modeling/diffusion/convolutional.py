"""Our own convolutional coder: images to the distribution of their latents, and latents to images."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init

from ...configuration import PlaitAutoencoderConfig
from ..core.layers import SelfInitializing

FIRST_LOG_VARIANCE = -6.0
LEAST_LOG_VARIANCE, MOST_LOG_VARIANCE = -30.0, 20.0


class ResidualConvolutions(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), with 3x3 convolutions and group norms (Wu and He 2018,
    https://arxiv.org/abs/1803.08494). x: (batch, width, height, width)."""

    def __init__(self, width: int, group_size: int) -> None:
        super().__init__()
        self.first = build_activated_convolution(width, width, group_size)
        self.second = build_activated_convolution(width, width, group_size)

    def forward(self, x: Tensor) -> Tensor:
        """Returns x with the update."""
        return x + self.second(self.first(x))


class ConvolutionalCoder(SelfInitializing):
    """An encoder of residual convolutions, with a stride of 2 from level to level, and a decoder that mirrors it, with
    nearest-neighbour upsampling (Rombach et al. 2022, https://arxiv.org/abs/2112.10752, without attention)."""

    def __init__(self, config: PlaitAutoencoderConfig) -> None:
        super().__init__()
        widths, group = list(config.hidden_sizes), config.group_size
        self.encoder = nn.Sequential(nn.Conv2d(config.num_channels, widths[0], 3, padding=1))
        self.decoder = nn.Sequential(nn.Conv2d(config.latent_channels, widths[-1], 3, padding=1))
        for level, width in enumerate(widths):
            self.encoder.extend(ResidualConvolutions(width, group) for _ in range(config.depth))
            if level + 1 < len(widths):
                self.encoder.append(nn.Conv2d(width, widths[level + 1], 3, stride=2, padding=1))
        for level, width in reversed([*enumerate(widths)]):
            self.decoder.extend(ResidualConvolutions(width, group) for _ in range(config.depth))
            if level:
                self.decoder.append(nn.Upsample(scale_factor=2, mode="nearest"))
                self.decoder.append(nn.Conv2d(width, widths[level - 1], 3, padding=1))
        self.encoder.append(build_activated_convolution(widths[-1], 2 * config.latent_channels, group))
        self.decoder.append(build_activated_convolution(widths[0], config.num_channels, group))

    def init_weights(self, std: float) -> None:
        """Initializes the convolutions uniformly within 1 / sqrt(inputs), the last one of each update with 0. Latents
        begin with little variance, e^-6, so that training begins with the images and not with the noise."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                bound = (module.in_channels * module.kernel_size[0] * module.kernel_size[1]) ** -0.5
                init.uniform_(module.weight, -bound, bound)
                if module.bias is not None:
                    init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, ResidualConvolutions):
                init.zeros_(module.second[2].get_parameter("weight"))
        last: Any = self.encoder[-1]
        moments = last[2]
        begin = torch.zeros(moments.out_channels)
        begin[moments.out_channels // 2 :] = FIRST_LOG_VARIANCE
        init.copy_(moments.bias, begin)

    def compute_moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the mean and the standard deviation of the latents, each (batch, latent channels, height /
        downsampling, width / downsampling), of images, (batch, channels, height, width) from -1 to 1."""
        mean, log_variance = self.encoder(images).chunk(2, dim=1)
        return mean, (log_variance.clamp(LEAST_LOG_VARIANCE, MOST_LOG_VARIANCE) / 2).exp()

    def decode(self, latents: Tensor) -> Tensor:
        """Decodes latents to images."""
        return self.decoder(latents)


def build_activated_convolution(inputs: int, outputs: int, group_size: int) -> nn.Sequential:
    """Builds conv(silu(norm(x))), a 3x3 convolution."""
    norm = nn.GroupNorm(inputs // group_size, inputs, eps=1e-6)
    return nn.Sequential(norm, nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1))
