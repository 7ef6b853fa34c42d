"""Which elements of an input each token of its tower stands for: pixels of a patch, frames of a window."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from ...configuration import PlaitTubeletConfig
from .features import split_evenly
from .relevance import OTHER_METHODS

MOST_FIRST_TOKENS = 8  # class, distillation and register tokens before the patches


def spread_tokens(
    name: str, modality: str, amounts: Tensor, shape: Sequence[int], config: PreTrainedConfig | None = None
) -> Tensor:
    """Spreads the amounts of tokens, (tokens,), evenly over the elements that each stands for: `shape`, that of the
    input without row and channels, (items, ...). Tokens before those of the grid, such as a class token, have none.

    config: of the tower. Raises ValueError if the tokens are no grid over the elements.
    """
    if modality == "text":
        return torch.nn.functional.pad(amounts, (0, shape[0] - len(amounts)))
    items = amounts.view(shape[0], -1)
    groups = number_tokens(name, modality, items.shape[1], shape[1:], config).to(amounts.device)
    sizes = torch.bincount(groups.flatten(), minlength=items.shape[1]).clamp(min=1)
    return (items / sizes)[:, groups]


def number_tokens(
    name: str, modality: str, count: int, shape: Sequence[int], config: PreTrainedConfig | None = None
) -> Tensor:
    """Returns the token of each element of one item, in its shape: (height, width), (frames, height, width),
    (samples,), (mel bins, frames) or, of `input_values`, (frames, mel bins)."""
    if modality == "image":
        first, rows, columns = find_grid(count, shape[0], shape[1])
        return first + split_evenly(shape[0], rows)[:, None] * columns + split_evenly(shape[1], columns)
    if modality == "video":
        return number_video_tokens(count, shape, config)
    if name.endswith("input_values") and len(shape) == 2:  # patches of a spectrogram, frequency before time
        first, rows, columns = find_grid(count, shape[1], shape[0], ratio=False)
        return first + split_evenly(shape[1], rows) * columns + split_evenly(shape[0], columns)[:, None]
    return split_evenly(shape[-1], count).expand(tuple(shape))


def number_video_tokens(count: int, shape: Sequence[int], config: PreTrainedConfig | None) -> Tensor:
    """Returns the token of each element of a video, (frames, height, width): tokens of frames, with their own class
    tokens, or of tubelets of several frames behind class tokens."""
    frames, height, width = shape
    if isinstance(config, PlaitTubeletConfig):
        times, first = config.grid[0], config.class_tokens
    else:
        times = find_times(count, frames, height, width)
        first = count % times
    each = (count - first) // times
    own, rows, columns = find_grid(each, height, width)
    grid = own + split_evenly(height, rows)[:, None] * columns + split_evenly(width, columns)
    return first + split_evenly(frames, times)[:, None, None] * each + grid


def find_times(count: int, frames: int, height: int, width: int) -> int:
    """Finds how many times a video's tokens stand for: its frames, or fewer that divide them, with at most one token
    before. Raises ValueError if there is none."""
    for times in [size for size in range(frames, 0, -1) if frames % size == 0]:
        if count >= times and count % times <= 1 and find_grid_or_none(count // times, height, width) is not None:
            return times
    raise ValueError(f"{count} tokens are no grid over {frames} frames of {height} x {width} pixels: {OTHER_METHODS}")


def find_grid(count: int, height: int, width: int, ratio: bool = True) -> tuple[int, int, int]:
    """Finds the tokens before a grid of patches, and its rows and columns. Raises ValueError if there is none."""
    found = find_grid_or_none(count, height, width) if ratio else find_spectrogram_grid(count, height, width)
    if found is None:
        raise ValueError(f"{count} tokens are no grid of patches over {height} x {width} elements: {OTHER_METHODS}")
    return found


def find_grid_or_none(count: int, height: int, width: int) -> tuple[int, int, int] | None:
    """Finds a grid in the proportions of height and width behind as few first tokens as possible."""
    for first in range(min(count, MOST_FIRST_TOKENS + 1)):
        rows = round(((count - first) * height / width) ** 0.5)
        if rows and (count - first) % rows == 0:
            columns = (count - first) // rows
            if abs(rows * width - columns * height) <= max(height, width) * 0.02 * max(rows, columns):
                return first, rows, columns
    return None


def find_spectrogram_grid(count: int, height: int, width: int) -> tuple[int, int, int] | None:
    """Finds the grid of overlapping patches, behind two tokens (AST) or another number of them, whose steps in
    frequency and time are most alike."""
    best: tuple[float, tuple[int, int, int]] | None = None
    for first in (2, 1, 0):
        for rows in range(1, min(count - first, height) + 1):
            if count > first and (count - first) % rows == 0:
                columns = (count - first) // rows
                unlike = abs(height / rows - width / columns) / max(height / rows, width / columns) + 0.2 * abs(
                    first - 2
                )
                if best is None or unlike < best[0]:
                    best = (unlike, (first, rows, columns))
    return None if best is None else best[1]
