"""A decoder that reads fused tokens of another width is refused with the config, not in the first forward."""

from typing import Any

import pytest

from plait import PlaitConfig

SIZES = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}


def build(fusion: dict[str, Any], decoder: dict[str, Any]) -> PlaitConfig:
    return PlaitConfig(vision_config=dict(SIZES), fusion_config=fusion, decoder_config={**SIZES, **decoder})


@pytest.mark.parametrize(
    ("fusion", "decoder", "field"),
    [
        ({"strategy": "concatenate"}, {"cross_attention": True}, "context_size"),
        ({"strategy": "inline"}, {}, "embedding_size"),
    ],
)
def test_the_decoder_reads_the_width_of_the_fusion(fusion: dict[str, Any], decoder: dict[str, Any], field: str) -> None:
    assert build({**fusion, "hidden_size": 32}, decoder).fusion_config is not None
    assert build({**fusion, "hidden_size": 48}, {**decoder, field: 48}).fusion_config is not None
    with pytest.raises(ValueError, match=f"fusion_config.hidden_size is 48, but decoder_config.{field} is 32"):
        build({**fusion, "hidden_size": 48}, decoder)
