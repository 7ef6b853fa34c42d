"""The mean and standard deviation of features, learned from training data."""

from collections.abc import Iterable

import torch
from torch import Tensor
from transformers import initialization as init

from ..core.layers import SelfInitializing


class FeatureScale(SelfInitializing):
    """The mean and standard deviation of each of `width` features."""

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

    @torch.no_grad()
    def set_from(self, batches: Iterable[Tensor]) -> int:
        """Sets mean and standard deviation to those of features, (rows, width) a batch; returns the number of rows, and
        changes nothing if there is none."""
        count, total, squares = 0, torch.zeros_like(self.mean, dtype=torch.double), 0.0
        for features in batches:
            rows = features.to(total)
            count, total, squares = count + len(rows), total + rows.sum(dim=0), squares + rows.square().sum(dim=0)
        if count:
            mean = total / count
            self.mean.copy_(mean)
            self.std.copy_((squares / count - mean.square()).clamp_min(0).sqrt())
        return count
