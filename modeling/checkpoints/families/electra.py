"""ELECTRA (Clark et al. 2020, https://arxiv.org/abs/2003.10555): narrow embeddings, projected to `hidden_size`."""

from collections.abc import Set
from typing import Any

from ....configuration import PlaitTextConfig
from ..conversion.family import Family, move_transform
from ..conversion.rules import NameTable
from .bert import BUFFERS, TABLE, TOKEN_TASKS, read_bert_fields, read_pooler_fields


def config(hub: Any, names: Set[str]) -> dict[str, Any]:
    """Returns ELECTRA's fields, with a pooler if the file holds a classifier's."""
    own = {"mlm_act": "gelu", "embedding_size": hub.embedding_size}
    return read_bert_fields(hub) | own | (read_pooler_fields(hub, "gelu") if "classifier.dense.weight" in names else {})


MASKED_LM_HEAD: NameTable = {
    "generator_predictions.dense": "mlm_head.dense",
    "generator_predictions.LayerNorm": "mlm_head.norm",
    "generator_lm_head": "lm_head",
}

FAMILIES = (
    Family(
        model_types=("electra",),
        config_class=PlaitTextConfig,
        config=config,
        table=TABLE | {"embeddings_project": "transformer.input_proj"},
        heads={
            "ForMaskedLM": MASKED_LM_HEAD,
            "ForCausalLM": move_transform(MASKED_LM_HEAD),
            "ForSequenceClassification": {"classifier.dense": "pooler.dense", "classifier.out_proj": "classifier"},
            "ForPreTraining": {
                "discriminator_predictions.dense": None,
                "discriminator_predictions.dense_prediction": None,
            },
            "ForMultipleChoice": {"sequence_summary.summary": None, "classifier": None},
            **TOKEN_TASKS,
        },
        prefixes=("electra.",),
        ignored=BUFFERS,
    ),
)
