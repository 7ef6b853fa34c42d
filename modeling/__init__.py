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
    PlaitPreTrainingOutput,
    PlaitRetrievalOutput,
    PlaitSeq2SeqLMOutput,
    TowerOutput,
)
from .plait import PlaitModel
from .pretrained import PlaitPreTrainedModel, part_of
from .pretraining import PlaitForPreTraining
from .question_answering import PlaitForQuestionAnswering
from .retrieval import PlaitForRetrieval

__all__ = [
    "ContextOutput",
    "PlaitCausalLMOutput",
    "PlaitClassifierOutput",
    "PlaitForCausalLM",
    "PlaitForClassification",
    "PlaitForConditionalGeneration",
    "PlaitForMaskedLM",
    "PlaitForPreTraining",
    "PlaitForQuestionAnswering",
    "PlaitForRetrieval",
    "PlaitMaskedLMOutput",
    "PlaitModel",
    "PlaitModelOutput",
    "PlaitPreTrainedModel",
    "PlaitPreTrainingOutput",
    "PlaitRetrievalOutput",
    "PlaitSeq2SeqLMOutput",
    "TowerOutput",
    "part_of",
]
