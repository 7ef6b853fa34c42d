"""Autoencoders: images to the latents that a denoiser works on, and back."""

from collections.abc import Iterable
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from ...configuration import ImageShape, PlaitAutoencoderConfig
from .convolutional import ConvolutionalCoder
from .diffusers_coder import DiffusersCoder
from .scale import FeatureScale

OUTPUT_TYPES = ("pil", "pt", "np")  # of generated images


class LatentScale(FeatureScale):
    """Standardizes latents, (batch, channels, height, width), by channel: (z - mean) / std."""

    def forward(self, latents: Tensor) -> Tensor:
        """Standardizes latents."""
        return (latents - self.mean[:, None, None]) / self.std[:, None, None]

    def invert(self, latents: Tensor) -> Tensor:
        """Turns standardized latents into those of the autoencoder."""
        return latents * self.std[:, None, None] + self.mean[:, None, None]

    def fit(self, batches: Iterable[Tensor]) -> int:
        """Sets mean and standard deviation to those of latents that are not yet standardized; returns the number of
        their positions.

        Raises ValueError if there is none, or for a channel that is constant.
        """
        count = self.set_from(latents.movedim(1, -1).flatten(0, -2) for latents in batches)
        if not count:
            raise ValueError("the training data have no image at all: no latents to standardize by")
        if not bool((self.std > 0).all()):
            raise ValueError(
                f"channel {int(self.std.argmin())} of the latents is constant: train the autoencoder longer"
            )
        return count


class Posterior(NamedTuple):
    """The distribution of an image's latents: independent normal ones. mean, std: (batch, latent channels, height,
    width); std is 0 for an autoencoder without one."""

    mean: Tensor
    std: Tensor

    def draw(self) -> Tensor:
        """Draws latents."""
        return self.mean + self.std * torch.randn_like(self.mean)

    def compute_divergence(self) -> Tensor:
        """Computes the divergence from the standard normal, (batch,): the sum of (mean^2 + std^2 - 1) / 2 - log std
        (Kingma and Welling 2014, https://arxiv.org/abs/1312.6114, appendix B)."""
        return ((self.mean.square() + self.std.square() - 1) / 2 - self.std.log()).flatten(1).sum(dim=1)


class PixelCoder(nn.Module):
    """What stands in the place of an autoencoder in a model without one: its latents are the images themselves."""

    output_types = OUTPUT_TYPES

    def encode(self, images: Tensor, draw: bool = False) -> Tensor:
        """Returns the images, (batch, channels, height, width)."""
        return images

    def decode(self, latents: Tensor) -> Tensor:
        """Returns the images, (batch, channels, height, width)."""
        return latents


class ImageAutoencoder(nn.Module):
    """An autoencoder whose weights are fixed: images to standardized latents and back. Its coder is our own, or one of
    diffusers with the scale of its config."""

    output_types = (*OUTPUT_TYPES, "latent")

    def __init__(self, config: PlaitAutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.coder = build_coder(config)
        self.scale = LatentScale(config.latent_channels)
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Leaves the autoencoder in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def encode(self, images: Tensor, draw: bool = False) -> Tensor:
        """Encodes images, (batch, channels, height, width) from -1 to 1, to standardized latents, (batch, latent
        channels, height / downsampling, width / downsampling), in float32 or wider: the mean of their distribution, or
        with `draw` random ones."""
        posterior = self.compute_posterior(images)
        latents = posterior.draw() if draw else posterior.mean
        return self.scale(latents.to(torch.promote_types(latents.dtype, torch.float)))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decodes standardized latents to images, in the latents' dtype."""
        return self.coder.decode(self.scale.invert(latents).to(self.dtype)).to(latents.dtype)

    def compute_posterior(self, images: Tensor) -> Posterior:
        """Computes the distribution of the coder's own latents of images."""
        return Posterior(*self.coder.compute_moments(images.to(self.dtype)))

    @property
    def shape(self) -> ImageShape:
        """The smallest image."""
        side = self.config.downsampling
        return ImageShape(self.config.num_channels, side, side, 1, side)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the coder's weights."""
        return next(self.coder.parameters()).dtype

    def fit_scale(self, batches: Iterable[Tensor]) -> int:
        """Sets the scale to that of the latents of these batches of images; returns the number of their positions."""
        with torch.no_grad():
            return self.scale.fit(self.compute_posterior(images).mean for images in batches)


def build_coder(config: PlaitAutoencoderConfig) -> Any:
    """Builds our own coder, or that of diffusers which the config names."""
    return ConvolutionalCoder(config) if config.diffusers_config is None else DiffusersCoder(config.diffusers_config)


def build_autoencoder(config: PlaitAutoencoderConfig | None) -> ImageAutoencoder | PixelCoder:
    """Builds the autoencoder of a model's config; without one, what stands in its place."""
    return PixelCoder() if config is None else ImageAutoencoder(config)


def compute_reconstruction_losses(images: Tensor, references: Tensor, divergence: Tensor, weight: float) -> Tensor:
    """Computes each row's loss, (batch,), of reconstructed images of n values: (|x - x'|_1 + weight * divergence) / n.

    images, references: (batch, channels, height, width); divergence: (batch,)."""
    errors = (images - references).abs().flatten(1).mean(dim=1)
    return errors + weight / references[0].numel() * divergence
