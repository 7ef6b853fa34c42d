"""How many tokens an image takes."""

from typing import Any

import pytest
import transformers as hf

from plait import PlaitConfig
from plait.modeling.backbone.image_tokens import count_image_tokens

SIZES: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXT = {**SIZES, "vocab_size": 10}


@pytest.mark.parametrize("channels", [None, 1, 4])
@pytest.mark.parametrize(("size", "tokens"), [(None, 5), ((8, 16), 3), ((24, 16), 7)])
def test_tokens_of_our_tower(channels: int | None, size: tuple[int, int] | None, tokens: int) -> None:
    fields = {} if channels is None else {"num_channels": channels}
    config = PlaitConfig(vision_config={**SIZES, "image_size": 16, "patch_size": 8, **fields})
    assert count_image_tokens(config, size) == tokens


def test_tokens_of_a_tower_whose_config_says_nothing_of_channels() -> None:
    """TextNet's images have three, which its config does not say; a token stands for 32 x 32 pixels."""
    vision = hf.TextNetConfig(image_size=(64, 32), hidden_sizes=[8] * 5, stem_out_channels=8)
    assert not hasattr(vision, "num_channels")
    assert count_image_tokens(PlaitConfig(vision_config=vision)) == 2


def test_a_resampler_has_its_queries_whatever_the_size() -> None:
    fusion = {**SIZES, "strategy": "early", "connector": "resampler", "num_queries": 7}
    config = PlaitConfig(
        text_config=TEXT, vision_config={**SIZES, "image_size": 16, "patch_size": 8}, fusion_config=fusion
    )
    assert count_image_tokens(config) == count_image_tokens(config, (8, 64)) == 7


def test_a_model_without_images_has_no_image_tokens() -> None:
    with pytest.raises(ValueError, match="this model has no image tower"):
        count_image_tokens(PlaitConfig(text_config=TEXT))
