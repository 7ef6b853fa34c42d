"""Embedders: what turns the inputs of a modality into the tokens that the transformer reads."""

import torch
from torch import Tensor, nn


def interpolate_positions(table: Tensor, own: tuple[int, int], grid: tuple[int, int], first: int) -> Tensor:
    """A position table, (tokens, width): `first` rows of class tokens, then those of a grid of patches, interpolated
    (bicubic, in float32) to another grid."""
    if grid == own:
        return table
    patches = table[first:].unflatten(0, own).permute(2, 0, 1)[None].float()
    patches = nn.functional.interpolate(patches, size=grid, mode="bicubic", align_corners=False)
    return torch.cat((table[:first], patches[0].flatten(1).T.to(table.dtype)))


def to_height_width(size: int | list[int]) -> tuple[int, int]:
    """Height and width in pixels of a size given as one number or as [height, width]."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])
