"""Methods that take features away: occlusion, and linear models fitted to random choices of features."""

from collections.abc import Iterator, Mapping
from itertools import combinations
from math import comb
from typing import Literal

import torch
from torch import Tensor

from .features import Features, element_shape
from .gradients import Attributed
from .scored_row import ScoredRow

MaskKernel = Literal["shap", "lime"]
LIME_WIDTH = 0.25  # of the exponential kernel, in shares of the features that are away (Ribeiro et al. 2016)


def score_kept(
    row: ScoredRow, features: Features, baselines: Mapping[str, Tensor], keep: Tensor, batch_size: int
) -> Tensor:
    """Returns the score with the features that are kept, the mean over the baselines: (masks,).

    keep: (masks, count) bool; baselines: by input (baselines, ...).
    """
    values, found = dict(zip(row.names, row.values, strict=True)), []
    number = max(len(baseline) for baseline in baselines.values())
    with torch.no_grad():
        for baseline in range(number):
            own = {name: one[baseline % len(one)][None] for name, one in baselines.items()}
            parts = keep.split(batch_size)
            found.append(torch.cat([row(*features.mix(part, values, own)) for part in parts]))
    return torch.stack(found).mean(dim=0)


def occlude(row: ScoredRow, features: Features, baselines: Mapping[str, Tensor], batch_size: int) -> Attributed:
    """Computes what the score loses without each feature: a cell of an image with the cells around it, a segment of a
    clip, a word.

    Windows of an image overlap, as in Zeiler and Fergus 2014, https://arxiv.org/abs/1311.2901, section 4.2: a single
    cell of a larger object is hardly missed. A cell has the mean loss over the windows that contain it, shared among
    the cells of a window.
    """
    count, device = features.count, row.values[0].device
    windows = torch.eye(count, dtype=torch.bool) if features.windows is None else features.windows
    windows = windows.to(device)
    ends = torch.tensor([[True], [False]], device=device).expand(2, count)
    scores = score_kept(row, features, baselines, torch.cat((ends, ~windows)), batch_size)
    inside, sizes = windows.to(scores), windows.sum(dim=1)
    largest = torch.where(windows, sizes[:, None], 0).amax(dim=0)  # of the windows that contain a feature
    amounts = (scores[0] - scores[2:]) @ inside / inside.sum(dim=0) / largest
    return build_attributed(row, features, amounts, scores[:2])


def fit_samples(
    row: ScoredRow,
    features: Features,
    baselines: Mapping[str, Tensor],
    samples: int,
    batch_size: int,
    generator: torch.Generator,
    kernel: MaskKernel = "shap",
) -> Attributed:
    """Fits a linear model of the score to random choices of the features that are kept, by weighted least squares.

    kernel: "shap": the weights of kernel SHAP (Lundberg and Lee 2017, https://arxiv.org/abs/1705.07874, theorem 2),
    whose amounts add up to the score without the baseline's, and are Shapley values if all choices are computed (for
    few features they are); "lime": an exponential kernel of the share of features away, with a small ridge (Ribeiro et
    al. 2016, https://arxiv.org/abs/1602.04938, equation 2).
    """
    count, device = features.count, row.values[0].device
    choose = choose_masks if kernel == "shap" else draw_masks
    masks, weights = choose(count, samples, generator)
    ends = torch.tensor([[True], [False]]).expand(2, count)
    scores = score_kept(row, features, baselines, torch.cat((ends, masks)).to(device), batch_size).double().cpu()
    fit = fit_shapley if kernel == "shap" else fit_ridge
    amounts = fit(masks.double(), weights, scores)
    return build_attributed(row, features, amounts.to(row.values[0]), scores[:2])


def fit_shapley(masks: Tensor, weights: Tensor, scores: Tensor) -> Tensor:
    """Solves the weighted least squares of kernel SHAP with amounts that add up exactly: (count,).

    masks: (masks, count); scores: of all features, of none, and of the masks.
    """
    count, whole = masks.shape[1], scores[0] - scores[1]
    if count == 1:
        return whole[None]
    # the last amount is what the others leave of the whole
    design = masks[:, :-1] - masks[:, -1:]
    wanted = scores[2:] - scores[1] - masks[:, -1] * whole
    root = weights.sqrt()[:, None]
    found = torch.linalg.lstsq(root * design, root * wanted[:, None], driver="gelsd").solution[:, 0]
    return torch.cat((found, (whole - found.sum())[None]))


def fit_ridge(masks: Tensor, weights: Tensor, scores: Tensor, strength: float = 1e-3) -> Tensor:
    """Solves the weighted ridge regression of LIME, with an intercept: (count,)."""
    design = torch.cat((masks, torch.ones_like(masks[:, :1])), dim=1)
    root = weights.sqrt()[:, None]
    penalty = strength * weights.sum() * torch.eye(design.shape[1], dtype=design.dtype)
    penalty[-1, -1] = 0
    left = (root * design).T @ (root * design) + penalty
    return torch.linalg.solve(left, (root * design).T @ (root * scores[2:, None]))[:-1, 0]


def choose_masks(count: int, samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Returns masks of kept features, (masks, count), and their weights: all, if they are no more than `samples`, else
    random pairs of a choice and its complement, of sizes that the kernel prefers."""
    if 2**count - 2 <= samples:
        every = list(iterate_choices(count))
        masks = torch.zeros(len(every), count, dtype=torch.bool)
        for number, kept in enumerate(every):
            masks[number, list(kept)] = True
        sizes = masks.sum(dim=1)
        kernel = [(count - 1) / (comb(count, size) * size * (count - size)) for size in sizes.tolist()]
        return masks, torch.tensor(kernel, dtype=torch.double)
    sizes = torch.arange(1, count, dtype=torch.double)
    drawn = torch.multinomial(1 / (sizes * (count - sizes)), max(samples // 2, 1), True, generator=generator) + 1
    order = torch.rand(len(drawn), count, generator=generator).argsort(dim=1)
    half = order.argsort(dim=1) < drawn[:, None]
    masks = torch.cat((half, ~half))
    return masks, torch.ones(len(masks), dtype=torch.double)


def iterate_choices(count: int) -> Iterator[tuple[int, ...]]:
    """Yields all choices of some, but not all, of `count` features."""
    for size in range(1, count):
        yield from combinations(range(count), size)


def draw_masks(count: int, samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Returns random masks of kept features, (samples, count), and the weights of LIME's exponential kernel."""
    masks = torch.rand(samples, count, generator=generator) < 0.5
    away = 1 - masks.double().mean(dim=1)
    return masks, torch.exp(-(away**2) / LIME_WIDTH**2)


def build_attributed(row: ScoredRow, features: Features, amounts: Tensor, ends: Tensor) -> Attributed:
    """Spreads the amounts of features over their elements."""
    named = zip(row.names, row.values, strict=True)
    maps = [features.spread(name, amounts, element_shape(name, value)) for name, value in named]
    return Attributed(maps, ends[0].item(), ends[1].item())
