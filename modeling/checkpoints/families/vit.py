"""ViT (Dosovitskiy et al. 2020, https://arxiv.org/abs/2010.11929)."""

from typing import Any

from transformers import PreTrainedConfig

from ....configuration import PlaitVisionConfig
from ..conversion.family import Family, TensorNames
from ..conversion.rules import Leading, NameTable

EMBEDDINGS: NameTable = {
    "embeddings.cls_token": "embeddings.class_tokens.0.tokens",
    "embeddings.mask_token": "embeddings.mask_token.tokens",
    "embeddings.patch_embeddings.projection": "embeddings.patch_embedding",
    "embeddings.position_embeddings": Leading("embeddings.position_embedding.weight", -1),
}
ATTENTION: NameTable = {
    "encoder.layer.{}.attention.attention.query": "transformer.layers.{}.self_attn.q_proj",
    "encoder.layer.{}.attention.attention.key": "transformer.layers.{}.self_attn.k_proj",
    "encoder.layer.{}.attention.attention.value": "transformer.layers.{}.self_attn.v_proj",
    "encoder.layer.{}.attention.output.dense": "transformer.layers.{}.self_attn.o_proj",
}
TABLE: NameTable = {
    **EMBEDDINGS,
    **ATTENTION,
    "encoder.layer.{}.layernorm_before": "transformer.layers.{}.self_attn_norm",
    "encoder.layer.{}.layernorm_after": "transformer.layers.{}.mlp_norm",
    "encoder.layer.{}.intermediate.dense": "transformer.layers.{}.mlp.up_proj",
    "encoder.layer.{}.output.dense": "transformer.layers.{}.mlp.down_proj",
    "layernorm": "transformer.output_norm",
    "pooler.dense": "pooler.dense",
}
HEADS: dict[str, NameTable] = {
    "ForImageClassification": {"classifier": "classifier"},
    "ForMaskedImageModeling": {"decoder.0": None},
}


def config(hub: Any, names: TensorNames) -> dict[str, Any]:
    """Returns ViT's fields; without a pooler in the file the class token is pooled, as its classifier needs."""
    fields = read_vit_fields(hub) | {
        "intermediate_size": hub.intermediate_size,
        "hidden_act": hub.hidden_act,
        "mask_token": "embeddings.mask_token" in names,
        "pooling": "first",
    }
    if "pooler.dense.weight" in names:
        fields |= {"pooler_size": hub.pooler_output_size, "pooler_act": hub.pooler_act}
    return fields


def read_vit_fields(hub: PreTrainedConfig) -> dict[str, Any]:
    """Returns the fields that ViT, DeiT and DINOv2 share."""
    return read_image_fields(hub) | {
        "hidden_size": hub.hidden_size,
        "num_hidden_layers": hub.num_hidden_layers,
        "num_attention_heads": hub.num_attention_heads,
        "hidden_dropout_prob": hub.hidden_dropout_prob,
        "attention_dropout": hub.attention_probs_dropout_prob,
        "initializer_range": hub.initializer_range,
        "norm_eps": hub.layer_norm_eps,
        "qkv_bias": hub.qkv_bias,
    }


def read_image_fields(hub: PreTrainedConfig) -> dict[str, Any]:
    """Returns the sizes of images and patches in pixels, an int or [height, width], and the number of channels."""
    sizes = {"image_size": hub.image_size, "patch_size": hub.patch_size}
    return {name: size if isinstance(size, int) else list(size) for name, size in sizes.items()} | {
        "num_channels": hub.num_channels
    }


FAMILIES = (Family(("vit",), PlaitVisionConfig, config, TABLE, HEADS, prefixes=("vit.",)),)
