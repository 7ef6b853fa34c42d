"""DINOv2 (Oquab et al. 2023, https://arxiv.org/abs/2304.07193), with an MLP or with SwiGLU."""

from typing import Any

from transformers.utils import logging

from ....configuration import PlaitVisionConfig
from ..conversion.family import Family, TensorNames
from ..conversion.rules import Leading, NameTable, Split
from .vit import ATTENTION, EMBEDDINGS, read_vit_fields

logger = logging.get_logger(__name__)

COMMON: NameTable = {
    **EMBEDDINGS,
    **ATTENTION,
    "embeddings.mask_token": Leading("embeddings.mask_token.tokens", 1),
    "encoder.layer.{}.norm1": "transformer.layers.{}.self_attn_norm",
    "encoder.layer.{}.norm2": "transformer.layers.{}.mlp_norm",
    "encoder.layer.{}.layer_scale1.lambda1": "transformer.layers.{}.self_attn_scale.scale",
    "encoder.layer.{}.layer_scale2.lambda1": "transformer.layers.{}.mlp_scale.scale",
    "layernorm": "transformer.output_norm",
}
MLP: NameTable = {
    "encoder.layer.{}.mlp.fc1": "transformer.layers.{}.mlp.up_proj",
    "encoder.layer.{}.mlp.fc2": "transformer.layers.{}.mlp.down_proj",
}
SWIGLU: NameTable = {
    "encoder.layer.{}.mlp.weights_in": Split(
        "transformer.layers.{}.mlp.gate_proj", "transformer.layers.{}.mlp.up_proj"
    ),
    "encoder.layer.{}.mlp.weights_out": "transformer.layers.{}.mlp.down_proj",
}
HEADS: dict[str, NameTable] = {"ForImageClassification": {"classifier": "classifier"}}


def config(hub: Any, names: TensorNames) -> dict[str, Any]:
    """Returns DINOv2's fields. The class token is the pooled vector; a classifier adds the mean of the patches."""
    if hub.drop_path_rate:
        logger.warning_once(f"dinov2: drop_path_rate {hub.drop_path_rate} is not supported and ignored in training")
    fields = read_vit_fields(hub) | {
        "intermediate_size": int(hub.hidden_size * hub.mlp_ratio),
        "hidden_act": hub.hidden_act,
        "layer_scale": hub.layerscale_value,
        "mask_token": "embeddings.mask_token" in names,
        "pooling": "first_and_mean" if "classifier.weight" in names else "first",
    }
    if hub.use_swiglu_ffn:
        # two thirds of the MLP's width, rounded up to a multiple of 8
        width = (fields["intermediate_size"] * 2 // 3 + 7) // 8 * 8
        fields |= {"gated_mlp": True, "hidden_act": "silu", "intermediate_size": width}
    return fields


def build_dinov2_table(config: PlaitVisionConfig) -> NameTable:
    """Returns the table of names with an MLP or with SwiGLU."""
    return COMMON | (SWIGLU if config.gated_mlp else MLP)


FAMILIES = (Family(("dinov2",), PlaitVisionConfig, config, build_dinov2_table, HEADS, prefixes=("dinov2.",)),)
