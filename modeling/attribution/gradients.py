"""Methods that follow the gradient from a baseline to the input, computed by captum."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .scored_row import ScoredRow

OCCLUDE = 'choose a method without gradients: method="occlusion" or "perturbation"'
CAPTUM_HINT = "gradient methods are computed by captum: pip install 'plait[explain]', or choose method=\"occlusion\""


class Attributed(NamedTuple):
    """The attribution of one row. amounts: for each explained input a tensor of its shape, without the rows; score, and
    baseline_score: the mean over the baselines; complete: whether the amounts add up to their difference."""

    amounts: list[Tensor]
    score: float
    baseline_score: float


def integrate_gradients(row: ScoredRow, baselines: Sequence[Tensor], steps: int, batch_size: int) -> Attributed:
    """Computes integrated gradients (Sundararajan et al. 2017, https://arxiv.org/abs/1703.01365, equation 1) by
    Gauss-Legendre quadrature; with several baselines their mean, the expected gradients of Erion et al. 2021
    (https://arxiv.org/abs/1906.10670).

    baselines: for each explained input (baselines, ...), 1 or all the same number; steps: of the integral, for each
    baseline; batch_size: of copies of the row that are computed at once.
    """
    methods = import_captum()
    starts = expand_baselines(baselines)
    inputs = tuple(value.expand_as(start).contiguous() for value, start in zip(row.values, starts, strict=True))
    size = max(batch_size, len(starts[0]))
    found = methods.IntegratedGradients(row).attribute(inputs, starts, n_steps=steps, internal_batch_size=size)
    return Attributed([amount.detach().mean(dim=0) for amount in found], *score_ends(row, starts, batch_size))


def sample_gradients(
    row: ScoredRow, baselines: Sequence[Tensor], samples: int, batch_size: int, seed: int
) -> Attributed:
    """Computes gradient SHAP (Lundberg and Lee 2017, https://arxiv.org/abs/1705.07874): (input - baseline) * gradient
    at a random point between a random baseline and the input, averaged over the samples.

    seed: of the random points, which numpy draws.
    """
    methods = import_captum()
    starts = expand_baselines(baselines)
    np.random.seed(seed % 2**32)
    method, amounts = methods.GradientShap(row), [torch.zeros_like(value[0]) for value in row.values]
    for start in range(0, samples, batch_size):
        count = min(batch_size, samples - start)
        part = method.attribute(row.values, starts, n_samples=count, stdevs=0.0)
        amounts = [amount + own.detach()[0] * (count / samples) for amount, own in zip(amounts, part, strict=True)]
    return Attributed(amounts, *score_ends(row, starts, batch_size))


def import_captum() -> Any:
    """Returns captum's module of methods. Raises ImportError that says what to install."""
    try:
        from captum import attr
    except ImportError as error:
        raise ImportError(CAPTUM_HINT) from error
    return attr


def expand_baselines(baselines: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Returns baselines of the same number for every input: one is repeated."""
    count = max(len(baseline) for baseline in baselines)
    return tuple(baseline.expand(count, *baseline.shape[1:]).contiguous() for baseline in baselines)


def score_ends(row: ScoredRow, starts: Sequence[Tensor], batch_size: int) -> tuple[float, float]:
    """Returns the score of the row, and the mean score of its baselines."""
    with torch.no_grad():
        parts = zip(*(start.split(batch_size) for start in starts), strict=True)
        found = torch.cat([row(*part) for part in parts])
        return row(*row.values).item(), found.mean().item()


def check_gradients(row: ScoredRow) -> None:
    """Raises ValueError if the score has no gradient by one of the explained inputs: the model computes on quantized
    weights, or on features that were computed before."""
    leaves = [value.detach().clone().requires_grad_() for value in row.values]
    try:
        found = row(*leaves)
        gradients = torch.autograd.grad(found.sum(), leaves, allow_unused=True) if found.requires_grad else []
    except torch.OutOfMemoryError:
        raise
    except (NotImplementedError, RuntimeError) as error:
        raise ValueError(f"the score has no gradient by {', '.join(row.names)} ({error}): {OCCLUDE}") from error
    lacking = (
        [name for name, part in zip(row.names, gradients, strict=True) if part is None] if gradients else row.names
    )
    if lacking:
        raise ValueError(
            f"no gradient of the score reaches {', '.join(lacking)} (a quantized layer, or one that computes without "
            f"gradients, lies between): {OCCLUDE}"
        )
