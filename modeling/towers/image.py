"""The image tower that cuts an image into patches (ViT)."""

from collections.abc import Callable
from itertools import pairwise
from math import log2

import torch
from torch import Tensor, nn

from ...configuration import PlaitVisionConfig
from ..core.layers import LearnedTokens
from ..core.pooling import build_pooler, build_tower_output
from ..core.precision import cast_to_module
from ..core.transformer import PlaitTransformer
from ..outputs import LayerChoice, TowerOutput
from .patches import add_positions, to_height_width


class ImageTower(nn.Module):
    """The image tower of the ViT family: patches of an image to tokens."""

    def __init__(self, config: PlaitVisionConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = ImageEmbeddings(config)
        self.transformer = PlaitTransformer(config)
        self.pooler = build_pooler(config)

    def forward(
        self, pixel_values: Tensor, output_hidden_states: LayerChoice = False, output_attentions: bool = False
    ) -> TowerOutput:
        """Encodes images; pixel_values: (images, channels, height, width)."""
        x = self.embeddings(pixel_values)
        result = self.transformer(x, output_hidden_states=output_hidden_states, output_attentions=output_attentions)
        return build_tower_output(result, x.new_ones(x.shape[:2], dtype=torch.bool), self.pooler)

    def get_input_embeddings(self) -> nn.Module:
        """Returns the layer that embeds the patches."""
        return self.embeddings.patch_embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the layer that embeds the patches."""
        self.embeddings.patch_embedding = value


class ImageEmbeddings(nn.Module):
    """Embeds the patches of an image (by one convolution or a convolutional stem), after class tokens, with learned
    positions."""

    patch_embedding: nn.Module

    def __init__(self, config: PlaitVisionConfig) -> None:
        super().__init__()
        self.num_channels = config.num_channels
        self.patch_size, image_size = to_height_width(config.patch_size), to_height_width(config.image_size)
        self.grid = (image_size[0] // self.patch_size[0], image_size[1] // self.patch_size[1])
        self.patch_embedding = STEMS[config.stem](config)
        self.class_tokens = nn.ModuleList(LearnedTokens(1, config.hidden_size) for _ in range(config.class_tokens))
        self.mask_token = LearnedTokens(1, config.hidden_size) if config.mask_token else None
        count = self.grid[0] * self.grid[1] + config.class_tokens
        learned = config.position_type == "learned"
        self.position_embedding = nn.Embedding(count, config.hidden_size) if learned else None

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Returns tokens (images, tokens, width) of pixel_values (images, channels, height, width)."""
        self.check(pixel_values)
        patches = self.patch_embedding(cast_to_module(pixel_values, self.patch_embedding))
        grid = (patches.shape[-2], patches.shape[-1])
        first = [token(patches.shape[0]) for token in self.class_tokens]
        x = torch.cat((*first, patches.flatten(2).transpose(1, 2)), dim=1)
        if self.position_embedding is None:
            return x
        return add_positions(x, self.position_embedding, self.grid, grid)

    def check(self, pixel_values: Tensor) -> None:
        """Raises ValueError for a wrong rank or number of channels, or an image smaller than one patch."""
        if pixel_values.ndim != 4 or pixel_values.shape[1] != self.num_channels:
            shape = tuple(pixel_values.shape)
            raise ValueError(f"images have shape {shape}, not (images, {self.num_channels}, height, width)")
        height, width = pixel_values.shape[-2:]
        if height < self.patch_size[0] or width < self.patch_size[1]:
            raise ValueError(
                f"an image of {height} x {width} pixels is smaller than a patch of {self.patch_size}: enlarge it"
            )


def build_patch_stem(config: PlaitVisionConfig) -> nn.Conv2d:
    """Builds the stem of ViT: one linear map of each patch (Dosovitskiy et al. 2020, equation 1)."""
    size = to_height_width(config.patch_size)
    return nn.Conv2d(config.num_channels, config.hidden_size, size, stride=size, bias=config.patch_bias)


class ConvolutionalStem(nn.Sequential):
    """A stem of strided 3x3 convolutions that halve the image until one pixel stands for one patch, then a 1x1
    convolution (Xiao et al. 2021); group norm replaces batch norm, so that images do not depend on each other."""

    def __init__(self, config: PlaitVisionConfig) -> None:
        steps = log2(to_height_width(config.patch_size)[0])
        if not steps.is_integer() or steps < 1:
            raise ValueError(f"patch_size is {config.patch_size}: a convolutional stem needs a power of two")
        steps = int(steps)
        widths = [config.num_channels, *(max(config.hidden_size >> (steps - step), 8) for step in range(1, steps + 1))]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.GroupNorm(1, after), nn.ReLU()]
        super().__init__(*layers, nn.Conv2d(widths[-1], config.hidden_size, 1))

    @property
    def weight(self) -> Tensor:
        """The weight of the last convolution."""
        return self.get_parameter(f"{len(self) - 1}.weight")


STEMS: dict[str, Callable[[PlaitVisionConfig], nn.Module]] = {"patch": build_patch_stem, "conv": ConvolutionalStem}
