"""Rectified flow: the straight path from noise to an image, the times of training, and the loss."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ...configuration import PlaitDenoiserConfig

LEAST_REMAINDER = 0.05  # of 1 - t, by which an image prediction is divided (JiT, Li and He 2025, section 4)


def expand(times: Tensor) -> Tensor:
    """Returns times, (batch,), as (batch, 1, 1, 1)."""
    return times[:, None, None, None]


def mix(image: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    """Computes x_t = t x + (1 - t) e of images and noise, (batch, channels, height, width), and times, (batch,)."""
    return expand(times) * image + (1 - expand(times)) * noise


def compute_velocity(target: Tensor, noisy: Tensor, times: Tensor) -> Tensor:
    """Computes v = (x - x_t) / (1 - t) of images and noisy images, (batch, channels, height, width); 1 - t is at least
    0.05, near the image."""
    return (target - noisy) / expand(1 - times).clamp_min(LEAST_REMAINDER)


def flow_loss(prediction: Tensor, image: Tensor, noise: Tensor, times: Tensor, kind: str) -> Tensor:
    """Computes each row's mean squared error of the velocity, (batch,), in float32 or wider.

    prediction: (batch, channels, height, width), of the "image" or the "velocity"; see `PlaitDenoiserConfig`.
    """
    prediction = prediction.to(torch.promote_types(prediction.dtype, torch.float))
    if kind == "velocity":
        return (prediction - (image - noise)).square().flatten(1).mean(dim=1)
    noisy = mix(image, noise, times)
    error = compute_velocity(prediction, noisy, times) - compute_velocity(image, noisy, times)
    return error.square().flatten(1).mean(dim=1)


def shift_time(uniform: Tensor, mean: float) -> Tensor:
    """Computes t = u / (u + e^-m (1 - u)) (Esser et al. 2024, https://arxiv.org/abs/2403.03206, equation 23, with time
    counted from the noise): more times near the noise for m below 0."""
    return uniform / (uniform + math.exp(-mean) * (1 - uniform))


def draw_times(config: PlaitDenoiserConfig, rows: int, draw: Callable[..., Tensor]) -> Tensor:
    """Draws the times of training, (rows,), between 0 (noise) and 1 (image); see `PlaitDenoiserConfig`.

    draw: returns standard normal numbers of a shape.
    """
    normal = draw(rows)
    if config.time_sampling == "logit_normal":
        return torch.sigmoid(config.time_mean + config.time_std * normal)
    return shift_time(torch.special.ndtr(normal), config.time_mean)


def space_times(steps: int, mean: float) -> list[float]:
    """Returns the `steps` + 1 times of a sampler, from 0 to 1, spaced as "uniform" training times are."""
    return shift_time(torch.linspace(0, 1, steps + 1, dtype=torch.double), mean).tolist()
