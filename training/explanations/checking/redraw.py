"""Weights redrawn part by part from the output down: an explanation of the model must change with them."""

from collections.abc import Generator

import torch
from torch import Tensor, nn

from ....configuration import DOCUMENT
from ....configuration.modalities import MODALITIES
from ....modeling.backbone.parts import group_parameters_by_part

TOP_DOWN = ("head", "decoder", "denoiser", "autoencoder", "fusion", DOCUMENT, *reversed(MODALITIES))


def redraw_weights(model: nn.Module, seed: int = 0) -> Generator[str]:
    """Redraws the model's weights in place, one more part at a time from the output down, and yields each part's name
    once its weights are redrawn too; then, also after an error, the weights are as they were before.

    Each tensor keeps its values, in a random order: sizes and scales stay, what was learned goes. Source: cascading
    randomization, Adebayo et al. 2018, https://arxiv.org/abs/1810.03292.
    """
    parts = group_parameters_by_part(model)
    kept = {name: value.detach().clone() for own in parts.values() for name, value in own.items()}
    generator = torch.Generator().manual_seed(seed)
    try:
        for part in TOP_DOWN:
            if part in parts:
                for parameter in parts[part].values():
                    shuffle_values(parameter, generator)
                yield part
    finally:
        with torch.no_grad():
            for own in parts.values():
                for name, parameter in own.items():
                    parameter.copy_(kept[name])


def shuffle_values(parameter: Tensor, generator: torch.Generator) -> None:
    """Puts the values of a tensor into a random order, in place."""
    order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
    with torch.no_grad():
        parameter.copy_(parameter.flatten()[order].view_as(parameter))
