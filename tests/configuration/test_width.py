"""How wide the tokens of a tower are, as its config says it."""

import pytest
import transformers as hf

from plait.configuration import PlaitTextConfig
from plait.configuration.hub import HUB_OPTIONS, select_hub_options
from plait.configuration.width import round_channels, width_of


@pytest.mark.parametrize(
    ("channels", "divisor", "least", "expected"),
    [(32, 8, 8, 32), (35, 8, 8, 32), (36, 8, 8, 40), (3, 8, 8, 8), (3, 8, 16, 16), (11, 8, 8, 16), (8.8, 8, 8, 8)],
)
def test_channels_are_a_multiple_and_at_most_a_tenth_too_few(
    channels: float, divisor: int, least: int, expected: int
) -> None:
    assert round_channels(channels, divisor, least) == expected


@pytest.mark.parametrize(
    ("config", "width"),
    [
        (PlaitTextConfig(hidden_size=24, num_attention_heads=2), 24),
        (hf.ResNetConfig(hidden_sizes=[8, 16, 40]), 40),
        (hf.CvtConfig(embed_dim=[8, 16, 24]), 24),
        (hf.EfficientNetConfig(hidden_dim=40), 40),
        (hf.FocalNetConfig(embed_dim=12, depths=[1, 1, 1]), 48),
        (hf.FocalNetConfig(embed_dim=12, depths=[1, 1, 1, 1]), 96),
        (hf.MobileNetV1Config(depth_multiplier=0.5), 512),
        (hf.MobileNetV1Config(depth_multiplier=0.001), 8),
        (hf.MobileNetV2Config(depth_multiplier=0.5, finegrained_output=True), 1280),
        (hf.MobileNetV2Config(depth_multiplier=0.5, finegrained_output=False), 640),
        (hf.MobileNetV2Config(depth_multiplier=1.5, finegrained_output=True), 1920),
        (hf.MobileNetV2Config(depth_multiplier=1.0, finegrained_output=True), 1280),
        (hf.MobileViTV2Config(width_multiplier=0.5), 256),
        (hf.ReformerConfig(hidden_size=12), 24),
        (hf.OPTConfig(hidden_size=32, word_embed_proj_dim=16), 16),
        (hf.TimmWrapperConfig(architecture="resnet10t", num_features=512), 512),
    ],
    ids=lambda value: getattr(value, "model_type", str(value)),
)
def test_the_width_of_a_familys_tokens(config: hf.PreTrainedConfig, width: int) -> None:
    assert width_of(config) == width


def test_of_two_towers_the_modality_tells_which() -> None:
    config = hf.CLIPConfig(text_config={"hidden_size": 24}, vision_config={"hidden_size": 48})
    assert (width_of(config, "text"), width_of(config, "image")) == (24, 48)
    with pytest.raises(ValueError, match="a 'clip' model does not say how wide its tokens are"):
        width_of(config)


def test_only_what_says_where_a_file_is_goes_to_the_hub() -> None:
    given = {**dict.fromkeys(HUB_OPTIONS), "labels": 2}
    assert select_hub_options(given) == dict.fromkeys(HUB_OPTIONS)
    assert select_hub_options({"revision": "main", "dtype": "float32"}) == {"revision": "main"}
