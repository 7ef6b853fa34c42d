"""What a config says about the vectors of a sentence encoder."""

from typing import Any

import pytest

from plait.configuration import PlaitTextConfig
from plait.configuration.sentence import compute_sentence_widths, has_unit_length, pools_sentences

NORMALIZE, DROPOUT = {"type": "normalize"}, {"type": "dropout", "rate": 0.1}
DENSE = {"type": "dense", "size": 5, "activation": "tanh", "bias": True}


def build(pooling: list[str] | None, layers: list[dict[str, Any]] | None) -> PlaitTextConfig:
    config = PlaitTextConfig(hidden_size=8, num_attention_heads=2)
    config.sentence_pooling, config.sentence_layers = pooling, layers
    return config


@pytest.mark.parametrize(
    ("pooling", "layers", "expected"),
    [
        (["mean"], [NORMALIZE], True),
        (["mean"], [DENSE, NORMALIZE, DROPOUT], True),
        (["mean"], [NORMALIZE, DENSE], False),
        (["mean"], [], False),
        (["mean"], None, False),
        (None, [NORMALIZE], False),
        (None, None, False),
    ],
)
def test_the_last_layer_makes_the_length_of_a_pooled_vector(
    pooling: list[str] | None, layers: list[dict[str, Any]] | None, expected: bool
) -> None:
    config = build(pooling, layers)
    assert has_unit_length(config) is expected
    assert pools_sentences(config) is (pooling is not None)


def test_widths_before_each_layer_and_behind_them_all() -> None:
    assert compute_sentence_widths(build(["mean", "max"], [DROPOUT, DENSE, NORMALIZE]), 8) == [16, 16, 5, 5]
    assert compute_sentence_widths(build(["mean"], None), 8) == [8]
