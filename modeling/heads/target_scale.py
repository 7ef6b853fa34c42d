"""Regression in the unit of its targets: the head computes standardized values, and this module gives them back."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...configuration import PlaitConfig


class TargetScale(nn.Module):
    """Standardized values to values in the targets' unit: x * std + mean, in float32 or wider.

    mean, std: of the training targets, one number or one for each output.
    """

    def __init__(self, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, num_labels)."""
        x = x.to(torch.promote_types(x.dtype, torch.float))  # a price of 475,000 overflows float16
        return x * x.new_tensor(self.std) + x.new_tensor(self.mean)


def build_target_scale(config: PlaitConfig) -> nn.Module:
    """Builds the module that the config asks for: the identity without `target_mean` and `target_std`, or for classes
    (of a model that was a regressor before)."""
    regression = config.problem_type == "regression" or (config.problem_type is None and config.num_labels == 1)
    if not regression or config.target_mean is None or config.target_std is None:
        return nn.Identity()
    return TargetScale(config.target_mean, config.target_std)
