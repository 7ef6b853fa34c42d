"""plait braids pretrained towers into one multimodal transformer and trains it, natively in the HuggingFace ecosystem.

Importing plait registers its classes with transformers' Auto classes: at once, or as soon as those are imported.
Every name is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .configuration.version import VERSION
from .registration import register_with_transformers

if TYPE_CHECKING:
    from .configuration.plait import PlaitConfig
    from .modeling.adaptation.lora import lora_config
    from .modeling.adaptation.quantization import quantize
    from .modeling.backbone.model import PlaitModel
    from .modeling.tasks.causal_lm import PlaitForCausalLM
    from .modeling.tasks.classification import PlaitForClassification
    from .modeling.tasks.conditional_generation import PlaitForConditionalGeneration
    from .modeling.tasks.image_autoencoding import PlaitForImageAutoencoding
    from .modeling.tasks.image_generation import PlaitForImageGeneration
    from .modeling.tasks.masked_lm import PlaitForMaskedLM
    from .modeling.tasks.pretraining import PlaitForPreTraining
    from .modeling.tasks.question_answering import PlaitForQuestionAnswering
    from .modeling.tasks.retrieval import PlaitForRetrieval
    from .processing.processor import PlaitProcessor
    from .training.explanations.checking.belief import check_explanations
    from .training.explanations.explain import explain
    from .training.explanations.modalities import explain_modalities
    from .training.explanations.results import Explanation
    from .training.optimization.arguments import PlaitTrainingArguments
    from .training.parameters import parameter_groups
    from .training.pipelines.factory import pipeline
    from .training.prediction import ray_data as ray  # noqa: F401  # pyright: ignore[reportUnusedImport]
    from .training.proposals.fit import FittedModel, fit
    from .training.rewards.trainer import PlaitRewardTrainer
    from .training.trainer.trainer import PlaitTrainer

__version__ = VERSION
__all__ = [
    "Explanation",
    "FittedModel",
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
    "PlaitRewardTrainer",
    "PlaitTrainer",
    "PlaitTrainingArguments",
    "check_explanations",
    "explain",
    "explain_modalities",
    "fit",
    "lora_config",
    "parameter_groups",
    "pipeline",
    "quantize",
]

LAZY = {
    "Explanation": ".training.explanations.results",
    "FittedModel": ".training.proposals.fit",
    "PlaitConfig": ".configuration.plait",
    "PlaitForCausalLM": ".modeling.tasks.causal_lm",
    "PlaitForClassification": ".modeling.tasks.classification",
    "PlaitForConditionalGeneration": ".modeling.tasks.conditional_generation",
    "PlaitForImageAutoencoding": ".modeling.tasks.image_autoencoding",
    "PlaitForImageGeneration": ".modeling.tasks.image_generation",
    "PlaitForMaskedLM": ".modeling.tasks.masked_lm",
    "PlaitForPreTraining": ".modeling.tasks.pretraining",
    "PlaitForQuestionAnswering": ".modeling.tasks.question_answering",
    "PlaitForRetrieval": ".modeling.tasks.retrieval",
    "PlaitModel": ".modeling.backbone.model",
    "PlaitProcessor": ".processing.processor",
    "PlaitRewardTrainer": ".training.rewards.trainer",
    "PlaitTrainer": ".training.trainer.trainer",
    "PlaitTrainingArguments": ".training.optimization.arguments",
    "check_explanations": ".training.explanations.checking.belief",
    "explain": ".training.explanations.explain",
    "explain_modalities": ".training.explanations.modalities",
    "fit": ".training.proposals.fit",
    "lora_config": ".modeling.adaptation.lora",
    "parameter_groups": ".training.parameters",
    "pipeline": ".training.pipelines.factory",
    "quantize": ".modeling.adaptation.quantization",
}
# `plait.modeling` needs no import of its own; a file of the name `ray` would hide the package ray in this folder
SUBMODULES = {
    "configuration": ".configuration",
    "modeling": ".modeling",
    "processing": ".processing",
    "ray": ".training.prediction.ray_data",
}

register_with_transformers()


def __getattr__(name: str) -> object:
    if name in SUBMODULES:
        return import_module(SUBMODULES[name], __name__)
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(LAZY[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *LAZY, *SUBMODULES})
