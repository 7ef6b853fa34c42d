"""How many patches masked image modelling hides: a share of them, at least one, and never all."""

import pytest
import torch

from plait import PlaitConfig
from plait.configuration import PlaitVisionConfig
from plait.modeling.heads.masked_image import MaskedImageHead


def head_of(ratio: float) -> MaskedImageHead:
    vision = PlaitVisionConfig(
        image_size=8, patch_size=4, hidden_size=16, num_hidden_layers=1, num_attention_heads=2
    )  # four patches
    return MaskedImageHead(PlaitConfig(vision_config=vision, image_mask_ratio=ratio))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("ratio", "hidden"), [(0.01, 1), (0.5, 2), (0.75, 3), (0.99, 3)])
def test_the_share_of_hidden_patches(ratio: float, hidden: int, training: bool) -> None:
    masked = head_of(ratio).train(training).draw_mask(torch.zeros(5, 3, 8, 8))
    assert masked.shape == (5, 4) and masked.sum(dim=1).tolist() == [hidden] * 5
