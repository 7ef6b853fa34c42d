"""The condition of image generation: the tokens that the denoiser reads, and what stands in the place of none."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..core.layers import LearnedTokens
from .scale import FeatureScale


class Condition(NamedTuple):
    """What the denoiser is told about each image. tokens: (batch, tokens, width); mask: (batch, tokens) bool."""

    tokens: Tensor
    mask: Tensor

    def repeat(self, count: int) -> "Condition":
        """Repeats each row `count` times in a row."""
        return Condition(*(each.repeat_interleave(count, dim=0) for each in self))

    def pad(self, length: int) -> "Condition":
        """Pads each row to at least `length` tokens."""
        lacking = max(0, length - self.mask.shape[1])
        return Condition(nn.functional.pad(self.tokens, (0, 0, 0, lacking)), nn.functional.pad(self.mask, (0, lacking)))


class ConditionScale(FeatureScale):
    """Standardizes the features of a condition's tokens: (h - mean) / (std + 0.001). A pretrained tower's tokens of
    different texts differ by little; `fit` learns the scale from those of the training data."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Standardizes tokens: (batch, tokens, width)."""
        return (tokens - self.mean) / (self.std + 1e-3)

    def fit(self, conditions: Iterable[Condition]) -> int:
        """Sets mean and standard deviation to those of the real tokens of conditions that are not yet standardized;
        returns the number of tokens.

        Raises ValueError if there is none.
        """
        count = self.set_from(tokens[mask] for tokens, mask in conditions)
        if not count:
            raise ValueError("the training data have no condition at all: no token to standardize by")
        return count


class NullCondition(LearnedTokens):
    """A learned token in the place of a row's condition: for rows without one, and for classifier-free guidance (Ho and
    Salimans 2022, https://arxiv.org/abs/2207.12598)."""

    def __init__(self, width: int) -> None:
        super().__init__(1, width)

    def fill(self, condition: Condition) -> Condition:
        """Puts the token in the place of the first token of every row that has none."""
        tokens, mask = condition.pad(1)
        first = torch.arange(mask.shape[1], device=mask.device) == 0
        place = first & ~mask.any(dim=1, keepdim=True)
        return Condition(torch.where(place[..., None], self.tokens, tokens), mask | place)
