"""The autoencoders of diffusers, as coders."""

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...configuration.autoencoder import DIFFUSERS_WIDTHS


class DiffusersCoder(nn.Module):
    """diffusers' AutoencoderKL or AutoencoderTiny (extra `diffusers`). content: its config, with its `_class_name`.

    Raises ImportError without diffusers.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        super().__init__()
        autoencoder_class = import_autoencoder(content["_class_name"])
        self.module = autoencoder_class.from_config(dict(content))
        self.is_tiny = content["_class_name"] == "AutoencoderTiny"

    def compute_moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the mean and the standard deviation (0 of an AutoencoderTiny) of the latents of images, (batch,
        channels, height, width) from -1 to 1."""
        encoded = self.module.encode(images)
        if self.is_tiny:
            return encoded.latents, torch.zeros_like(encoded.latents)
        return encoded.latent_dist.mean, encoded.latent_dist.std

    def decode(self, latents: Tensor) -> Tensor:
        """Decodes latents to images."""
        return self.module.decode(latents).sample


def import_autoencoder(name: str) -> Any:
    """Imports a class of diffusers.

    Raises ImportError, which names the extra, without diffusers.
    """
    try:
        import diffusers
    except ImportError as error:
        raise ImportError(
            f"the autoencoder is diffusers' {name}, and diffusers is not installed: pip install 'plait[diffusers]'"
        ) from error
    return getattr(diffusers, name)


def load_diffusers(name: str, class_name: Any, options: Mapping[str, Any]) -> nn.Module:
    """Loads an autoencoder of diffusers from a folder or the Hub, in float32.

    Raises ValueError for another class than AutoencoderKL and AutoencoderTiny.
    """
    if class_name not in DIFFUSERS_WIDTHS:
        raise ValueError(
            f"{name} holds diffusers' {class_name}: pass an autoencoder of {' or '.join(DIFFUSERS_WIDTHS)}"
        )
    return import_autoencoder(class_name).from_pretrained(name, **options)


def read_diffusers_config(module: Any) -> dict[str, Any]:
    """Returns the config of an autoencoder of diffusers with its class's name, as a JSON file holds it."""
    fields = {key: value for key, value in module.config.items() if not key.startswith("_")}
    return json.loads(json.dumps({"_class_name": type(module).__name__, **fields}))


def find_latent_scale(content: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Returns the mean and the standard deviation, (channels,), by which latents are standardized, from the config of
    an autoencoder of diffusers: (z - shift_factor) * scaling_factor, with `latents_mean` and `latents_std` (z -
    latents_mean) * scaling_factor / latents_std."""
    ones = torch.ones(content["latent_channels"])
    mean, std = content.get("latents_mean"), content.get("latents_std")
    if mean is None or std is None:
        mean, std = content.get("shift_factor") or 0.0, 1.0
    return ones * torch.tensor(mean), ones * torch.tensor(std) / content["scaling_factor"]
