"""Image tokens in the text of a decoder."""

import copy

import torch

from ...configuration import PlaitConfig
from ..fusion.connectors import RESAMPLING_CONNECTORS
from ..towers.patches import to_height_width
from ..towers.registry import build_tower


def count_image_tokens(config: PlaitConfig, size: tuple[int, int] | None = None) -> int:
    """Tokens of one picture of `size` pixels (height, width; the tower's own where None): a resampler's queries, else
    what the image tower gives (run on the meta device, where nothing is computed)."""
    vision, fusion = copy.deepcopy(config.vision_config), config.fusion_config
    if vision is None:
        raise ValueError("this model has no image tower, so a picture has no tokens")
    if fusion is not None and fusion.connector in RESAMPLING_CONNECTORS:
        return fusion.num_queries
    own = getattr(vision, "vision_config", vision)  # of two towers
    asked = size or getattr(own, "image_size", None)
    if asked is None:
        raise ValueError(f"a {vision.model_type} has no image_size: its tokens depend on the picture, count them there")
    vision._attn_implementation = "eager"
    with torch.device("meta"), torch.no_grad():
        tower = build_tower(vision, "image").eval()
        picture = torch.empty(1, getattr(own, "num_channels", 3), *(size or to_height_width(own.image_size)))
        return tower(pixel_values=picture).last_hidden_state.shape[1]
