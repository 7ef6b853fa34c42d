"""Tiny autoencoders on disk."""

from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from plait import PlaitForImageAutoencoding

KL = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 4,
    "sample_size": 16,
}
TINY = {
    "encoder_block_out_channels": (8, 8),
    "decoder_block_out_channels": (8, 8),
    "num_encoder_blocks": (1, 1),
    "num_decoder_blocks": (1, 1),
}
BY_CHANNEL = {"latents_mean": [0.1, 0.2, 0.3, 0.4], "latents_std": [1.0, 2.0, 3.0, 4.0]}
DIFFUSERS: dict[str, tuple[str, dict[str, Any]]] = {
    "kl": ("AutoencoderKL", {**KL, "shift_factor": 0.1}),
    "kl-by-channel": (
        "AutoencoderKL",
        {**KL, **BY_CHANNEL},
    ),
    "tiny": ("AutoencoderTiny", TINY),
}
OWN: dict[str, Any] = {"hidden_sizes": [8, 16], "latent_channels": 4}


def save_autoencoder(folder: Path, kind: str) -> str:
    """Saves an autoencoder of a kind of DIFFUSERS, or "own", with random weights."""
    torch.manual_seed(0)
    if kind == "own":
        autoencoder: Any = PlaitForImageAutoencoding.compose(autoencoder_config=OWN, verbose=False)
        for parameter in autoencoder.parameters():
            parameter.data.add_(torch.randn(parameter.shape) * 0.05)
    else:
        name, fields = DIFFUSERS[kind]
        autoencoder = getattr(import_module("diffusers"), name)(**fields)  # its import takes seconds
    autoencoder.save_pretrained(folder)
    return str(folder)
