"""Training: the Trainer and its arguments, data, metrics, recipes and the command line. Loaded when first asked for."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .arguments import PlaitTrainingArguments
    from .collator import PlaitDataCollator
    from .data import load_data
    from .features import FeatureStore, cache_features
    from .generated import GenerationMetrics
    from .metrics import Metrics
    from .parameters import PARTS, freeze, fresh_modules, parameter_groups, part_of
    from .pipelines import pipeline
    from .recipe import Recipe, load_recipe
    from .spans import SpanMetrics
    from .trainer import PlaitTrainer
    from .word_vectors import save_word_tower

LAZY = {
    "PARTS": ".parameters",
    "FeatureStore": ".features",
    "GenerationMetrics": ".generated",
    "Metrics": ".metrics",
    "PlaitDataCollator": ".collator",
    "PlaitTrainer": ".trainer",
    "PlaitTrainingArguments": ".arguments",
    "Recipe": ".recipe",
    "SpanMetrics": ".spans",
    "cache_features": ".features",
    "freeze": ".parameters",
    "fresh_modules": ".parameters",
    "load_data": ".data",
    "load_recipe": ".recipe",
    "parameter_groups": ".parameters",
    "part_of": ".parameters",
    "pipeline": ".pipelines",
    "save_word_tower": ".word_vectors",
}

__all__ = [
    "PARTS",
    "FeatureStore",
    "GenerationMetrics",
    "Metrics",
    "PlaitDataCollator",
    "PlaitTrainer",
    "PlaitTrainingArguments",
    "Recipe",
    "SpanMetrics",
    "cache_features",
    "freeze",
    "fresh_modules",
    "load_data",
    "load_recipe",
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
