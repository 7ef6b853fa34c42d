"""BERT (Devlin et al. 2018, https://arxiv.org/abs/1810.04805)."""

from collections.abc import Set
from typing import Any

from ....configuration import PlaitTextConfig
from ..conversion.family import Family, expect, move_transform
from ..conversion.rules import Alias, NameTable


def read_bert_fields(hub: Any) -> dict[str, Any]:
    """Returns the fields that BERT, RoBERTa and ELECTRA share."""
    settings, decodes = hub.to_dict(), hub.is_decoder
    expect(settings, position_embedding_type="absolute", **({} if decodes else {"add_cross_attention": False}))
    decoder = {"is_causal": True, "cross_attention": hub.add_cross_attention, "lm_transform": True} if decodes else {}
    return decoder | {
        "vocab_size": hub.vocab_size,
        "hidden_size": hub.hidden_size,
        "num_hidden_layers": hub.num_hidden_layers,
        "num_attention_heads": hub.num_attention_heads,
        "intermediate_size": hub.intermediate_size,
        "hidden_act": hub.hidden_act,
        "hidden_dropout_prob": hub.hidden_dropout_prob,
        "attention_dropout": hub.attention_probs_dropout_prob,
        "initializer_range": hub.initializer_range,
        "norm_eps": hub.layer_norm_eps,
        "norm_position": "post",
        "input_norm": True,
        "output_norm": False,
        "max_position_embeddings": hub.max_position_embeddings,
        "type_vocab_size": hub.type_vocab_size,
        "pad_token_id": hub.pad_token_id,
        "bos_token_id": hub.bos_token_id,
        "eos_token_id": hub.eos_token_id,
        "tie_word_embeddings": hub.tie_word_embeddings,
    }


def read_pooler_fields(hub: Any, act: str = "tanh") -> dict[str, Any]:
    """Returns the fields of a pooler: a dense layer on the first token, and an activation."""
    return {"pooling": "first", "pooler_size": hub.hidden_size, "pooler_act": act}


def config(hub: Any, names: Set[str]) -> dict[str, Any]:
    """Returns BERT's fields, with its pooler if the file holds one."""
    return (
        read_bert_fields(hub)
        | {"mlm_act": hub.hidden_act}
        | (read_pooler_fields(hub) if "pooler.dense.weight" in names else {})
    )


CROSS = {"self.query": "q_proj", "self.key": "k_proj", "self.value": "v_proj", "output.dense": "o_proj"}
TABLE: NameTable = {
    "embeddings.word_embeddings": "embeddings.token_embedding",
    "embeddings.position_embeddings": "embeddings.position_embedding",
    "embeddings.token_type_embeddings": "embeddings.type_embedding",
    "embeddings.LayerNorm": "transformer.input_norm",
    "encoder.layer.{}.attention.self.query": "transformer.layers.{}.self_attn.q_proj",
    "encoder.layer.{}.attention.self.key": "transformer.layers.{}.self_attn.k_proj",
    "encoder.layer.{}.attention.self.value": "transformer.layers.{}.self_attn.v_proj",
    "encoder.layer.{}.attention.output.dense": "transformer.layers.{}.self_attn.o_proj",
    "encoder.layer.{}.attention.output.LayerNorm": "transformer.layers.{}.self_attn_norm",
    **{
        f"encoder.layer.{{}}.crossattention.{theirs}": f"transformer.layers.{{}}.cross_attn.{ours}"
        for theirs, ours in CROSS.items()
    },
    "encoder.layer.{}.crossattention.output.LayerNorm": "transformer.layers.{}.cross_attn_norm",
    "encoder.layer.{}.intermediate.dense": "transformer.layers.{}.mlp.up_proj",
    "encoder.layer.{}.output.dense": "transformer.layers.{}.mlp.down_proj",
    "encoder.layer.{}.output.LayerNorm": "transformer.layers.{}.mlp_norm",
}
POOLER: NameTable = {"pooler.dense": "pooler.dense"}
MASKED_LM_HEAD: NameTable = {
    "cls.predictions.transform.dense": "mlm_head.dense",
    "cls.predictions.transform.LayerNorm": "mlm_head.norm",
    "cls.predictions.decoder": "lm_head",
    "cls.predictions.bias": Alias("lm_head.bias"),
}
BUFFERS = (r"embeddings\.(position_ids|token_type_ids)",)
# None: a head of another task, which is known but not loaded
TOKEN_TASKS: dict[str, NameTable] = {
    "ForTokenClassification": {"classifier": None},
    "ForQuestionAnswering": {"qa_outputs": "qa_outputs"},
}
OTHER_TASKS: dict[str, NameTable] = {**TOKEN_TASKS, "ForMultipleChoice": {"classifier": None}}

FAMILIES = (
    Family(
        ("bert",),
        PlaitTextConfig,
        config,
        TABLE | POOLER,
        {
            "ForMaskedLM": MASKED_LM_HEAD,
            "LMHeadModel": move_transform(MASKED_LM_HEAD),
            "ForSequenceClassification": POOLER | {"classifier": "classifier"},
            "ForPreTraining": MASKED_LM_HEAD | {"cls.seq_relationship": None},
            "ForNextSentencePrediction": {"cls.seq_relationship": None},
            **OTHER_TASKS,
        },
        prefixes=("bert.",),
        ignored=BUFFERS,
    ),
)
