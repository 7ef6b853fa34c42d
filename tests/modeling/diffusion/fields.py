"""A flow that is known in closed form, and tiny models."""

from typing import Any

import torch
from torch import Tensor

from plait import PlaitForImageGeneration
from plait.configuration import PlaitTextConfig, PlaitVisionConfig

MEAN, STD = 0.3, 0.2
SIZE, PATCH = 16, 4


def gaussian_velocity(x: Tensor, time: float) -> Tensor:
    """E[image - noise | x] for pixels from N(MEAN, STD^2), noise from N(0, 1) and x = t image + (1 - t) noise."""
    variance = (time * STD) ** 2 + (1 - time) ** 2
    centred = (x - time * MEAN) / variance
    return MEAN + time * STD**2 * centred - (1 - time) * centred


def gaussian_image(noise: Tensor) -> Tensor:
    """Where the flow of `gaussian_velocity` ends that begins at this noise."""
    return MEAN + STD * noise


def build_model(image: bool = False, spread: float = 0.1, **options: Any) -> PlaitForImageGeneration:
    """A tiny model whose denoiser has nothing at zero; `image` adds a second tower."""
    torch.manual_seed(0)
    shape: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    towers: dict[str, Any] = {"text": PlaitTextConfig(vocab_size=50, max_position_embeddings=16, **shape)}
    if image:
        towers["image"] = PlaitVisionConfig(image_size=8, patch_size=4, **shape)
    sizes = {"image_size": SIZE, "patch_size": PATCH, "hidden_size": 16, "num_hidden_layers": 2}
    options = {**sizes, "num_attention_heads": 2, "verbose": False, **options}
    model = PlaitForImageGeneration.compose(**towers, **options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in (*model.denoiser.parameters(), *model.null_condition.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=generator) * spread)
    return model.eval()


def make_inputs(rows: int = 3, image: bool = False) -> dict[str, Tensor]:
    """Ragged texts, and with `image` a picture for each."""
    generator = torch.Generator().manual_seed(2)
    mask = (torch.arange(7)[None] < torch.tensor([7, 4, 5])[:rows, None]).long()
    inputs = {"input_ids": torch.randint(1, 50, (rows, 7), generator=generator) * mask, "attention_mask": mask}
    if image:
        inputs["pixel_values"] = torch.randn(rows, 3, 8, 8, generator=generator)
    return inputs


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
