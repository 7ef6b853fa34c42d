"""The smallest images that a tower of patches takes."""

import pytest
import torch

from plait.configuration import PlaitVisionConfig
from plait.modeling.towers.image import ImageEmbeddings


@pytest.mark.parametrize("position_type", ["learned", "none"])
def test_an_image_of_one_patch_is_one_token_and_a_smaller_one_is_refused(position_type: str) -> None:
    config = PlaitVisionConfig(
        image_size=8,
        patch_size=4,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        position_type=position_type,
    )
    embeddings = ImageEmbeddings(config)
    for height, width in ((4, 4), (4, 8), (8, 4), (5, 7)):
        tokens = (height // 4) * (width // 4) + config.class_tokens
        assert embeddings(torch.zeros(2, 3, height, width)).shape == (2, tokens, 16)
    for height, width in ((3, 4), (4, 3)):
        with pytest.raises(ValueError, match=f"an image of {height} x {width} pixels is smaller than a patch"):
            embeddings(torch.zeros(2, 3, height, width))
    with pytest.raises(ValueError, match="images have shape"):
        embeddings(torch.zeros(2, 1, 8, 8))
