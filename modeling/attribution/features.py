"""Features: the words, cells, segments and frames of one row that methods switch on and off together."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Features(NamedTuple):
    """The features of one row, numbered over all its inputs.

    groups: by input the feature of each element, -1 for elements that stay as they are; in shapes that broadcast to the
    input's without the rows: text (length, 1), image (images, 1, height, width), spectrogram (clips, 1, frames) or
    (clips, frames, 1), waveform (clips, samples), video (clips, frames, 1, height, width). count: of all features.
    windows: (windows, count) bool, the features that occlusion takes away together; None: each feature alone.
    """

    groups: dict[str, Tensor]
    count: int
    windows: Tensor | None = None

    def mix(self, keep: Tensor, values: Mapping[str, Tensor], baselines: Mapping[str, Tensor]) -> list[Tensor]:
        """Returns each input with the features that are kept, and the baseline elsewhere: (copies, ...).

        keep: (copies, count) bool; values: (1, ...); baselines: (1 or copies, ...).
        """
        every = torch.cat((keep, keep.new_ones(len(keep), 1)), dim=1)  # the last stands for -1
        return [torch.where(every[:, group], values[name], baselines[name]) for name, group in self.groups.items()]

    def spread(self, name: str, amounts: Tensor, shape: Sequence[int]) -> Tensor:
        """Spreads the amount of each feature, (count,), evenly over its elements: `shape` without channels."""
        group = drop_channels(name, self.groups[name]).expand(*shape)
        sizes = torch.bincount(group.flatten() + 1, minlength=self.count + 1)[1:].clamp(min=1)
        shares = torch.cat((amounts / sizes, amounts.new_zeros(1)))
        return shares[group]


def drop_channels(name: str, value: Tensor) -> Tensor:
    """Sums an input's elements, without rows, over channels or the width of embeddings: text (length,), image (images,
    height, width), video (clips, frames, height, width); audio has none. (A group has one channel.)"""
    if name.endswith("input_ids"):
        return value.sum(dim=-1)
    return value.sum(dim=-3) if "pixel_values" in name else value


def element_shape(name: str, value: Tensor) -> tuple[int, ...]:
    """Returns the shape of an input, (1, ...), without rows and channels."""
    return tuple(drop_channels(name, torch.empty(value.shape[1:], device="meta")).shape)


def split_evenly(length: int, parts: int) -> Tensor:
    """Numbers `length` places by the part they are in, of `parts` (or fewer) parts of nearly equal length."""
    return torch.arange(length) * min(parts, length) // length


def build_grid_groups(shape: Sequence[int], present: Tensor, cells: int) -> Tensor:
    """Numbers the cells of images or frames: (..., 1, height, width), -1 where nothing is present.

    shape: (..., height, width); present: bool of the leading dimensions; cells: along each side.
    """
    *leading, height, width = shape
    rows, columns = split_evenly(height, cells), split_evenly(width, cells)
    grid = rows[:, None] * (int(columns.max()) + 1) + columns
    places = torch.arange(int(present.numel())).view(*leading, 1, 1) * (int(grid.max()) + 1)
    return (places + grid).masked_fill(~present[..., None, None], -1).unsqueeze(-3)


def build_time_groups(present: Tensor, segments: int) -> Tensor:
    """Numbers the segments of clips: (clips, length), -1 where nothing is present.

    present: (clips, length) bool; segments: of a clip at most.
    """
    groups = torch.full(present.shape, -1)
    for clip, mask in enumerate(present):
        groups[clip, mask] = (
            split_evenly(int(mask.sum()), segments) + clip * segments if bool(mask.any()) else groups[0, :0]
        )
    return groups


def number_features(groups: Mapping[str, Tensor]) -> Features:
    """Numbers the features of several inputs one after another, without gaps."""
    found, count = {}, 0
    for name, group in groups.items():
        kept, numbers = group.clamp(min=-1).unique(return_inverse=True)
        absent = int((kept < 0).any())
        found[name] = torch.where(group < 0, -1, numbers - absent + count)
        count += len(kept) - absent
    return Features(found, count)


def build_windows(features: Features, width: int) -> Tensor:
    """Returns the windows of occlusion, (count, count) bool: around each cell of an image or frame the square of
    `width` cells a side, as much of it as lies in the image, or less if the image has few cells; any other feature
    alone."""
    windows = torch.eye(features.count, dtype=torch.bool)
    for name, group in features.groups.items():
        if "pixel_values" in name:
            for plane in group.flatten(0, -3):
                if bool((plane >= 0).all()):
                    add_grid_windows(windows, plane, width)
    return windows


def add_grid_windows(windows: Tensor, plane: Tensor, width: int) -> None:
    """Adds the windows around the cells of one image, in place. plane: (height, width) the cell of each pixel."""
    rows, columns = plane[:, 0].unique_consecutive(), plane[0].unique_consecutive()
    grid = rows[:, None] - rows[0] + columns
    reach = min(width, (min(grid.shape) + 1) // 2) // 2
    for row, numbers in enumerate(grid.tolist()):
        for column, number in enumerate(numbers):
            near = grid[max(row - reach, 0) : row + reach + 1, max(column - reach, 0) : column + reach + 1]
            windows[number, near.flatten()] = True
