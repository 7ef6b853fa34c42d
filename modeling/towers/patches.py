"""Helpers for towers that cut an image or a spectrogram into patches."""

import torch
from torch import Tensor, nn


def add_positions(x: Tensor, positions: nn.Module, own: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Adds positions to tokens, x: (images, tokens, width), which are class tokens and then a `grid` of patches, (rows,
    columns). positions: an embedding of the class tokens and of the tower's `own` grid; see `interpolate_positions`."""
    first = x.shape[1] - grid[0] * grid[1]
    table = positions(torch.arange(first + own[0] * own[1], device=x.device))
    return x + interpolate_positions(table, own, grid, first)


def interpolate_positions(table: Tensor, own: tuple[int, int], grid: tuple[int, int], first: int) -> Tensor:
    """Interpolates a position table, (tokens, width), from its `own` grid of patches, (rows, columns), to
    another `grid` (bicubic, in float32). The `first` rows of the table belong to class tokens and stay as they are."""
    if grid == own:
        return table
    patches = table[first:].unflatten(0, own).permute(2, 0, 1)[None].float()
    patches = nn.functional.interpolate(patches, size=grid, mode="bicubic", align_corners=False)
    return torch.cat((table[:first], patches[0].flatten(1).T.to(table.dtype)))


def to_height_width(size: int | list[int]) -> tuple[int, int]:
    """Returns (height, width) in pixels of a size given as one number (a square) or as [height, width]."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])
