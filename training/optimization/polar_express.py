"""Muon that orthogonalizes in fewer products: matrices of one shape together, each step with its best polynomial."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.optim import Muon

LEAST_SINGULAR_VALUE = 3e-3  # relative to the norm of a matrix; smaller ones become larger, but not 1
SAFETY = 1.01  # rounding in bfloat16 may bring singular values above the interval that a polynomial is made for
STACKED_NUMBERS = 2**24  # orthogonalized at once
EXCHANGES = 50  # of Remez' algorithm, which converges in fewer

Coefficients = tuple[float, float, float]


class PolarExpressMuon(Muon):
    """torch's Muon, with another computation of the nearest orthogonal matrix: Polar Express (Amsel et al. 2025,
    https://arxiv.org/abs/2505.16932, algorithm 1), whose polynomial differs from step to step. 4 of its steps reach
    what 5 of torch's do. State and groups are torch's; the scale is that of `adjust_lr_fn="match_rms_adamw"`.

    Args:
        groups: as for torch's Muon.
        steps: of the iteration, at least 1.
    """

    def __init__(self, groups: Any, steps: int) -> None:
        super().__init__(groups, adjust_lr_fn="match_rms_adamw", ns_steps=steps)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Performs one step; returns the closure's loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for matrices in stack_by_shape(group["params"]):
                self.update(matrices, group)
        return loss

    def update(self, matrices: list[Tensor], group: dict[str, Any]) -> None:
        """Updates matrices of one shape, (rows, columns) each, by their gradients."""
        kept, updates = group["momentum"], []
        for matrix in matrices:
            gradient: Any = matrix.grad
            state = self.state[matrix]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(matrix, memory_format=torch.preserve_format)
            momentum = state["momentum_buffer"].lerp_(gradient, 1 - kept)
            updates.append((gradient.lerp(momentum, kept) if group["nesterov"] else momentum).bfloat16())
        directions = orthogonalize(torch.stack(updates), group["ns_steps"], group["eps"])
        rate = 0.2 * max(matrices[0].shape) ** 0.5 * group["lr"]
        for matrix, direction in zip(matrices, directions, strict=True):
            matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-rate)


def stack_by_shape(parameters: list[Tensor]) -> Iterator[list[Tensor]]:
    """Yields the matrices that have a gradient, in lists of one shape and device."""
    kinds: dict[tuple[torch.Size, torch.device], list[Tensor]] = {}
    for matrix in parameters:
        if matrix.grad is not None:
            kinds.setdefault((matrix.shape, matrix.device), []).append(matrix)
    for matrices in kinds.values():
        most = max(1, STACKED_NUMBERS // matrices[0].numel())
        for first in range(0, len(matrices), most):
            yield matrices[first : first + most]


def orthogonalize(matrices: Tensor, steps: int, eps: float) -> Tensor:
    """Computes U V^T of matrices U S V^T, (count, rows, columns), approximately, by X' = (a + b X X^T + c (X X^T)^2) X
    with the coefficients of each step; eps: the least norm that a matrix is divided by."""
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    norms = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True, dtype=torch.float32)
    x = x / (SAFETY * norms).clamp_min(eps).to(x.dtype)
    for a, b, c in compute_polynomials(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT


@lru_cache
def compute_polynomials(steps: int) -> tuple[Coefficients, ...]:
    """Computes (a, b, c) of each step: a x + b x^3 + c x^5 is the odd polynomial of its degree that is nearest to 1 on
    the interval which the step before leaves the singular values in (Amsel et al. 2025, theorem 3.1)."""
    low, found = LEAST_SINGULAR_VALUE, []
    high = 1.0
    for step in range(steps):
        (a, b, c), error = fit_polynomial(low, high)
        low, high = 1 - error, 1 + error
        margin = SAFETY if step + 1 < steps else 1.0
        found.append((a / margin, b / margin**3, c / margin**5))
    return tuple(found)


def fit_polynomial(low: float, high: float) -> tuple[Coefficients, float]:
    """Finds the odd polynomial of degree 5 that is nearest to 1 between two numbers above 0, and its greatest error, by
    Remez' exchange: its error is the same, with alternating sign, at both ends and at its two extremes between."""
    points = torch.linspace(low, high, 4, dtype=torch.double)
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.double)
    solved = points
    for _ in range(EXCHANGES):
        system = torch.stack([points, points**3, points**5, signs], dim=1)
        solved = torch.linalg.solve(system, torch.ones(4, dtype=torch.double))
        a, b, c, _ = solved.tolist()
        root = max(9 * b * b - 20 * a * c, 0.0) ** 0.5
        extremes = [((-3 * b - sign * root) / (10 * c)) ** 0.5 for sign in (1.0, -1.0)]
        points = torch.tensor([low, *extremes, high], dtype=torch.double)
    a, b, c, error = solved.tolist()
    return (a, b, c), abs(error)
