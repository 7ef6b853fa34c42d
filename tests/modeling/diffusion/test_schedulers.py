"""The schedulers of diffusers follow the same flow."""

import copy
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

from plait.modeling.diffusion.flow import space_times
from plait.modeling.diffusion.sampling import Canvas, FlowSolver, sample
from plait.modeling.diffusion.schedulers import SchedulerSolver

from .fields import MEAN, STD, gaussian_image, gaussian_velocity

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # numpy's, of diffusers
NOISE = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
VARIANCE_PRESERVING = ("DDIMScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "PNDMScheduler")
VARIANCE_PRESERVING += ("UniPCMultistepScheduler", "DEISMultistepScheduler")
VARIANCE_EXPLODING = ("EulerDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler")
STOCHASTIC = ("DDPMScheduler", "EulerAncestralDiscreteScheduler", "KDPM2AncestralDiscreteScheduler")
NO_PREDICTION_OF_IMAGES = ("PNDMScheduler",)
QUICK = (("DDIMScheduler", "epsilon"), ("DPMSolverMultistepScheduler", "sample"))
QUICK += (("EulerDiscreteScheduler", "v_prediction"),)
TAKING_UP = ["FlowMatchEulerDiscreteScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"]
TAKING_UP += [
    pytest.param(name, marks=pytest.mark.slow)
    for name in ("DDIMScheduler", "UniPCMultistepScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler")
]
FLOWS = ("UniPCMultistepScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler")


def build(name: str, **options: Any) -> Any:
    return getattr(import_module("diffusers"), name)(**options)  # its import takes seconds


def solve(scheduler: Any, steps: int = 100, start: float = 0.0, image: Tensor | None = None) -> Tensor:
    generators = [torch.Generator().manual_seed(number) for number in range(len(NOISE))]
    solver = SchedulerSolver(scheduler, space_times(steps, -2.0), start, generators, "cpu")
    return sample(solver, gaussian_velocity, Canvas(NOISE, image), lambda step, time, x: x)


def predictions(name: str) -> list[str]:
    kinds = ["epsilon", "v_prediction", "sample"]
    return [kind for kind in kinds if kind != "sample" or name not in NO_PREDICTION_OF_IMAGES]


@pytest.mark.parametrize(
    ("name", "prediction"),
    [
        pytest.param(name, kind, marks=[] if (name, kind) in QUICK else pytest.mark.slow)
        for name in VARIANCE_PRESERVING + VARIANCE_EXPLODING
        for kind in predictions(name)
    ],
)
def test_every_process_and_prediction_ends_at_the_same_image(name: str, prediction: str) -> None:
    found = solve(build(name, prediction_type=prediction))
    assert (found - gaussian_image(NOISE)).abs().mean() < 0.011


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOWS)
def test_schedulers_with_the_noise_levels_of_a_flow(name: str) -> None:
    found = solve(build(name, prediction_type="flow_prediction", use_flow_sigmas=True))
    assert (found - gaussian_image(NOISE)).abs().mean() < 0.005


@pytest.mark.slow
@pytest.mark.parametrize("name", STOCHASTIC)
def test_schedulers_that_add_noise_end_at_the_same_distribution(name: str) -> None:
    found = solve(build(name))
    assert found.mean() == pytest.approx(MEAN, abs=0.01)
    assert found.std() == pytest.approx(STD, abs=0.035)
    assert (found - gaussian_image(NOISE)).abs().mean() > STD / 2  # and not at the same images


@pytest.mark.parametrize("shift", [1.0, torch.tensor(2.0).exp().item()], ids=["the model's times", "its own shift"])
def test_flow_matching_is_eulers_method(shift: float) -> None:
    ours = sample(FlowSolver(space_times(20, -2.0)), gaussian_velocity, Canvas(NOISE), lambda step, time, x: x)
    assert (solve(build("FlowMatchEulerDiscreteScheduler", shift=shift), 20) - ours).abs().max() < 1e-5


@pytest.mark.parametrize("name", TAKING_UP)
def test_an_image_is_taken_up_at_its_time(name: str) -> None:
    """From t on, the flow changes the standard score of a pixel no more."""
    image = gaussian_image(torch.randn(NOISE.shape, generator=torch.Generator().manual_seed(9)))
    scheduler = build(name)
    solver = SchedulerSolver(scheduler, space_times(100, -2.0), 0.6, [torch.Generator()] * len(NOISE), "cpu")
    begun = solver.times[0]
    assert 0.6 - 1e-6 <= begun < 0.8
    score = (Canvas(NOISE, image).compute_state(begun) - begun * MEAN) / ((begun * STD) ** 2 + (1 - begun) ** 2) ** 0.5
    assert (solve(scheduler, start=0.6, image=image) - gaussian_image(score)).abs().mean() < 0.03


def test_a_scheduler_stays_as_it_is() -> None:
    scheduler = build("DPMSolverMultistepScheduler")
    before = copy.deepcopy(vars(scheduler))
    first, second = solve(scheduler, 10), solve(scheduler, 10)
    assert torch.equal(first, second)
    assert str(vars(scheduler)) == str(before)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("EDMEulerScheduler", "of no process"),
        ("CMStochasticIterativeScheduler", "of no process"),
        ("CogVideoXDPMScheduler", "of no process"),
        ("DDIMInverseScheduler", "runs from an image to noise"),
        ("KDPM2DiscreteScheduler", "predicts between its noise levels"),
    ],
)
def test_schedulers_of_other_processes_are_refused(name: str, problem: str) -> None:
    with pytest.raises(ValueError, match=f"{name}.*{problem}"):
        solve(build(name), 10)


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "HeunDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_the_first_state_has_the_noise_of_the_scheduler(name: str) -> None:
    scheduler = build(name)
    solver = SchedulerSolver(scheduler, space_times(10, -2.0), 0.0, [None] * len(NOISE), "cpu")
    state = solver.start(NOISE) * solver.compute_scale(0)
    torch.testing.assert_close(state, NOISE * float(solver.scheduler.init_noise_sigma))
