"""Muon by Polar Express: the best polynomials, the orthogonal matrix, torch's state."""

import pytest
import torch
from torch import Tensor
from torch.optim import Muon

from plait.training.optimization.muon import MuonWithAdamW
from plait.training.optimization.polar_express import (
    LEAST_SINGULAR_VALUE,
    PolarExpressMuon,
    compute_polynomials,
    fit_polynomial,
    orthogonalize,
)


def make_matrix(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """A matrix with singular values from 1 to 0.004, as momenta have, and the nearest orthogonal one."""
    generator = torch.Generator().manual_seed(rows)
    rank = min(rows, columns)
    left, right = (torch.linalg.qr(torch.randn(n, rank, generator=generator))[0] for n in (rows, columns))
    values = torch.exp(torch.linspace(0, -5.5, rank))
    return (left * values) @ right.T, left @ right.T


def measure_error(found: Tensor, exact: Tensor) -> float:
    return float((found.float() - exact).norm() / exact.norm())


@pytest.mark.parametrize(("low", "high"), [(1e-3, 1.0), (0.3, 1.7), (0.9, 1.1)])
def test_the_polynomial_is_the_best(low: float, high: float) -> None:
    """Chebyshev's criterion: the greatest error is reached four times, with alternating sign."""
    (a, b, c), error = fit_polynomial(low, high)
    x = torch.linspace(low, high, 200_001, dtype=torch.double)
    errors = 1 - (a * x + b * x**3 + c * x**5)
    assert abs(float(errors.abs().max()) - error) < 1e-6
    reached = torch.sign(errors[errors.abs() > error - 1e-6 * max(error, 1e-3)])
    assert torch.unique_consecutive(reached).tolist() == [1, -1, 1, -1]


@pytest.mark.parametrize("steps", [3, 5])
def test_singular_values_come_near_to_one(steps: int) -> None:
    x = torch.logspace(torch.log10(torch.tensor(LEAST_SINGULAR_VALUE)).item(), 0, 1000, dtype=torch.double)
    worst = [float((1 - x).abs().max())]
    for a, b, c in compute_polynomials(steps):
        x = a * x + b * x**3 + c * x**5
        worst.append(float((1 - x).abs().max()))
    assert worst == sorted(worst, reverse=True)
    assert worst[-1] < {3: 0.75, 5: 0.1}[steps]


@pytest.mark.parametrize("shape", [(48, 48), (96, 32), (32, 96)])
def test_no_farther_from_orthogonal_than_torch(shape: tuple[int, int]) -> None:
    """In bfloat16, alone and among others; 4 steps against torch's 5."""
    matrix, exact = make_matrix(*shape)
    weight = torch.nn.Parameter(torch.zeros(shape))
    weight.grad = matrix.clone()
    Muon([weight], lr=1.0, momentum=0.0, nesterov=False, weight_decay=0.0, adjust_lr_fn="match_rms_adamw").step()
    torchs = -weight.detach() / (0.2 * max(shape) ** 0.5)
    found = orthogonalize(matrix.bfloat16()[None], 4, 1e-7)[0]
    assert measure_error(found, exact) <= measure_error(torchs, exact)
    assert measure_error(orthogonalize(matrix.bfloat16()[None], 6, 1e-7)[0], exact) < 0.1
    several = torch.stack([matrix.bfloat16(), 4 * matrix.bfloat16(), torch.zeros(shape, dtype=torch.bfloat16)])
    together = orthogonalize(several, 4, 1e-7)
    assert measure_error(together[1], found.float()) < 0.1  # whatever its scale, but for rounding
    assert not together[2].any()


def test_the_step_by_hand_and_torchs_state() -> None:
    """Nesterov momentum, decay and scale are torch's: Muon resumes from the state, and the other way around."""
    shapes = [(16, 16), (32, 16), (16, 16), (16, 32)]
    generator = torch.Generator().manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    optimizer = PolarExpressMuon([{"params": weights, "lr": 0.02, "weight_decay": 0.1}], 4)
    momenta = [torch.zeros(shape) for shape in shapes]
    for _ in range(3):
        for weight in weights[:3]:  # the last one has no gradient
            weight.grad = torch.randn(weight.shape, generator=generator)
        before = [weight.detach().clone() for weight in weights]
        optimizer.step()
        for weight, old, momentum in zip(weights[:3], before, momenta, strict=False):
            assert weight.grad is not None
            momentum.lerp_(weight.grad, 0.05)
            direction = orthogonalize(weight.grad.lerp(momentum, 0.95).bfloat16()[None], 4, 1e-7)[0].float()
            expected = old * (1 - 0.02 * 0.1) - 0.02 * 0.2 * max(weight.shape) ** 0.5 * direction
            assert float((weight.detach() - expected).abs().max()) < 2e-3
        assert torch.equal(weights[3], before[3])
    torchs = Muon([{"params": weights, "lr": 0.02, "weight_decay": 0.1}], adjust_lr_fn="match_rms_adamw")
    torchs.load_state_dict(optimizer.state_dict())
    assert torch.equal(torchs.state[weights[1]]["momentum_buffer"], momenta[1])


def test_the_steps_choose_the_optimizer() -> None:
    weight = torch.nn.Parameter(torch.zeros(8, 8))
    groups = [{"params": [weight], "muon": True, "lr": 0.1, "weight_decay": 0.0}]
    kinds = {steps: type(MuonWithAdamW(groups, (0.9, 0.95), 1e-8, steps).optimizers[True]) for steps in (None, 3)}
    assert kinds == {None: Muon, 3: PolarExpressMuon}
