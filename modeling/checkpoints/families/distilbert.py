"""DistilBERT (Sanh et al. 2019, https://arxiv.org/abs/1910.01108)."""

from collections.abc import Set
from typing import Any

from ....configuration import PlaitTextConfig
from ..conversion.family import Family
from .bert import BUFFERS, TOKEN_TASKS, read_pooler_fields


def config(hub: Any, names: Set[str]) -> dict[str, Any]:
    """Returns DistilBERT's fields, with a pooler if the file holds a classifier's."""
    fields = {
        "vocab_size": hub.vocab_size,
        "hidden_size": hub.dim,
        "num_hidden_layers": hub.n_layers,
        "num_attention_heads": hub.n_heads,
        "intermediate_size": hub.hidden_dim,
        "hidden_act": hub.activation,
        "hidden_dropout_prob": hub.dropout,
        "attention_dropout": hub.attention_dropout,
        "initializer_range": hub.initializer_range,
        "norm_eps": 1e-12,
        "norm_position": "post",
        "input_norm": True,
        "output_norm": False,
        "max_position_embeddings": hub.max_position_embeddings,
        "pad_token_id": hub.pad_token_id,
        "bos_token_id": hub.bos_token_id,
        "eos_token_id": hub.eos_token_id,
        "tie_word_embeddings": hub.tie_word_embeddings,
        "mlm_act": hub.activation,
    }
    return fields | (read_pooler_fields(hub, "relu") if "pre_classifier.weight" in names else {})


FAMILIES = (
    Family(
        model_types=("distilbert",),
        config_class=PlaitTextConfig,
        config=config,
        table={
            "embeddings.word_embeddings": "embeddings.token_embedding",
            "embeddings.position_embeddings": "embeddings.position_embedding",
            "embeddings.LayerNorm": "transformer.input_norm",
            "transformer.layer.{}.attention.q_lin": "transformer.layers.{}.self_attn.q_proj",
            "transformer.layer.{}.attention.k_lin": "transformer.layers.{}.self_attn.k_proj",
            "transformer.layer.{}.attention.v_lin": "transformer.layers.{}.self_attn.v_proj",
            "transformer.layer.{}.attention.out_lin": "transformer.layers.{}.self_attn.o_proj",
            "transformer.layer.{}.sa_layer_norm": "transformer.layers.{}.self_attn_norm",
            "transformer.layer.{}.ffn.lin1": "transformer.layers.{}.mlp.up_proj",
            "transformer.layer.{}.ffn.lin2": "transformer.layers.{}.mlp.down_proj",
            "transformer.layer.{}.output_layer_norm": "transformer.layers.{}.mlp_norm",
        },
        heads={
            "ForMaskedLM": {
                "vocab_transform": "mlm_head.dense",
                "vocab_layer_norm": "mlm_head.norm",
                "vocab_projector": "lm_head",
            },
            "ForSequenceClassification": {"pre_classifier": "pooler.dense", "classifier": "classifier"},
            "ForMultipleChoice": {"pre_classifier": None, "classifier": None},
            **TOKEN_TASKS,
        },
        prefixes=("distilbert.",),
        ignored=BUFFERS,
    ),
)
