"""The models: the classes that are loaded, composed and trained, and their outputs."""

from .backbone.model import PlaitModel
from .backbone.pretrained import PlaitPreTrainedModel
from .composition.parameter_names import part_of
from .outputs import (
    ContextOutput,
    PlaitCausalLMOutput,
    PlaitClassifierOutput,
    PlaitImageAutoencodingOutput,
    PlaitImageGenerationOutput,
    PlaitMaskedLMOutput,
    PlaitModelOutput,
    PlaitPreTrainingOutput,
    PlaitRetrievalOutput,
    PlaitSeq2SeqLMOutput,
    TowerOutput,
)
from .tasks.causal_lm import PlaitForCausalLM
from .tasks.classification import PlaitForClassification
from .tasks.conditional_generation import PlaitForConditionalGeneration
from .tasks.image_autoencoding import PlaitForImageAutoencoding
from .tasks.image_generation import PlaitForImageGeneration
from .tasks.masked_lm import PlaitForMaskedLM
from .tasks.pretraining import PlaitForPreTraining
from .tasks.question_answering import PlaitForQuestionAnswering
from .tasks.retrieval import PlaitForRetrieval

__all__ = [
    "ContextOutput",
    "PlaitCausalLMOutput",
    "PlaitClassifierOutput",
    "PlaitForCausalLM",
    "PlaitForClassification",
    "PlaitForConditionalGeneration",
    "PlaitForImageAutoencoding",
    "PlaitForImageGeneration",
    "PlaitForMaskedLM",
    "PlaitForPreTraining",
    "PlaitForQuestionAnswering",
    "PlaitForRetrieval",
    "PlaitImageAutoencodingOutput",
    "PlaitImageGenerationOutput",
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
