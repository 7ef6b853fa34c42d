"""plait's classes under transformers' Auto classes."""

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
from .causal_lm import PlaitForCausalLM
from .classification import PlaitForClassification
from .conditional_generation import PlaitForConditionalGeneration
from .masked_lm import PlaitForMaskedLM
from .plait import PlaitModel
from .pretraining import PlaitForPreTraining
from .question_answering import PlaitForQuestionAnswering
from .retrieval import PlaitForRetrieval

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
    """Make `AutoModel*.from_pretrained` load a plait folder; calling it again changes nothing."""
    for auto_class, model_class in REGISTERED.items():
        auto_class.register(PlaitConfig, model_class, exist_ok=True)
