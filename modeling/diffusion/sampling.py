"""Samplers: from noise along the flow to an image."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .flow import mix

Velocity = Callable[[Tensor, float], Tensor]  # of noisy images, (batch, channels, height, width), at a time
Report = Callable[[int, float, Tensor], Tensor]  # of a step's number, the time it reached and its images


class Solver(Protocol):
    """A method that follows dx/dt = v(x, t) through `times`, from the first to 1 (the image)."""

    times: list[float]

    def start(self, noise: Tensor) -> Tensor:
        """Returns the state at the first time that standard normal noise stands for."""
        ...

    def step(self, number: int, x: Tensor, velocity: Velocity) -> Tensor:
        """Returns the state at `times[number + 1]` after x, (batch, channels, height, width), at `times[number]`."""
        ...


class FlowSolver:
    """Euler's method, x' = x + (t' - t) v(x, t), or with `second_order` Heun's, x + (t' - t) (v(x, t) + v(x', t')) / 2
    (Karras et al. 2022, https://arxiv.org/abs/2206.00364, algorithm 1), whose last step, to the image, is Euler's."""

    def __init__(self, times: list[float], second_order: bool = False) -> None:
        self.times, self.second_order = times, second_order

    def start(self, noise: Tensor) -> Tensor:
        """Returns the noise itself: the flow begins at time 0."""
        return noise

    def step(self, number: int, x: Tensor, velocity: Velocity) -> Tensor:
        """Follows the flow from `times[number]` to the next; x: (batch, channels, height, width)."""
        now, later = self.times[number : number + 2]
        slope = velocity(x, now)
        ahead = x + (later - now) * slope
        if not self.second_order or number + 2 == len(self.times):
            return ahead
        return x + (later - now) / 2 * (slope + velocity(ahead, later))


class Canvas(NamedTuple):
    """What images are generated from. noise: (batch, channels, height, width); image, of the same shape: an image to
    begin with, or None; mask: (batch, 1, height, width), True where it is generated anew, or None: everywhere."""

    noise: Tensor
    image: Tensor | None = None
    mask: Tensor | None = None

    def compute_state(self, time: float) -> Tensor:
        """Computes the noisy image at a time on the straight path: t x + (1 - t) e."""
        times = torch.full((len(self.noise),), time, dtype=self.noise.dtype, device=self.noise.device)
        return self.noise if self.image is None else mix(self.image, self.noise, times)

    def restore(self, x: Tensor, time: float) -> Tensor:
        """Puts the given image's state at this time wherever nothing is to be generated."""
        return x if self.mask is None else torch.where(self.mask, x, self.compute_state(time))


def sample(solver: Solver, velocity: Velocity, canvas: Canvas, report: Report, progress: bool = False) -> Tensor:
    """Follows the flow to images, (batch, channels, height, width).

    Raises ValueError with the step's number for a prediction that is not finite.
    """
    x = solver.start(canvas.noise) if canvas.image is None else canvas.compute_state(solver.times[0])
    steps = len(solver.times) - 1
    for number in tqdm(range(steps), desc="generate", unit="step", disable=not progress):
        now, later = solver.times[number : number + 2]
        x = solver.step(number, x, velocity)
        if not bool(torch.isfinite(x).all()):
            raise ValueError(
                f"step {number + 1} of {steps}, at time {now:.3f}: the denoiser's prediction is NaN or infinite; its "
                "training diverged, or its precision is too low: try model.float()"
            )
        x = report(number, later, canvas.restore(x, later))
    return x


def cut_times(times: Sequence[float], start: float) -> list[float]:
    """Returns the times of a sampler from `start` on."""
    return [start, *(time for time in times if time > start)]
