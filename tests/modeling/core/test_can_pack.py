"""When a padded batch is packed: only with padding, and where nothing depends on it."""

from typing import Any

import pytest
import torch

from plait.configuration import PlaitTransformerConfig
from plait.modeling.core.packing import has_varlen_kernel
from plait.modeling.core.transformer import PlaitTransformer

PADDED = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])


def build(implementation: str = "sdpa", **fields: Any) -> PlaitTransformer:
    config = PlaitTransformerConfig(hidden_size=8, num_attention_heads=2, **{"num_hidden_layers": 2, **fields})
    config._attn_implementation = implementation
    return PlaitTransformer(config)


@pytest.mark.parametrize(
    ("fields", "packs"),
    [
        ({}, True),
        ({"implementation": "eager"}, True),
        ({"implementation": "flex_attention"}, False),
        ({"packing": False}, False),
        ({"num_hidden_layers": 0}, False),
        ({"relative_grid": [2, 2]}, False),
        ({"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}, True),
        ({"sliding_window": 3, "layer_types": ["sliding_attention", "full_attention"]}, False),
    ],
)
def test_what_packs(fields: dict[str, Any], packs: bool) -> None:
    assert build(**fields).can_pack(PADDED) is packs


def test_only_a_mask_with_padding_packs() -> None:
    transformer = build()
    for mask in (None, torch.ones(2, 4), PADDED[:, None, None], {"full_attention": PADDED}):
        assert transformer.can_pack(mask) is False
    assert transformer.can_pack(PADDED.bool()) is True


@pytest.mark.parametrize(
    ("dtype", "size", "fits"),
    [
        (torch.float16, 64, True),
        (torch.bfloat16, 8, True),
        (torch.bfloat16, 256, True),
        (torch.float32, 64, False),
        (torch.float16, 264, False),
        (torch.float16, 65, False),
        (torch.float16, 60, False),
    ],
)
def test_which_queries_the_variable_length_kernel_takes(
    dtype: torch.dtype, size: int, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = torch.zeros(2, 3, size, dtype=dtype)
    monkeypatch.setattr("plait.modeling.core.packing.has_flash_attention", lambda device: True)
    assert has_varlen_kernel(query) is fits
