"""The models."""

from .causal_lm import PlaitForCausalLM
from .classification import PlaitForClassification
from .conditional_generation import PlaitForConditionalGeneration
from .masked_lm import PlaitForMaskedLM
from .outputs import (
    ContextOutput,
    PlaitCausalLMOutput,
    PlaitClassifierOutput,
    PlaitMaskedLMOutput,
    PlaitModelOutput,
    PlaitSeq2SeqLMOutput,
    TowerOutput,
)
from .plait import PlaitModel
from .pretrained import PlaitPreTrainedModel, part_of
from .question_answering import PlaitForQuestionAnswering

__all__ = [
    "ContextOutput",
    "PlaitCausalLMOutput",
    "PlaitClassifierOutput",
    "PlaitForCausalLM",
    "PlaitForClassification",
    "PlaitForConditionalGeneration",
    "PlaitForMaskedLM",
    "PlaitForQuestionAnswering",
    "PlaitMaskedLMOutput",
    "PlaitModel",
    "PlaitModelOutput",
    "PlaitPreTrainedModel",
    "PlaitSeq2SeqLMOutput",
    "TowerOutput",
    "part_of",
]
