"""GPT-Neo (Black et al. 2021, https://doi.org/10.5281/zenodo.5297715): attention scores without scaling, and layers
that attend only to the last `window_size` tokens."""

from collections.abc import Set
from typing import Any

from ....configuration import PlaitTextConfig
from ..conversion.family import Family

LAYER_TYPES = {"global": "full_attention", "local": "sliding_attention"}


def config(hub: Any, names: Set[str]) -> dict[str, Any]:
    """Returns GPT-Neo's fields; the dropout of embeddings and layers is `resid_dropout`."""
    if unknown := set(hub.attention_layers) - LAYER_TYPES.keys():
        raise ValueError(f"attention_layers has {unknown.pop()!r}: only {' and '.join(LAYER_TYPES)} are supported")
    return {
        "vocab_size": hub.vocab_size,
        "hidden_size": hub.hidden_size,
        "num_hidden_layers": hub.num_layers,
        "num_attention_heads": hub.num_heads,
        "intermediate_size": hub.intermediate_size,
        "hidden_act": hub.activation_function,
        "hidden_dropout_prob": hub.resid_dropout,
        "attention_dropout": hub.attention_dropout,
        "initializer_range": hub.initializer_range,
        "norm_eps": hub.layer_norm_epsilon,
        "is_causal": True,
        "qkv_bias": False,
        "attention_scale": 1.0,
        "layer_types": [LAYER_TYPES[layer] for layer in hub.attention_layers],
        "sliding_window": hub.window_size,
        "max_position_embeddings": hub.max_position_embeddings,
        "pad_token_id": hub.pad_token_id,
        "bos_token_id": hub.bos_token_id,
        "eos_token_id": hub.eos_token_id,
        "tie_word_embeddings": hub.tie_word_embeddings,
        "pooling": "last" if "score.weight" in names else "none",
    }


FAMILIES = (
    Family(
        model_types=("gpt_neo",),
        config_class=PlaitTextConfig,
        config=config,
        table={
            "wte": "embeddings.token_embedding",
            "wpe": "embeddings.position_embedding",
            "h.{}.ln_1": "transformer.layers.{}.self_attn_norm",
            "h.{}.attn.attention.q_proj": "transformer.layers.{}.self_attn.q_proj",
            "h.{}.attn.attention.k_proj": "transformer.layers.{}.self_attn.k_proj",
            "h.{}.attn.attention.v_proj": "transformer.layers.{}.self_attn.v_proj",
            "h.{}.attn.attention.out_proj": "transformer.layers.{}.self_attn.o_proj",
            "h.{}.ln_2": "transformer.layers.{}.mlp_norm",
            "h.{}.mlp.c_fc": "transformer.layers.{}.mlp.up_proj",
            "h.{}.mlp.c_proj": "transformer.layers.{}.mlp.down_proj",
            "ln_f": "transformer.output_norm",
        },
        heads={
            "ForCausalLM": {"lm_head": "lm_head"},
            "ForSequenceClassification": {"score": "classifier"},
            "ForTokenClassification": {"classifier": None},
            "ForQuestionAnswering": {"qa_outputs": None},
        },
        prefixes=("transformer.",),
        ignored=(r"h\.\d+\.attn\.attention\.(masked_)?bias",),
    ),
)
