"""Classifier-free guidance: predictions under several conditions in one."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .condition import Condition
from .denoiser import PlaitDenoiser

Scale = float | int | Mapping[str, float | int]
EVERYWHERE = (0.0, 1.0)  # the interval of all times


class GuidanceTerm(NamedTuple):
    """A prediction's weight in the guided one, and the modalities that its condition has."""

    weight: float
    modalities: tuple[str, ...]


def build_terms(scale: Scale, modalities: Sequence[str]) -> list[GuidanceTerm]:
    """Builds the terms of guidance from the condition of no modality to that of all, without those of weight 0.

    A number w gives v = v() + w (v(c) - v()) (Ho and Salimans 2022, https://arxiv.org/abs/2207.12598, equation 6, with
    w + 1 there). A number w_i for each modality, in their order, gives (Brooks et al. 2023,
    https://arxiv.org/abs/2211.09800, equation 3)

        v = v() + w_1 (v(c_1) - v()) + w_2 (v(c_1, c_2) - v(c_1)) + ...

    in which v(c_1, ..., c_i) has the weight w_i - w_(i+1). A modality that a mapping does not name has w = 1.
    """
    named = scale if isinstance(scale, Mapping) else dict.fromkeys(modalities, scale)
    scales = [float(named.get(name, 1)) for name in modalities]
    if not modalities:  # the condition is empty, and so is that of every term
        scales = [1.0 if isinstance(scale, Mapping) else float(scale)]
    weights = [first - second for first, second in zip([1.0, *scales], [*scales, 0.0], strict=True)]
    terms = [GuidanceTerm(weight, tuple(modalities[:count])) for count, weight in enumerate(weights)]
    return [term for term in terms if term.weight]


def check_interval(interval: Sequence[float]) -> tuple[float, float]:
    """Returns a guidance interval; raises ValueError for anything but two times in order, from 0 to 1."""
    times = [float(time) for time in interval] if isinstance(interval, Sequence) else []
    if len(times) != 2 or not 0 <= times[0] < times[1] <= 1:
        raise ValueError(f"guidance_interval is {interval!r}: expected two times, 0 <= first < last <= 1")
    return times[0], times[1]


class GuidedVelocity:
    """The velocity of the flow under guidance, the weighted sum of those under each condition. At times outside
    `interval` it is that under `full`, the condition of all modalities, alone (Kynkaanniemi et al. 2024,
    https://arxiv.org/abs/2404.07724, equation 3)."""

    def __init__(
        self,
        denoiser: PlaitDenoiser,
        weights: Sequence[float],
        conditions: Sequence[Condition],
        full: Condition,
        interval: tuple[float, float] = EVERYWHERE,
    ) -> None:
        self.denoiser, self.weights, self.interval, self.full = denoiser, weights, interval, full
        length = max(condition.mask.shape[1] for condition in conditions)
        padded = [condition.pad(length) for condition in conditions]
        self.condition = Condition(*(torch.cat(parts) for parts in zip(*padded, strict=True)))

    def __call__(self, x: Tensor, time: float) -> Tensor:
        """Computes the velocity of noisy images, (batch, channels, height, width), at a time below 1, in their dtype:
        (image - x_t) / (1 - t) for a denoiser that predicts the image."""
        guided = self.interval[0] <= time <= self.interval[1]
        weights, condition = (self.weights, self.condition) if guided else ([1.0], self.full)
        count = len(weights)
        times = torch.full((count * len(x),), time, dtype=x.dtype, device=x.device)
        predictions = self.denoiser(x.repeat(count, 1, 1, 1), times, *condition).to(x.dtype).chunk(count)
        weighted = [weight * each for weight, each in zip(weights, predictions, strict=True)]
        prediction = sum(weighted, start=torch.zeros_like(x))
        return prediction if self.denoiser.config.prediction == "velocity" else (prediction - x) / (1 - time)
