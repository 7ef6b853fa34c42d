"""CLIP's text and image towers (Radford et al. 2021, https://arxiv.org/abs/2103.00020)."""

from typing import Any

from transformers import PreTrainedConfig

from ....configuration import PlaitTextConfig, PlaitVisionConfig
from ..conversion.family import Family, TensorNames
from ..conversion.rules import Leading, NameTable
from .vit import read_image_fields

ENCODER: NameTable = {
    "embeddings.position_embedding": "embeddings.position_embedding",
    "encoder.layers.{}.self_attn.q_proj": "transformer.layers.{}.self_attn.q_proj",
    "encoder.layers.{}.self_attn.k_proj": "transformer.layers.{}.self_attn.k_proj",
    "encoder.layers.{}.self_attn.v_proj": "transformer.layers.{}.self_attn.v_proj",
    "encoder.layers.{}.self_attn.out_proj": "transformer.layers.{}.self_attn.o_proj",
    "encoder.layers.{}.layer_norm1": "transformer.layers.{}.self_attn_norm",
    "encoder.layers.{}.layer_norm2": "transformer.layers.{}.mlp_norm",
    "encoder.layers.{}.mlp.fc1": "transformer.layers.{}.mlp.up_proj",
    "encoder.layers.{}.mlp.fc2": "transformer.layers.{}.mlp.down_proj",
}
TEXT: NameTable = {
    **ENCODER,
    "embeddings.token_embedding": "embeddings.token_embedding",
    "final_layer_norm": "transformer.output_norm",
}
IMAGE: NameTable = {
    **ENCODER,
    "embeddings.class_embedding": Leading("embeddings.class_tokens.0.tokens", 2),
    "embeddings.patch_embedding": "embeddings.patch_embedding",
    "pre_layrnorm": "transformer.input_norm",
    "post_layernorm": "pooler.norm",
}
TEXT_HEADS: dict[str, NameTable] = {"WithProjection": {"text_projection": None}}
# the classifier reads the mean of the patches before the last norm
IMAGE_HEADS: dict[str, NameTable] = {
    "ForImageClassification": {"classifier": "classifier", "post_layernorm": None},
    "WithProjection": {"visual_projection": None},
}
# a buffer in old files
IGNORED = (r"embeddings\.position_ids",)


def clip_text_config(hub: Any, names: TensorNames) -> dict[str, Any]:
    """Returns the text tower's fields. It pools at the end-of-text token; pad_token_id is left out, since old configs
    name an ordinary token, the quotation mark."""
    if not isinstance(hub.eos_token_id, int):
        raise ValueError(f"clip: eos_token_id is {hub.eos_token_id}: set one id, since text is pooled at that token")
    return read_text_tower_fields(hub) | {"is_causal": True, "pooling": "eos"}


def clip_image_config(hub: Any, names: TensorNames) -> dict[str, Any]:
    """Returns the image tower's fields: a pooler on the class token, or the mean of the patches for a classifier."""
    fields = (
        read_tower_fields(hub)
        | read_image_fields(hub)
        | {"patch_bias": False, "input_norm": True, "output_norm": False}
    )
    if "classifier.weight" in names:
        return fields | {"pooling": "mean_of_rest"}
    return fields | {"pooling": "first", "pooler_norm": True}


def read_text_tower_fields(hub: PreTrainedConfig) -> dict[str, Any]:
    """Returns the fields that the text towers of CLIP and SigLIP share; their last hidden state precedes the norm."""
    return read_tower_fields(hub) | {
        "vocab_size": hub.vocab_size,
        "max_position_embeddings": hub.max_position_embeddings,
        "bos_token_id": hub.bos_token_id,
        "eos_token_id": hub.eos_token_id,
        "tie_last_hidden_state": False,
    }


def read_tower_fields(hub: PreTrainedConfig) -> dict[str, Any]:
    """Returns the fields that all towers of CLIP and SigLIP share."""
    return {
        "hidden_size": hub.hidden_size,
        "num_hidden_layers": hub.num_hidden_layers,
        "num_attention_heads": hub.num_attention_heads,
        "intermediate_size": hub.intermediate_size,
        "hidden_act": hub.hidden_act,
        "attention_dropout": hub.attention_dropout,
        "norm_eps": hub.layer_norm_eps,
    }


FAMILIES = (
    Family(("clip_text_model",), PlaitTextConfig, clip_text_config, TEXT, TEXT_HEADS, ("text_model.",), IGNORED),
    Family(
        ("clip_vision_model",), PlaitVisionConfig, clip_image_config, IMAGE, IMAGE_HEADS, ("vision_model.",), IGNORED
    ),
)
