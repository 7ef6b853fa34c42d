"""The condition of image generation: the tokens that the denoiser reads, and what stands in the place of none."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import initialization as init

from ..core.layers import LearnedTokens, SelfInitializing


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


class ConditionScale(SelfInitializing):
    """Standardizes the features of a condition's tokens: (h - mean) / (std + 0.001). A pretrained tower's tokens of
    different texts differ by little; `fit` learns the scale from those of the training data."""

    mean: Tensor
    std: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.empty(width))
        self.register_buffer("std", torch.empty(width))

    def init_weights(self, std: float) -> None:
        """Sets the mean to 0 and the standard deviation to 1."""
        init.zeros_(self.mean)
        init.ones_(self.std)

    @property
    def is_fitted(self) -> bool:
        """Whether the scale is another than that of `init_weights`."""
        return bool((self.mean != 0).any() or (self.std != 1).any())

    def forward(self, tokens: Tensor) -> Tensor:
        """Standardizes tokens: (batch, tokens, width)."""
        return (tokens - self.mean) / (self.std + 1e-3)

    @torch.no_grad()
    def fit(self, conditions: Iterable[Condition]) -> int:
        """Sets mean and standard deviation to those of the real tokens of conditions that are not yet standardized;
        returns the number of tokens.

        Raises ValueError if there is none.
        """
        count, total, squares = 0, torch.zeros_like(self.mean, dtype=torch.double), 0.0
        for tokens, mask in conditions:
            real = tokens[mask].to(total)
            count, total, squares = count + len(real), total + real.sum(dim=0), squares + real.square().sum(dim=0)
        if not count:
            raise ValueError("the training data have no condition at all: no token to standardize by")
        mean = total / count
        self.mean.copy_(mean)
        self.std.copy_((squares / count - mean.square()).clamp_min(0).sqrt())
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
