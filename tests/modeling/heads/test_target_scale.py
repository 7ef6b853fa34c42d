"""Standardized values in the unit of the targets: for regression alone, and in a type that holds them."""

from typing import Any

import pytest
import torch
from torch import nn

from plait import PlaitConfig
from plait.modeling.heads.target_scale import TargetScale, build_target_scale


@pytest.mark.parametrize(
    ("fields", "scaled"),
    [
        ({"problem_type": "regression", "num_labels": 1}, True),
        ({"problem_type": "regression", "num_labels": 2}, True),
        ({"problem_type": None, "num_labels": 1}, True),
        ({"problem_type": None, "num_labels": 2}, False),
        ({"problem_type": "single_label_classification", "num_labels": 2}, False),
        ({"problem_type": "multi_label_classification", "num_labels": 1}, False),
    ],
)
def test_only_a_regression_has_a_unit(fields: dict[str, Any], scaled: bool) -> None:
    many = fields["num_labels"] == 2
    config = PlaitConfig(**fields)
    assert type(build_target_scale(config)) is nn.Identity
    config.target_mean, config.target_std = ([3.0, 4.0], [2.0, 5.0]) if many else (3.0, 2.0)
    found = build_target_scale(config)
    assert isinstance(found, TargetScale) is scaled
    if scaled:
        values = torch.tensor([[1.0, -1.0]])[:, : 1 + many]
        assert found(values).tolist() == ([[5.0, -1.0]] if many else [[5.0]])
    for name in ("target_mean", "target_std"):
        half = PlaitConfig(**fields)
        setattr(half, name, [1.0, 1.0] if many else 1.0)
        assert type(build_target_scale(half)) is nn.Identity


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_large_values_are_not_cut(dtype: torch.dtype) -> None:
    found = TargetScale(475_000.0, 1.5)(torch.tensor([[2.0]], dtype=dtype))
    assert found.dtype == torch.promote_types(dtype, torch.float32) and found.item() == 475_003
