"""GPT-2 (Radford et al. 2019): weights are stored as (in, out), with query, key and value fused."""

from collections.abc import Set
from typing import Any

from ....configuration import PlaitTextConfig
from ..conversion.family import Family
from ..conversion.rules import Transposed, TransposedSplit


def config(hub: Any, names: Set[str]) -> dict[str, Any]:
    """Returns GPT-2's fields; the dropout of embeddings and layers is `resid_pdrop`."""
    return {
        "vocab_size": hub.vocab_size,
        "hidden_size": hub.n_embd,
        "num_hidden_layers": hub.n_layer,
        "num_attention_heads": hub.n_head,
        "intermediate_size": hub.n_inner,
        "hidden_act": hub.activation_function,
        "hidden_dropout_prob": hub.resid_pdrop,
        "attention_dropout": hub.attn_pdrop,
        "initializer_range": hub.initializer_range,
        "norm_eps": hub.layer_norm_epsilon,
        "is_causal": True,
        "cross_attention": hub.add_cross_attention,
        "attention_scale": None if hub.scale_attn_weights else 1.0,
        "scale_by_layer": hub.scale_attn_by_inverse_layer_idx,
        "max_position_embeddings": hub.n_positions,
        "pad_token_id": hub.pad_token_id,
        "bos_token_id": hub.bos_token_id,
        "eos_token_id": hub.eos_token_id,
        "tie_word_embeddings": hub.tie_word_embeddings,
        "pooling": "last" if "score.weight" in names else "none",
    }


FAMILIES = (
    Family(
        model_types=("gpt2",),
        config_class=PlaitTextConfig,
        config=config,
        table={
            "wte": "embeddings.token_embedding",
            "wpe": "embeddings.position_embedding",
            "h.{}.ln_1": "transformer.layers.{}.self_attn_norm",
            "h.{}.attn.c_attn": TransposedSplit(*(f"transformer.layers.{{}}.self_attn.{x}_proj" for x in "qkv")),
            "h.{}.attn.c_proj": Transposed("transformer.layers.{}.self_attn.o_proj"),
            "h.{}.crossattention.q_attn": Transposed("transformer.layers.{}.cross_attn.q_proj"),
            "h.{}.crossattention.c_attn": TransposedSplit(
                *(f"transformer.layers.{{}}.cross_attn.{x}_proj" for x in "kv")
            ),
            "h.{}.crossattention.c_proj": Transposed("transformer.layers.{}.cross_attn.o_proj"),
            "h.{}.ln_cross_attn": "transformer.layers.{}.cross_attn_norm",
            "h.{}.ln_2": "transformer.layers.{}.mlp_norm",
            "h.{}.mlp.c_fc": Transposed("transformer.layers.{}.mlp.up_proj"),
            "h.{}.mlp.c_proj": Transposed("transformer.layers.{}.mlp.down_proj"),
            "ln_f": "transformer.output_norm",
        },
        heads={
            "LMHeadModel": {"lm_head": "lm_head"},
            "ForSequenceClassification": {"score": "classifier"},
            "DoubleHeadsModel": {"lm_head": "lm_head", "multiple_choice_head.summary": None},
            "ForTokenClassification": {"classifier": None},
            "ForQuestionAnswering": {"qa_outputs": None},
        },
        prefixes=("transformer.",),
        ignored=(r"h\.\d+\.(attn|crossattention)\.(masked_)?bias",),
    ),
)
