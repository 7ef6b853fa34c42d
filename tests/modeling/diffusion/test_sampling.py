"""The solvers of the flow, against one that is known in closed form."""

import torch
from torch import Tensor

from plait.modeling.diffusion.flow import space_times
from plait.modeling.diffusion.sampling import Canvas, FlowSolver, cut_times, sample

from .fields import MEAN, STD, gaussian_image, gaussian_velocity

NOISE = torch.randn(4, 3, 8, 8, dtype=torch.double, generator=torch.Generator().manual_seed(0))


def keep(step: int, time: float, x: Tensor) -> Tensor:
    return x


def solve(steps: int, second_order: bool, mean: float = 0.0) -> Tensor:
    solver = FlowSolver(space_times(steps, mean), second_order)
    return sample(solver, gaussian_velocity, Canvas(NOISE), keep)


def test_many_steps_of_euler_and_few_of_heun_agree() -> None:
    euler, heun = solve(250, second_order=False), solve(50, second_order=True)
    assert (euler - heun).abs().mean() < 0.005
    assert (heun - gaussian_image(NOISE)).abs().mean() < 0.002


def test_euler_is_of_first_order_and_heun_of_second() -> None:
    """Up to the last step, to the image, which is Euler's in both."""

    def error(steps: int, second_order: bool) -> float:
        times = torch.linspace(0, 0.9, steps + 1, dtype=torch.double).tolist()
        x = NOISE
        for number in range(steps):
            x = FlowSolver([*times, 1.0], second_order).step(number, x, gaussian_velocity)
        return float((x - (0.9 * MEAN + ((0.9 * STD) ** 2 + 0.1**2) ** 0.5 * NOISE)).abs().mean())

    assert 1.8 < error(40, False) / error(80, False) < 2.2
    assert 3.6 < error(40, True) / error(80, True) < 4.4


def test_heun_predicts_twice_a_step_but_for_the_last() -> None:
    times = []

    def velocity(x: Tensor, time: float) -> Tensor:
        times.append(time)
        return gaussian_velocity(x, time)

    sample(FlowSolver([0.0, 0.3, 0.8, 1.0], second_order=True), velocity, Canvas(NOISE), keep)
    assert times == [0.0, 0.3, 0.3, 0.8, 0.8]


def test_no_prediction_is_at_the_image() -> None:
    assert space_times(20, -2.0)[0] == 0
    assert space_times(20, -2.0)[-1] == 1
    assert cut_times([0.0, 0.2, 0.5, 1.0], 0.3) == [0.3, 0.5, 1.0]
    assert cut_times([0.0, 0.2, 0.5, 1.0], 0.5) == [0.5, 1.0]
    assert cut_times([0.0, 0.2, 0.5, 1.0], 1.0) == [1.0]
