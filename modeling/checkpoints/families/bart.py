"""BART (Lewis et al. 2019, https://arxiv.org/abs/1910.13461): encoder and decoder with shared token embeddings."""

from collections.abc import Set
from math import sqrt
from typing import Any

from ....configuration import PlaitTextConfig
from ..conversion.family import Family, expect
from ..conversion.rules import Alias, Leading, NameTable

OFFSET = 2  # rows of the position table before the first position

LAYER = {f"self_attn.{name}_proj": f"self_attn.{name}_proj" for name in "qkv"} | {
    "self_attn.out_proj": "self_attn.o_proj",
    "self_attn_layer_norm": "self_attn_norm",
    "fc1": "mlp.up_proj",
    "fc2": "mlp.down_proj",
    "final_layer_norm": "mlp_norm",
}
CROSS = {f"encoder_attn.{name}_proj": f"cross_attn.{name}_proj" for name in "qkv"} | {
    "encoder_attn.out_proj": "cross_attn.o_proj",
    "encoder_attn_layer_norm": "cross_attn_norm",
}


def build_layer_table(side: str, rows: dict[str, str]) -> NameTable:
    """Returns the table of the layers of the encoder or decoder."""
    return {f"{side}.layers.{{}}.{row}": f"{side}.transformer.layers.{{}}.{ours}" for row, ours in rows.items()}


LAYERS_TABLE: NameTable = build_layer_table("encoder", LAYER) | build_layer_table("decoder", LAYER | CROSS)
TABLE: NameTable = {
    "shared": Alias("encoder.embeddings.token_embedding", "decoder.embeddings.token_embedding"),
    **{f"{side}.embed_tokens": f"{side}.embeddings.token_embedding" for side in ("encoder", "decoder")},
    **{f"{side}.embed_positions": f"{side}.embeddings.position_embedding" for side in ("encoder", "decoder")},
    **{f"{side}.layernorm_embedding": f"{side}.transformer.input_norm" for side in ("encoder", "decoder")},
    **LAYERS_TABLE,
}


def read_stack_fields(hub: Any, side: str) -> dict[str, Any]:
    """Returns the fields that BART and Whisper share, of their encoder or decoder (`side`)."""
    expect(hub.to_dict(), **{f"{side}_layerdrop": 0.0})
    return {
        "hidden_size": hub.d_model,
        "num_hidden_layers": getattr(hub, f"{side}_layers"),
        "num_attention_heads": getattr(hub, f"{side}_attention_heads"),
        "intermediate_size": getattr(hub, f"{side}_ffn_dim"),
        "hidden_act": hub.activation_function,
        "hidden_dropout_prob": hub.dropout,
        "attention_dropout": hub.attention_dropout,
        "activation_dropout": hub.activation_dropout,
        "initializer_range": hub.init_std,
        "norm_eps": 1e-5,
    }


def read_vocabulary_fields(hub: Any) -> dict[str, Any]:
    """Returns the fields of the vocabulary and its special tokens."""
    names = ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id", "tie_word_embeddings")
    return {name: getattr(hub, name) for name in names}


def read_text_stack_fields(hub: Any, side: str) -> dict[str, Any]:
    """Returns the fields that BART's encoder and decoder share."""
    norms = {"norm_position": "post", "input_norm": True, "output_norm": False}
    scale = sqrt(hub.d_model) if hub.scale_embedding else 1.0
    places = {"position_offset": OFFSET, "max_position_embeddings": hub.max_position_embeddings + OFFSET}
    return read_stack_fields(hub, side) | read_vocabulary_fields(hub) | norms | places | {"embedding_scale": scale}


def bart_encoder_config(hub: Any, names: Set[str]) -> dict[str, Any]:
    """Returns the fields of BART's encoder."""
    return read_text_stack_fields(hub, "encoder")


def bart_decoder_config(hub: Any, names: Set[str]) -> dict[str, Any]:
    """Returns the fields of BART's decoder."""
    return read_text_stack_fields(hub, "decoder") | {"cross_attention": True, "context_size": hub.d_model}


HEADS: dict[str, NameTable] = {
    "ForConditionalGeneration": {"lm_head.weight": "lm_head.weight", "final_logits_bias": Leading("lm_head.bias", -1)},
    "ForCausalLM": {"lm_head.weight": "lm_head.weight"},
    "ForSequenceClassification": {"classification_head.dense": None, "classification_head.out_proj": None},
    "ForQuestionAnswering": {"qa_outputs": None},
}
IGNORED = (r"(encoder|decoder)\.version",)

FAMILIES = (
    Family(
        ("bart",), PlaitTextConfig, bart_encoder_config, TABLE, HEADS, ("model.",), IGNORED, decoder=bart_decoder_config
    ),
)
