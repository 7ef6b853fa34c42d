"""A decoder's config read as that of a text tower, and a decoder alone."""

from typing import Any

import pytest
import transformers as hf

from plait import PlaitForConditionalGeneration
from plait.configuration import PlaitDecoderConfig, PlaitTextConfig
from plait.modeling.checkpoints.component import Component
from plait.modeling.composition.components import as_tower_config
from plait.modeling.composition.decoder import without_cross_attention

CORE: dict[str, Any] = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}


def test_a_tower_made_of_a_decoder_has_no_cross_attention() -> None:
    decoder = PlaitDecoderConfig(hidden_size=16, num_attention_heads=2, num_hidden_layers=3, cross_attention=True)
    tower = as_tower_config(decoder)
    assert type(tower) is PlaitTextConfig and not tower.cross_attention
    assert as_tower_config(tower) is tower
    assert (tower.hidden_size, tower.num_hidden_layers) == (16, 3)


def test_only_a_decoder_with_cross_attention_loses_it() -> None:
    """What is no decoder of ours, or has no cross-attention, is handed back as it is."""
    for config in (hf.GPT2Config(), PlaitTextConfig(**CORE), PlaitDecoderConfig(**CORE, cross_attention=False)):
        component = Component(config, {}, {}, "somewhere")
        assert without_cross_attention(component, PlaitForConditionalGeneration) is component
    crossing = Component(PlaitDecoderConfig(**CORE, cross_attention=True), {}, {}, "somewhere")
    with pytest.raises(ValueError, match="somewhere holds a decoder alone, and its cross-attention"):
        without_cross_attention(crossing, PlaitForConditionalGeneration)
