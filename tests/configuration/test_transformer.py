"""Sizes of a stack of layers that do not fit together."""

import pytest

from plait.configuration import PlaitTextConfig
from plait.configuration.transformer import PlaitTransformerConfig


def test_left_out_sizes_follow_from_the_width() -> None:
    config = PlaitTransformerConfig(hidden_size=24, num_attention_heads=3, num_hidden_layers=2)
    assert (config.head_dim, config.num_key_value_heads, config.intermediate_size) == (8, 3, 96)
    assert config.context_size == 24 and config.layer_types == ["full_attention"] * 2


def test_heads_divide_the_width_or_bring_their_own() -> None:
    with pytest.raises(ValueError, match="hidden_size 30 is not a multiple of num_attention_heads 4"):
        PlaitTransformerConfig(hidden_size=30, num_attention_heads=4)
    assert PlaitTransformerConfig(hidden_size=32, num_attention_heads=4, head_dim=16).head_dim == 16
    assert PlaitTransformerConfig(hidden_size=32, num_attention_heads=4, head_dim=8).head_dim == 8


def test_groups_of_query_heads_are_of_one_size() -> None:
    with pytest.raises(ValueError, match="num_attention_heads 4 is not a multiple of num_key_value_heads 3"):
        PlaitTransformerConfig(hidden_size=32, num_attention_heads=4, num_key_value_heads=3)
    assert PlaitTransformerConfig(num_attention_heads=4, num_key_value_heads=2).num_key_value_heads == 2


@pytest.mark.parametrize("count", [1, 3])
def test_every_layer_has_one_type(count: int) -> None:
    with pytest.raises(ValueError, match=f"layer_types has {count} entries for 2 layers"):
        PlaitTextConfig(num_hidden_layers=2, layer_types=["full_attention"] * count)


def test_cross_attention_stands_in_layers_that_exist() -> None:
    fields = {"cross_attention": True, "num_hidden_layers": 3}
    with pytest.raises(ValueError, match="cross_attention_layers has 3, but the layers are 0 to 2"):
        PlaitTransformerConfig(**fields, cross_attention_layers=[1, 3])
    chosen, every = PlaitTransformerConfig(**fields, cross_attention_layers=[0, 2]), PlaitTransformerConfig(**fields)
    none = PlaitTransformerConfig(num_hidden_layers=3, cross_attention_layers=[0, 2])
    assert [chosen.has_cross_attention(layer) for layer in range(3)] == [True, False, True]
    assert [every.has_cross_attention(layer) for layer in range(3)] == [True] * 3
    assert [none.has_cross_attention(layer) for layer in range(3)] == [False] * 3
