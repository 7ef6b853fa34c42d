"""Schedulers of diffusers as solvers of the flow."""

import copy
import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .sampling import Velocity, cut_times

FLOW_SCHEDULERS = {"FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler"}
SCALE_ERROR = 1e-3  # of a scheduler's own factor on the model's input, beside the one of its noise level


class SchedulerSolver:
    """A solver that takes its times and steps from a scheduler of diffusers (extra `diffusers`).

    A scheduler's state is y = a x + s e with image x and noise e, where s / a falls from step to step: flow matching
    has a = 1 - s, a variance-preserving process (DDIM, DPM-Solver) a^2 + s^2 = 1, a variance-exploding one (Euler,
    Heun) a = 1. So y / (a + s) = t x + (1 - t) e, with t = a / (a + s), is the state of rectified flow at time t, whose
    velocity v gives what the scheduler expects of a model (`prediction_type`): "sample" x = x_t + (1 - t) v, "epsilon"
    e = x_t - t v, "flow_prediction" e - x = -v, and "v_prediction" (a e - s x) / sqrt(a^2 + s^2).

    The times are the scheduler's; a FlowMatchEulerDiscreteScheduler without a shift of its own gets those of the model,
    and is then Euler's method; one with a shift shifts even steps.

    Args:
        scheduler: is copied, and stays as it is.
        times: those of the model, 0 to 1; start: the time to begin at, 0 unless the state begins with an image.
        generators: one for each image, for schedulers that add noise.

    Raises:
        ValueError: a scheduler of another process (EDM, consistency models), or one that runs to noise.
    """

    def __init__(
        self, scheduler: Any, times: list[float], start: float, generators: Sequence[torch.Generator], device: Any
    ) -> None:
        self.name, self.scheduler = type(scheduler).__name__, copy.deepcopy(scheduler)
        self.prediction, self.is_flow = find_process(scheduler)
        first = self.choose_steps(times, start, device)
        self.timesteps = self.scheduler.timesteps[first:]
        self.ratios = self.compute_ratios()[first:]
        self.times = [*map(self.compute_time, self.ratios), 1.0]
        self.explodes = not self.is_flow and float(self.scheduler.init_noise_sigma) > 1
        if sorted(self.times) != self.times:
            raise ValueError(f"{self.name} runs from an image to noise: pass a scheduler that generates")
        takes_generator = "generator" in inspect.signature(self.scheduler.step).parameters
        self.options = {"generator": list(generators)} if takes_generator else {}
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(first)

    def choose_steps(self, times: list[float], start: float, device: Any) -> int:
        """Sets the scheduler's steps and returns the number of the first one at or after the time `start`."""
        steps = len(times) - 1
        if self.name != "FlowMatchEulerDiscreteScheduler":
            self.scheduler.set_timesteps(steps, device=device)
        elif self.scheduler.config.shift == 1:
            self.scheduler.set_timesteps(sigmas=[1 - time for time in cut_times(times, start)[:-1]], device=device)
            return 0
        else:
            self.scheduler.set_timesteps(sigmas=[1 - number / steps for number in range(steps)], device=device)
        reached = [self.compute_time(ratio) for ratio in self.compute_ratios()] if start else [0.0]
        firsts = range(0, len(reached), self.scheduler.order)  # a step of second order has two parts
        return next((number for number in firsts if reached[number] >= start), firsts[-1])

    def compute_ratios(self) -> list[float]:
        """Returns s / a at each time step (s itself in flow matching)."""
        scheduler, count = self.scheduler, len(self.scheduler.timesteps)
        if hasattr(scheduler, "sigmas"):
            return scheduler.sigmas[:count].tolist()
        kept = scheduler.alphas_cumprod.double()[scheduler.timesteps.cpu().long()]
        return ((1 - kept) / kept).sqrt().tolist()

    def compute_time(self, ratio: float) -> float:
        """Computes t = a / (a + s)."""
        return 1 - ratio if self.is_flow else 1 / (1 + ratio)

    def compute_scale(self, number: int) -> float:
        """Computes a + s of the scheduler's state at a time; 1 for an image."""
        if self.is_flow or number == len(self.ratios):
            return 1.0
        ratio = self.ratios[number]
        return 1 + ratio if self.explodes else (1 + ratio) / math.hypot(1, ratio)

    def start(self, noise: Tensor) -> Tensor:
        """Scales standard normal noise to the scheduler's first state."""
        return noise if self.is_flow else noise * (float(self.scheduler.init_noise_sigma) / self.compute_scale(0))

    def step(self, number: int, x: Tensor, velocity: Velocity) -> Tensor:
        """Takes the scheduler's step; x: (batch, channels, height, width)."""
        timestep, sample = self.timesteps[number], x * self.compute_scale(number)
        if self.explodes:
            self.check_scale(number, timestep, sample)
        output = self.convert_velocity(number, x, velocity(x, self.times[number]))
        following = self.scheduler.step(output, timestep, sample, **self.options).prev_sample
        return following.to(x.dtype) / self.compute_scale(number + 1)

    def convert_velocity(self, number: int, x: Tensor, slope: Tensor) -> Tensor:
        """Turns the velocity at x into the prediction that the scheduler expects."""
        time, ratio = self.times[number], self.ratios[number]
        image, noise = x + (1 - time) * slope, x - time * slope
        if self.prediction == "v_prediction":
            return (noise - ratio * image) / math.hypot(1, ratio)
        return {"sample": image, "epsilon": noise, "flow_prediction": -slope}[self.prediction]

    def check_scale(self, number: int, timestep: Tensor, sample: Tensor) -> None:
        """Raises ValueError if the scheduler, by its factor on the model's input, is at another noise level than
        `sigmas` says."""
        factor = float(self.scheduler.scale_model_input(torch.ones_like(sample[:1, :1, :1, :1]), timestep))
        if abs(factor * math.hypot(1, self.ratios[number]) - 1) > SCALE_ERROR:
            raise ValueError(f"{self.name} predicts between its noise levels, which this model cannot: use another one")


def find_process(scheduler: Any) -> tuple[str, bool]:
    """Returns what a scheduler expects of a model, and whether its process is flow matching.

    Raises ValueError for one of another process than `SchedulerSolver` knows.
    """
    config = scheduler.config
    if FLOW_SCHEDULERS & {base.__name__ for base in type(scheduler).__mro__}:
        return "flow_prediction", True
    prediction = config.get("prediction_type")
    known = prediction in ("sample", "epsilon", "v_prediction", "flow_prediction")
    known = known and all(hasattr(scheduler, name) for name in ("alphas_cumprod", "order"))
    if not known or [*inspect.signature(scheduler.step).parameters][:3] != ["model_output", "timestep", "sample"]:
        raise ValueError(
            f"{type(scheduler).__name__} (prediction_type {prediction!r}) is of no process that this model's flow can "
            "be turned into: use solver='euler' or 'heun', or for example FlowMatchEulerDiscreteScheduler, "
            "DDIMScheduler or DPMSolverMultistepScheduler"
        )
    return prediction, bool(config.get("use_flow_sigmas"))
