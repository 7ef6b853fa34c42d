"""Llama (Touvron et al. 2023, https://arxiv.org/abs/2302.13971)."""

from collections.abc import Set
from typing import Any

from ....configuration import PlaitTextConfig
from ..conversion.family import Family, expect
from ..conversion.rules import NameTable


def read_llama_fields(hub: Any, names: Set[str]) -> dict[str, Any]:
    """Returns the fields that Llama, Mistral and Qwen share: gated MLP, RMS norm before each layer's parts, rotary
    positions, grouped-query attention."""
    expect(hub.rope_parameters, partial_rotary_factor=1.0)
    return {
        "vocab_size": hub.vocab_size,
        "hidden_size": hub.hidden_size,
        "num_hidden_layers": hub.num_hidden_layers,
        "num_attention_heads": hub.num_attention_heads,
        "num_key_value_heads": hub.num_key_value_heads,
        "head_dim": getattr(hub, "head_dim", None),
        "intermediate_size": hub.intermediate_size,
        "hidden_act": hub.hidden_act,
        "attention_dropout": hub.attention_dropout,
        "initializer_range": hub.initializer_range,
        "norm_type": "rms_norm",
        "norm_eps": hub.rms_norm_eps,
        "gated_mlp": True,
        "mlp_bias": False,
        "is_causal": True,
        "position_type": "none",
        "rope_parameters": hub.rope_parameters,
        "max_position_embeddings": hub.max_position_embeddings,
        "pad_token_id": hub.pad_token_id,
        "bos_token_id": hub.bos_token_id,
        "eos_token_id": hub.eos_token_id,
        "tie_word_embeddings": hub.tie_word_embeddings,
        "pooling": "last" if "score.weight" in names else "none",
    }


def config(hub: Any, names: Set[str]) -> dict[str, Any]:
    """Returns Llama's fields."""
    bias = {"qkv_bias": hub.attention_bias, "attention_out_bias": hub.attention_bias, "mlp_bias": hub.mlp_bias}
    return read_llama_fields(hub, names) | bias


TABLE: NameTable = {
    "embed_tokens": "embeddings.token_embedding",
    "layers.{}.input_layernorm": "transformer.layers.{}.self_attn_norm",
    "layers.{}.self_attn.q_proj": "transformer.layers.{}.self_attn.q_proj",
    "layers.{}.self_attn.k_proj": "transformer.layers.{}.self_attn.k_proj",
    "layers.{}.self_attn.v_proj": "transformer.layers.{}.self_attn.v_proj",
    "layers.{}.self_attn.o_proj": "transformer.layers.{}.self_attn.o_proj",
    "layers.{}.post_attention_layernorm": "transformer.layers.{}.mlp_norm",
    "layers.{}.mlp.gate_proj": "transformer.layers.{}.mlp.gate_proj",
    "layers.{}.mlp.up_proj": "transformer.layers.{}.mlp.up_proj",
    "layers.{}.mlp.down_proj": "transformer.layers.{}.mlp.down_proj",
    "norm": "transformer.output_norm",
}
HEADS: dict[str, NameTable] = {
    "ForCausalLM": {"lm_head": "lm_head"},
    "ForSequenceClassification": {"score": "classifier"},
    "ForTokenClassification": {"score": None},
    "ForQuestionAnswering": {"qa_outputs": None},
}
PREFIXES = ("model.", "transformer.")
IGNORED = (r"(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",)

FAMILIES = (
    Family(
        model_types=("llama",),
        config_class=PlaitTextConfig,
        config=config,
        table=TABLE,
        heads=HEADS,
        prefixes=PREFIXES,
        ignored=IGNORED,
    ),
)
