"""Registers plait's classes with transformers' Auto classes."""

from transformers import (
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForImageTextToText,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForSpeechSeq2Seq,
    AutoModelForVideoClassification,
    AutoModelForZeroShotImageClassification,
)

from ..configuration import PlaitConfig
from .backbone.model import PlaitModel
from .tasks.causal_lm import PlaitForCausalLM
from .tasks.classification import PlaitForClassification
from .tasks.conditional_generation import PlaitForConditionalGeneration
from .tasks.masked_lm import PlaitForMaskedLM
from .tasks.pretraining import PlaitForPreTraining
from .tasks.question_answering import PlaitForQuestionAnswering
from .tasks.retrieval import PlaitForRetrieval

REGISTERED = {
    AutoModel: PlaitModel,
    AutoModelForSequenceClassification: PlaitForClassification,
    AutoModelForImageClassification: PlaitForClassification,
    AutoModelForAudioClassification: PlaitForClassification,
    AutoModelForVideoClassification: PlaitForClassification,
    AutoModelForMaskedLM: PlaitForMaskedLM,
    AutoModelForPreTraining: PlaitForPreTraining,
    AutoModelForQuestionAnswering: PlaitForQuestionAnswering,
    AutoModelForZeroShotImageClassification: PlaitForRetrieval,
    AutoModelForCausalLM: PlaitForCausalLM,
    AutoModelForSeq2SeqLM: PlaitForConditionalGeneration,
    AutoModelForSpeechSeq2Seq: PlaitForConditionalGeneration,
    AutoModelForImageTextToText: (PlaitForConditionalGeneration, PlaitForCausalLM),
}


def register_auto_classes() -> None:
    """Makes `AutoModel*.from_pretrained` load a plait folder; calling it again changes nothing."""
    for auto_class, model_class in REGISTERED.items():
        auto_class.register(PlaitConfig, model_class, exist_ok=True)
