"""The number of image tokens that an image takes in the text of a decoder."""

import copy

import torch

from ...configuration import PlaitConfig
from ..fusion.connectors import RESAMPLING_CONNECTORS
from ..towers.patches import to_height_width
from ..towers.registry import build_tower


def count_image_tokens(config: PlaitConfig, size: tuple[int, int] | None = None) -> int:
    """Counts the tokens of one image of `size` pixels (height, width; None: the tower's `image_size`) behind the
    connector: a resampler's queries, else the tokens of the image tower (run on the meta device, without computing).

    Raises ValueError if there is no image tower, or neither `size` nor the tower's `image_size`.
    """
    vision, fusion = copy.deepcopy(config.vision_config), config.fusion_config
    if vision is None:
        raise ValueError("this model has no image tower, so an image has no tokens: compose it with image=...")
    if fusion is not None and fusion.connector in RESAMPLING_CONNECTORS:
        return fusion.num_queries
    own = getattr(vision, "vision_config", vision)  # a checkpoint with a text tower too keeps it in vision_config
    known_size = size or getattr(own, "image_size", None)
    if known_size is None:
        raise ValueError(
            f"a {vision.model_type} has no image_size, its number of tokens depends on the image: "
            "call plait.modeling.backbone.image_tokens.count_image_tokens(config, size)"
        )
    vision._attn_implementation = "eager"
    with torch.device("meta"), torch.no_grad():
        tower = build_tower(vision, "image").eval()
        image = torch.empty(1, getattr(own, "num_channels", 3), *(size or to_height_width(own.image_size)))
        return tower(pixel_values=image).last_hidden_state.shape[1]
