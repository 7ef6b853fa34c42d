"""Learned relative positions on a grid: a number for each head and offset between two patches, added to the scores."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import initialization as init

from ...configuration import PlaitTransformerConfig
from .layers import SelfInitializing

EIGHTHS = 8  # distances are counted in eighths of the grid, whatever its resolution


class GridOffsets(NamedTuple):
    """The offsets between all pairs of patches of a grid. grid: its rows and columns; index: (patches, patches), the
    place of each offset in the flattened (2 rows - 1, 2 columns - 1) table."""

    grid: tuple[int, int]
    index: Tensor


def compute_grid_offsets(grid: tuple[int, int], device: torch.device) -> GridOffsets:
    """Computes the offsets between the patches of a grid, which are numbered row by row."""
    rows, columns = grid
    number = torch.arange(rows * columns, device=device)
    row, column = number // columns, number % columns
    index = (row[:, None] - row + rows - 1) * (2 * columns - 1) + column[:, None] - column + columns - 1
    return GridOffsets(grid, index)


class GridPositionBias(SelfInitializing):
    """A learned bias of attention scores by head and offset, `weight`: (heads, 2 rows - 1, 2 columns - 1) (relative
    position bias of Swin, Liu et al. 2021, https://arxiv.org/abs/2103.14030, equation 4). It starts at minus
    `relative_decay` times the squared distance, in eighths of the grid."""

    def __init__(self, config: PlaitTransformerConfig) -> None:
        super().__init__()
        rows, columns = config.relative_grid or (0, 0)
        self.own, self.decay = (rows, columns), config.relative_decay
        self.weight = nn.Parameter(torch.empty(config.num_attention_heads, 2 * rows - 1, 2 * columns - 1))

    def init_weights(self, std: float) -> None:
        """Sets the bias to minus the decay times the squared distance."""
        row, column = (torch.arange(1 - count, count) * (EIGHTHS / count) for count in self.own)
        decay = torch.tensor(self.decay or [0.0] * len(self.weight), dtype=torch.float)
        init.copy_(self.weight, -decay[:, None, None] * (row[:, None] ** 2 + column**2))

    def forward(self, offsets: GridOffsets, mask: Tensor | None, like: Tensor) -> Tensor:
        """Returns the bias, (1, heads, patches, patches), or (batch, heads, patches, patches) with a mask of (batch or
        1, 1, patches or 1, patches) added to it, in the dtype of `like`; of another grid than its own it is
        interpolated."""
        table = self.weight if offsets.grid == self.own else self.interpolate(offsets.grid)
        bias = table.flatten(1).index_select(1, offsets.index.flatten()).unflatten(1, offsets.index.shape)
        bias = bias[None].to(like.dtype)
        if mask is None:
            return bias
        return bias.masked_fill(~mask, torch.finfo(bias.dtype).min) if mask.dtype == torch.bool else bias + mask

    def interpolate(self, grid: tuple[int, int]) -> Tensor:
        """Interpolates the table for another grid: (heads, 2 rows - 1, 2 columns - 1), the outermost offsets like the
        outermost; of a single row or column, whose only offset is 0, the middle."""
        table = self.weight.float()
        for dim, count in enumerate(grid, start=1):
            table = table.narrow(dim, table.shape[dim] // 2, 1) if count == 1 else table
        size = [2 * count - 1 for count in grid]
        return nn.functional.interpolate(table[None], size=size, mode="bilinear", align_corners=True)[0]


def check_takes_bias(config: Any) -> None:
    """Raises ValueError for an attention implementation that cannot add a bias to its scores."""
    if config._attn_implementation not in (None, "eager", "sdpa"):
        raise ValueError(
            f"attn_implementation {config._attn_implementation!r} cannot add learned relative positions to its scores: "
            "use 'sdpa' or 'eager'"
        )
