"""The methods by name, and what each of them needs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...configuration import DOCUMENT
from ..inputs import MODALITY_INPUTS
from .features import Features, drop_channels, element_shape
from .gradients import Attributed, check_gradients, integrate_gradients, sample_gradients
from .perturbation import MaskKernel, fit_samples, occlude, score_kept
from .relevance import compute_relevance
from .relevance_rules import GradientRule, RelevanceRule, RolloutRule
from .scored_row import ScoredRow
from .token_places import spread_tokens


@dataclass
class MethodSettings:
    """What the methods may be told.

    num_steps: of integrated gradients, shared among the baselines; num_samples: of gradient SHAP, and choices of
    features of "perturbation"; num_baselines: draws of a random baseline, None: 4, and 1 for "perturbation", whose
    choices are random themselves; batch_size: copies of a row that are computed at once; cells: of an
    image along each side, for methods that take parts away (of a video's frames half as many); window: of occlusion,
    cells along each side that are taken away together (an odd number; fewer of an image of few cells); segments: of a
    clip; kernel: of "perturbation", "shap" or "lime".
    """

    num_steps: int = 32
    num_samples: int = 48
    num_baselines: int | None = None
    batch_size: int = 16
    cells: int = 7
    window: int = 3
    segments: int = 16
    kernel: MaskKernel = "shap"

    def __post_init__(self) -> None:
        for name in ("num_steps", "num_samples", "num_baselines", "batch_size", "cells", "window", "segments"):
            value = getattr(self, name)
            if name == "num_baselines" and value is None:
                continue
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}: expected a number of 1 or more")
        if self.window % 2 == 0:
            raise ValueError(f"window is {self.window}: expected an odd number, so that it has a middle")
        if self.kernel not in ("shap", "lime"):
            raise ValueError(f"kernel is {self.kernel!r}: choose shap or lime")


def count_baselines(method: str, settings: MethodSettings) -> int:
    """Returns the number of random baselines."""
    return settings.num_baselines or (1 if method == "perturbation" else 4)


class AttributionCall(NamedTuple):
    """What a method is called with: the row, its features, the baselines of its inputs, (baselines, ...) each, and a
    generator of random numbers."""

    row: ScoredRow
    features: Features
    baselines: Mapping[str, Tensor]
    settings: MethodSettings
    generator: torch.Generator


class AttributionMethod(NamedTuple):
    """compute: the method, whose amounts are (...) of each input's elements; complete: whether the amounts add up to
    score - baseline score; follows: whether it needs gradients by the inputs."""

    compute: Callable[[AttributionCall], Attributed]
    complete: bool = False
    follows: bool = False


def compute_integrated_gradients(call: AttributionCall) -> Attributed:
    """Computes `integrate_gradients`."""
    starts = [call.baselines[name] for name in call.row.names]
    steps = max(call.settings.num_steps // max(map(len, starts)), 2)
    return sum_channels(call, integrate_gradients(call.row, starts, steps, call.settings.batch_size))


def compute_gradient_shap(call: AttributionCall) -> Attributed:
    """Computes `sample_gradients`."""
    starts = [call.baselines[name] for name in call.row.names]
    seed = int(torch.randint(2**31, (1,), generator=call.generator))
    return sum_channels(
        call, sample_gradients(call.row, starts, call.settings.num_samples, call.settings.batch_size, seed)
    )


def sum_channels(call: AttributionCall, found: Attributed) -> Attributed:
    """Sums amounts over the channels of each element."""
    named = zip(call.row.names, found.amounts, strict=True)
    return found._replace(amounts=[drop_channels(name, amount) for name, amount in named])


def compute_occlusion(call: AttributionCall) -> Attributed:
    """Computes `occlude`."""
    return occlude(call.row, call.features, call.baselines, call.settings.batch_size)


def compute_perturbation(call: AttributionCall) -> Attributed:
    """Computes `fit_samples`."""
    own = call.settings
    options = (own.num_samples, own.batch_size, call.generator, own.kernel)
    return fit_samples(call.row, call.features, call.baselines, *options)


def compute_attention_rollout(call: AttributionCall) -> Attributed:
    """Computes `compute_relevance` by attention rollout."""
    return follow_attention(call, RolloutRule())


def compute_attention_relevance(call: AttributionCall) -> Attributed:
    """Computes `compute_relevance` by gradient-weighted attention."""
    return follow_attention(call, GradientRule())


def follow_attention(call: AttributionCall, rule: RelevanceRule) -> Attributed:
    """Spreads the relevance of tokens over the elements that they stand for; elements without a feature get none."""
    row, features, towers = call.row, call.features, call.row.model.config.towers
    relevance = compute_relevance(row.model, row.inputs, row.target, rule)
    amounts = []
    for name, value in zip(row.names, row.values, strict=True):
        side, modality = find_input_side(name, row.model.config.sides)
        shape = element_shape(name, value)
        config = towers.get(side, towers.get(modality))
        found = spread_tokens(name, modality, relevance[side], shape, config).to(value)
        amounts.append(found.masked_fill(drop_channels(name, features.groups[name]).expand(shape) < 0, 0))
    scores = score_kept(row, features, call.baselines, torch.tensor([[True], [False]]).expand(2, features.count), 2)
    return Attributed(amounts, scores[0].item(), scores[1].item())


def find_input_side(name: str, sides: Mapping[str, str]) -> tuple[str, str]:
    """Returns the side and the modality that an input belongs to; a text without a tower is the decoder's."""
    start = f"{DOCUMENT}_"
    modality = next(modality for modality, names in MODALITY_INPUTS.items() if name.removeprefix(start) in names)
    return (DOCUMENT, sides[DOCUMENT]) if name.startswith(start) else (modality, modality)


METHODS: dict[str, AttributionMethod] = {
    "integrated_gradients": AttributionMethod(compute_integrated_gradients, complete=True, follows=True),
    "gradient_shap": AttributionMethod(compute_gradient_shap, complete=True, follows=True),
    "occlusion": AttributionMethod(compute_occlusion),
    "perturbation": AttributionMethod(compute_perturbation, complete=True),
    "attention_rollout": AttributionMethod(compute_attention_rollout),
    "attention_relevance": AttributionMethod(compute_attention_relevance),
}
# the one that was believed for texts and images of the demo model (docs/results/explanations.md): integrated gradients
# of 32 steps missed a quarter of the score
DEFAULT_METHOD = "occlusion"


def attribute(method: str, call: AttributionCall, checked: set[Any]) -> Attributed:
    """Computes a method; checks for each set of inputs once (kept in `checked`) that gradients reach them.

    Raises ValueError where no gradient does.
    """
    if METHODS[method].follows and call.row.names not in checked:
        check_gradients(call.row)
        checked.add(call.row.names)
    return METHODS[method].compute(call)
