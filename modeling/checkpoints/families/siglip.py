"""SigLIP's text and image towers at one resolution (Zhai et al. 2023, https://arxiv.org/abs/2303.15343)."""

from typing import Any

from ....configuration import PlaitTextConfig, PlaitVisionConfig
from ..conversion.family import Family, TensorNames
from ..conversion.rules import NameTable, Split
from .clip import ENCODER, IGNORED, read_text_tower_fields, read_tower_fields
from .clip import TEXT as CLIP_TEXT
from .vit import read_image_fields

TEXT: NameTable = CLIP_TEXT | {"head": "pooler.dense"}
ATTENTION_POOLER: NameTable = {
    "head.probe": "pooler.pick.query.tokens",
    "head.attention.in_proj_weight": Split(*(f"pooler.pick.attention.{name}_proj.weight" for name in "qkv")),
    "head.attention.in_proj_bias": Split(*(f"pooler.pick.attention.{name}_proj.bias" for name in "qkv")),
    "head.attention.out_proj": "pooler.pick.attention.o_proj",
    "head.layernorm": "pooler.pick.norm",
    "head.mlp.fc1": "pooler.pick.mlp.up_proj",
    "head.mlp.fc2": "pooler.pick.mlp.down_proj",
}
IMAGE: NameTable = {
    **ENCODER,
    **ATTENTION_POOLER,
    "embeddings.patch_embedding": "embeddings.patch_embedding",
    "post_layernorm": "transformer.output_norm",
}
# the classifier reads the mean of the tokens and does not use the attention pooling
IMAGE_HEADS: dict[str, NameTable] = {
    "ForImageClassification": {"classifier": "classifier", **dict.fromkeys(ATTENTION_POOLER)}
}


def siglip_text_config(hub: Any, names: TensorNames) -> dict[str, Any]:
    """Returns the text tower's fields. Texts are padded to one length and pooled at the last position, padding or not,
    so packing is off."""
    return read_text_tower_fields(hub) | {"pooling": "final", "pooler_size": hub.projection_size, "packing": False}


def siglip_image_config(hub: Any, names: TensorNames) -> dict[str, Any]:
    """Returns the image tower's fields, with attention pooling if the file holds it, or the mean for a classifier."""
    fields = read_tower_fields(hub) | read_image_fields(hub) | {"class_tokens": 0}
    if "classifier.weight" in names:
        return fields | {"pooling": "mean"}
    return fields | {"pooling": "attention" if "head.probe" in names else "none"}


FAMILIES = (
    Family(("siglip_text_model",), PlaitTextConfig, siglip_text_config, TEXT, {}, ("text_model.",), IGNORED),
    Family(
        ("siglip_vision_model",),
        PlaitVisionConfig,
        siglip_image_config,
        IMAGE,
        IMAGE_HEADS,
        ("vision_model.",),
        IGNORED,
    ),
)
