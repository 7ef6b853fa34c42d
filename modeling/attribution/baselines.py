"""Baselines: what stands in place of an input that is taken away."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...configuration.messages import suggest_nearest

TEXT_BASELINES = ("mask", "unk", "pad", "zero", "rows")
MEDIA_BASELINES = ("noise", "blur", "mean", "zero", "rows")
# the standard deviation of the blur as a share of the longer side
BLUR = 1 / 8


def list_baselines(modality: str) -> tuple[str, ...]:
    """Returns the baselines of a modality."""
    return TEXT_BASELINES if modality == "text" else MEDIA_BASELINES


def check_baseline(modality: str, name: Any) -> None:
    """Raises ValueError for a baseline that this modality does not have, with those that it has."""
    known = list_baselines(modality)
    if name not in known:
        raise ValueError(
            f"no baseline {name!r} for {modality}: choose {', '.join(known)}{suggest_nearest(name, known)}"
        )


def build_media_baseline(
    name: str, value: Tensor, others: Sequence[Tensor], count: int, generator: torch.Generator
) -> Tensor:
    """Builds baselines of an image, clip or video: (count, ...), of a baseline that is not random (1, ...).

    "noise": normal, with the mean and the deviation of each channel of each image or frame; "blur": a Gaussian of 1/8
    of the longer side; "mean": of each channel; "zero": what preprocessing centres the data on; "rows": the same input
    of other rows, at random.

    value: (1, ..., height, width), (1, clips, mel bins, frames) or (1, clips, samples); others: of other rows.
    """
    if name == "rows":
        return sample_rows(value, others, count, generator)
    if name == "zero":
        return torch.zeros_like(value)
    axes = (-1,) if value.ndim == 3 else (-2, -1)
    mean = value.mean(dim=axes, keepdim=True).expand_as(value)
    if name == "mean":
        return mean
    if name == "blur":
        return blur(value, axes)
    std = value.std(dim=axes, keepdim=True, correction=0)
    noise = torch.randn((count, *value.shape[1:]), generator=generator).to(value)
    return mean + std * noise


def sample_rows(value: Tensor, others: Sequence[Tensor], count: int, generator: torch.Generator) -> Tensor:
    """Samples `count` of other rows' inputs, (1, ...) each, repeated or cut to the shape of the value.

    Raises ValueError if there are none.
    """
    if not others:
        raise ValueError('baseline "rows" takes other rows in place of a row: pass two rows or more')
    numbers = torch.randint(len(others), (count,), generator=generator).tolist()
    return torch.cat([fit_shape(others[number], value.shape) for number in numbers]).to(value)


def fit_shape(value: Tensor, shape: Sequence[int]) -> Tensor:
    """Repeats or cuts every dimension to the shape."""
    for axis, size in enumerate(shape):
        if value.shape[axis] != size:
            places = torch.arange(size, device=value.device) % value.shape[axis]
            value = value.index_select(axis, places)
    return value


def blur(value: Tensor, axes: Sequence[int]) -> Tensor:
    """Blurs along the last one or two axes with a Gaussian; the edges are continued."""
    sigma = max(value.shape[axis] for axis in axes) * BLUR
    reach = max(1, round(2 * sigma))
    weights = torch.exp(-(torch.arange(-reach, reach + 1, device=value.device) ** 2) / (2 * max(sigma, 1e-6) ** 2))
    kernel = (weights / weights.sum()).to(value.dtype)[None, None]
    for axis in axes:
        moved = value.movedim(axis, -1)
        lines = F.pad(moved.reshape(-1, 1, moved.shape[-1]), (reach, reach), mode="replicate")
        value = F.conv1d(lines, kernel).view(moved.shape).movedim(-1, axis)
    return value
