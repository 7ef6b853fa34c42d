"""plait braids pretrained towers into one multimodal transformer and trains it, natively in the HuggingFace ecosystem.

Importing plait registers its classes with transformers' Auto classes. The classes that train a model, and `datasets`
and the metrics that they need, are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .configuration import PlaitConfig
from .configuration.version import VERSION
from .modeling import (
    PlaitForCausalLM,
    PlaitForClassification,
    PlaitForConditionalGeneration,
    PlaitForImageAutoencoding,
    PlaitForImageGeneration,
    PlaitForMaskedLM,
    PlaitForPreTraining,
    PlaitForQuestionAnswering,
    PlaitForRetrieval,
    PlaitModel,
)
from .modeling.auto import register_auto_classes
from .processing import PlaitProcessor
from .processing import register as register_processor

if TYPE_CHECKING:
    from .training.explanations.checking.belief import check_explanations
    from .training.explanations.explain import explain
    from .training.explanations.modalities import explain_modalities
    from .training.explanations.results import Explanation
    from .training.optimization.arguments import PlaitTrainingArguments
    from .training.parameters import parameter_groups
    from .training.runs.pipelines import pipeline
    from .training.trainer.trainer import PlaitTrainer

__version__ = VERSION
__all__ = [
    "Explanation",
    "PlaitConfig",
    "PlaitForCausalLM",
    "PlaitForClassification",
    "PlaitForConditionalGeneration",
    "PlaitForImageAutoencoding",
    "PlaitForImageGeneration",
    "PlaitForMaskedLM",
    "PlaitForPreTraining",
    "PlaitForQuestionAnswering",
    "PlaitForRetrieval",
    "PlaitModel",
    "PlaitProcessor",
    "PlaitTrainer",
    "PlaitTrainingArguments",
    "check_explanations",
    "explain",
    "explain_modalities",
    "parameter_groups",
    "pipeline",
]

LAZY = {
    "Explanation": ".training.explanations.results",
    "PlaitTrainer": ".training.trainer.trainer",
    "PlaitTrainingArguments": ".training.optimization.arguments",
    "check_explanations": ".training.explanations.checking.belief",
    "explain": ".training.explanations.explain",
    "explain_modalities": ".training.explanations.modalities",
    "parameter_groups": ".training.parameters",
    "pipeline": ".training.runs.pipelines",
}

register_auto_classes()
register_processor()


def __getattr__(name: str) -> object:
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(LAZY[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *LAZY})
