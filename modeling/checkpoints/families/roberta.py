"""RoBERTa (Liu et al. 2019, https://arxiv.org/abs/1907.11692), XLM-RoBERTa and CamemBERT."""

from collections.abc import Set
from typing import Any

from ....configuration import PlaitTextConfig
from ..conversion.family import Family, move_transform
from ..conversion.rules import Alias, NameTable
from .bert import BUFFERS, OTHER_TASKS, POOLER, TABLE, read_bert_fields, read_pooler_fields


def config(hub: Any, names: Set[str]) -> dict[str, Any]:
    """Returns RoBERTa's fields, with a pooler if the file holds one; raises ValueError without a `pad_token_id`."""
    if hub.pad_token_id is None:
        raise ValueError(f"{hub.model_type}: pad_token_id is None: set it, since positions are counted from it")
    pooled = not names.isdisjoint(("pooler.dense.weight", "classifier.dense.weight"))
    counted = "learned" if hub.is_decoder else "counted"  # a decoder's mask and position_ids mark its padding
    own = {"mlm_act": "gelu", "position_type": counted, "position_offset": hub.pad_token_id + 1}
    return read_bert_fields(hub) | own | (read_pooler_fields(hub) if pooled else {})


MASKED_LM_HEAD: NameTable = {
    "lm_head.dense": "mlm_head.dense",
    "lm_head.layer_norm": "mlm_head.norm",
    "lm_head.decoder": "lm_head",
    "lm_head.bias": Alias("lm_head.bias"),
}

FAMILIES = (
    Family(
        model_types=("roberta", "xlm-roberta", "camembert"),
        config_class=PlaitTextConfig,
        config=config,
        table=TABLE | POOLER,
        heads={
            "ForMaskedLM": MASKED_LM_HEAD,
            "ForCausalLM": move_transform(MASKED_LM_HEAD),
            # the head has a pooler of its own: first token, dense layer, tanh
            "ForSequenceClassification": {"classifier.dense": "pooler.dense", "classifier.out_proj": "classifier"},
            **OTHER_TASKS,
        },
        prefixes=("roberta.",),
        ignored=BUFFERS,
    ),
)
