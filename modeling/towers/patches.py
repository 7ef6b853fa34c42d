"""Embedders: what turns the inputs of a modality into the tokens that the transformer reads."""

from itertools import pairwise
from math import log2

import torch
from torch import Tensor, nn
from transformers.utils.import_utils import is_torchdynamo_compiling

from ...configuration import PlaitTextConfig, PlaitVisionConfig
from ..core.layers import LearnedTokens


class TextEmbeddings(nn.Module):
    """Token + position + segment embeddings, each where the config has it."""

    token_embedding: nn.Module

    def __init__(self, config: PlaitTextConfig) -> None:
        super().__init__()
        self.position_offset, self.counted = config.position_offset, config.position_type == "counted"
        self.scale = config.embedding_scale
        self.pad_token_id = config.pad_token_id
        width = config.embedding_size
        self.token_embedding = nn.Embedding(config.vocab_size, width, padding_idx=config.pad_token_id)
        placed = config.position_type != "none"
        self.position_embedding = nn.Embedding(config.max_position_embeddings, width) if placed else None
        self.available = config.max_position_embeddings - config.position_offset
        self.type_embedding = nn.Embedding(config.type_vocab_size, width) if config.type_vocab_size else None

    def forward(
        self,
        input_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past: int = 0,
    ) -> Tensor:
        """input_ids (batch, length) or inputs_embeds (batch, length, width) to (batch, length, width).

        `past` tokens already stand in a cache. Raises ValueError when there are more tokens than positions.
        """
        x = self.token_embedding(input_ids) if inputs_embeds is None else inputs_embeds
        if self.scale != 1:
            x = x * self.scale
        if self.type_embedding is not None:
            x = x + self.type_embedding(
                x.new_zeros(x.shape[:2], dtype=torch.long) if token_type_ids is None else token_type_ids
            )
        if self.position_embedding is not None:
            if position_ids is None:
                position_ids = self.positions(x, input_ids, past)
            else:
                self.check(position_ids, past + x.shape[1])
                if self.position_offset and not self.counted:
                    position_ids = position_ids + self.position_offset
            x = x + self.position_embedding(position_ids)
        return x

    def positions(self, x: Tensor, input_ids: Tensor | None, past: int) -> Tensor:
        """Positions on the padded grid, or counted over real tokens (RoBERTa, padding having the padding's number)."""
        length, pad = x.shape[1] + past, self.pad_token_id
        if length > self.available:
            raise self.too_long(length)
        if self.counted and input_ids is not None and pad is not None:
            real = input_ids.ne(pad).long()
            return (real.cumsum(1) + past) * real + pad
        return torch.arange(past + self.position_offset, length + self.position_offset, device=x.device)[None]

    def check(self, position_ids: Tensor, length: int) -> None:
        """Raise ValueError for a position beyond the table; the values are read where padding alone could explain the
        length."""
        if length <= self.available or is_torchdynamo_compiling():
            return
        last = int(position_ids.max()) - (self.position_offset if self.counted else 0)
        if last >= self.available:
            raise self.too_long(last + 1)

    def too_long(self, length: int) -> ValueError:
        remedy = "truncate the text, or generate fewer tokens (max_new_tokens)"
        return ValueError(f"{length} tokens, but the text tower has {self.available} positions: {remedy}")


class ImageEmbeddings(nn.Module):
    """Patches of a picture (through one convolution or a convolutional stem), class tokens, learned positions."""

    patch_embedding: nn.Module

    def __init__(self, config: PlaitVisionConfig) -> None:
        super().__init__()
        self.num_channels = config.num_channels
        self.patch_size, image_size = size_of(config.patch_size), size_of(config.image_size)
        self.grid = (image_size[0] // self.patch_size[0], image_size[1] // self.patch_size[1])
        self.patch_embedding = STEMS[config.stem](config)
        self.class_tokens = nn.ModuleList(LearnedTokens(1, config.hidden_size) for _ in range(config.class_tokens))
        self.mask_token = LearnedTokens(1, config.hidden_size) if config.mask_token else None
        count = self.grid[0] * self.grid[1] + config.class_tokens
        learned = config.position_type == "learned"
        self.position_embedding = nn.Embedding(count, config.hidden_size) if learned else None

    def forward(self, pixel_values: Tensor) -> Tensor:
        """pixel_values: (images, channels, height, width) to (images, tokens, width)."""
        self.check(pixel_values)
        patches = self.patch_embedding(pixel_values.to(next(self.patch_embedding.parameters()).dtype))
        grid = (patches.shape[-2], patches.shape[-1])
        first = [token(len(patches)) for token in self.class_tokens]
        x = torch.cat((*first, patches.flatten(2).transpose(1, 2)), dim=1)
        if self.position_embedding is None:
            return x
        return x + interpolated(self.position_embedding.weight, self.grid, grid, len(first))

    def check(self, pixel_values: Tensor) -> None:
        """Raises ValueError for a wrong rank or number of channels, or a picture smaller than one patch."""
        if pixel_values.ndim != 4 or pixel_values.shape[1] != self.num_channels:
            shape = tuple(pixel_values.shape)
            raise ValueError(f"pictures have shape {shape}, not (images, {self.num_channels}, height, width)")
        height, width = pixel_values.shape[-2:]
        if height < self.patch_size[0] or width < self.patch_size[1]:
            raise ValueError(f"a picture of {height} x {width} pixels is smaller than a patch of {self.patch_size}")


def interpolated(table: Tensor, own: tuple[int, int], grid: tuple[int, int], first: int) -> Tensor:
    """A position table, (tokens, width): `first` rows of class tokens, then those of a grid of patches, interpolated
    (bicubic, in float32) to another grid."""
    if grid == own:
        return table
    patches = table[first:].unflatten(0, own).permute(2, 0, 1)[None].float()
    patches = nn.functional.interpolate(patches, size=grid, mode="bicubic", align_corners=False)
    return torch.cat((table[:first], patches[0].flatten(1).T.to(table.dtype)))


class PatchStem(nn.Conv2d):
    """One linear map of each patch (Dosovitskiy et al. 2020, equation 1)."""

    def __init__(self, config: PlaitVisionConfig) -> None:
        size = size_of(config.patch_size)
        super().__init__(config.num_channels, config.hidden_size, size, stride=size, bias=config.patch_bias)


class ConvolutionalStem(nn.Sequential):
    """Strided 3x3 convolutions that halve the picture until a pixel stands for a patch, then a 1x1 one (Xiao et al.
    2021); group norm in place of batch norm, so that rows do not depend on each other."""

    def __init__(self, config: PlaitVisionConfig) -> None:
        steps = log2(size_of(config.patch_size)[0])
        if not steps.is_integer() or steps < 1:
            raise ValueError(f"a convolutional stem needs a patch_size that is a power of two, not {config.patch_size}")
        steps = int(steps)
        widths = [config.num_channels, *(max(config.hidden_size >> (steps - step), 8) for step in range(1, steps + 1))]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.GroupNorm(1, after), nn.ReLU()]
        super().__init__(*layers, nn.Conv2d(widths[-1], config.hidden_size, 1))

    @property
    def weight(self) -> Tensor:
        return self.get_parameter(f"{len(self) - 1}.weight")


STEMS: dict[str, type[PatchStem] | type[ConvolutionalStem]] = {"patch": PatchStem, "conv": ConvolutionalStem}


def size_of(size: int | list[int]) -> tuple[int, int]:
    """Height and width in pixels of a size given as one number or as [height, width]."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])
