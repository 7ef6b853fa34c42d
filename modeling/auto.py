"""Registers plait's classes with transformers' Auto classes."""

from typing import Any

import transformers

from ..configuration import PlaitConfig
from ..configuration.remote_code.auto_classes import AUTO_CLASSES
from .backbone.model import PlaitModel
from .tasks.causal_lm import PlaitForCausalLM
from .tasks.classification import PlaitForClassification
from .tasks.conditional_generation import PlaitForConditionalGeneration
from .tasks.masked_lm import PlaitForMaskedLM
from .tasks.pretraining import PlaitForPreTraining
from .tasks.question_answering import PlaitForQuestionAnswering
from .tasks.retrieval import PlaitForRetrieval

MODEL_CLASSES: dict[str, Any] = {
    model_class.__name__: model_class
    for model_class in (
        PlaitModel,
        PlaitForClassification,
        PlaitForMaskedLM,
        PlaitForPreTraining,
        PlaitForQuestionAnswering,
        PlaitForRetrieval,
        PlaitForCausalLM,
        PlaitForConditionalGeneration,
    )
}


def register_auto_classes() -> None:
    """Makes `AutoModel*.from_pretrained` load a plait folder; calling it again changes nothing."""
    for auto_class, names in AUTO_CLASSES.items():
        classes = tuple(MODEL_CLASSES[name] for name in names)
        registered: Any = classes if len(classes) > 1 else next(iter(classes))
        getattr(transformers, auto_class).register(PlaitConfig, registered, exist_ok=True)
