"""Samplers: from noise along the flow to an image."""

from collections.abc import Callable

import torch
from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]  # of noisy images, (batch, ...), at times, (batch,)


def sample(velocity: Velocity, start: Tensor, times: list[float]) -> Tensor:
    """Follows dx/dt = v(x, t) from `start`, (batch, channels, height, width), through the times by Euler's method:
    x <- x + (t' - t) v(x, t)."""
    x = start
    for now, later in zip(times, times[1:], strict=False):
        x = x + (later - now) * velocity(x, torch.full((len(x),), now, dtype=x.dtype, device=x.device))
    return x
