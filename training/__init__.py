"""Training: the Trainer and its arguments, data, metrics, recipes and the command line. Imported on first use."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..modeling.adaptation.fresh import fresh_modules
    from ..modeling.backbone.parts import PARTS, freeze
    from ..modeling.composition.parameter_names import part_of
    from .commands.launch import run_launched as run_launched
    from .commands.registry import COMMANDS as COMMANDS
    from .data.feature_cache import FeatureStore, cache_features
    from .data.loading import load_data
    from .data.word_vectors import save_word_tower
    from .diagnosis.doctor import doctor
    from .metrics.classification import Metrics
    from .metrics.generation import GenerationMetrics
    from .metrics.question_answering import SpanMetrics
    from .optimization.arguments import PlaitTrainingArguments
    from .parameters import parameter_groups
    from .pipelines.factory import pipeline
    from .recipes.schema import Recipe
    from .rewards.trainer import PlaitRewardTrainer
    from .runs.loading import load_run
    from .runs.recipe import load_recipe
    from .tasks.collator import PlaitDataCollator
    from .trainer.trainer import PlaitTrainer

LAZY = {
    "COMMANDS": ".commands.registry",
    "PARTS": "..modeling.backbone.parts",
    "FeatureStore": ".data.feature_cache",
    "GenerationMetrics": ".metrics.generation",
    "Metrics": ".metrics.classification",
    "PlaitDataCollator": ".tasks.collator",
    "PlaitRewardTrainer": ".rewards.trainer",
    "PlaitTrainer": ".trainer.trainer",
    "PlaitTrainingArguments": ".optimization.arguments",
    "Recipe": ".recipes.schema",
    "SpanMetrics": ".metrics.question_answering",
    "cache_features": ".data.feature_cache",
    "doctor": ".diagnosis.doctor",
    "freeze": "..modeling.backbone.parts",
    "fresh_modules": "..modeling.adaptation.fresh",
    "load_data": ".data.loading",
    "load_recipe": ".runs.recipe",
    "load_run": ".runs.loading",
    "parameter_groups": ".parameters",
    "part_of": "..modeling.composition.parameter_names",
    "pipeline": ".pipelines.factory",
    "run_launched": ".commands.launch",
    "save_word_tower": ".data.word_vectors",
}

__all__ = [
    "PARTS",
    "FeatureStore",
    "GenerationMetrics",
    "Metrics",
    "PlaitDataCollator",
    "PlaitRewardTrainer",
    "PlaitTrainer",
    "PlaitTrainingArguments",
    "Recipe",
    "SpanMetrics",
    "cache_features",
    "doctor",
    "freeze",
    "fresh_modules",
    "load_data",
    "load_recipe",
    "load_run",
    "parameter_groups",
    "part_of",
    "pipeline",
    "save_word_tower",
]


def __getattr__(name: str) -> object:
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(LAZY[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *LAZY})
