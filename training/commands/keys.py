"""`plait keys`."""

import argparse
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from ..recipes.errors import RecipeError
from ..recipes.keys import describe_keys, format_keys
from ..recipes.schema import SECTIONS as RECIPE_SECTIONS
from ..recipes.schema import Recipe

LIGHT = {"recipe": Recipe, **RECIPE_SECTIONS}
# with torch and transformers, so imported only when they are asked for
ARGUMENTS_MODULE, REGISTRY_MODULE = "plait.training.optimization.arguments", "plait.training.tasks.registry"


def run_keys(options: argparse.Namespace, overrides: Sequence[str], arguments: Sequence[str]) -> int:
    """Runs `plait keys`: prints the keys of a section, or of all that import nothing heavy."""
    if overrides:
        raise RecipeError(f"keys takes the name of a section, not {overrides[0]}")
    sections = [options.section] if options.section else list(LIGHT)
    texts = [format_keys(name, describe_keys(kind)) for section in sections for name, kind in find_kinds(section)]
    print("\n\n".join(texts))
    if not options.section:
        print("\nplait keys training: the training arguments; plait keys settings: the settings of each task")
    return 0


def find_kinds(section: str) -> list[tuple[str, type]]:
    """Returns the dataclasses of a section, each with the heading of its keys."""
    if section == "training":
        return [("training", import_module(ARGUMENTS_MODULE).PlaitTrainingArguments)]
    if section == "settings":
        tasks: Any = import_module(REGISTRY_MODULE).TASKS
        return [(f"settings, of the task {name}", task.settings) for name, task in tasks.items()]
    return [(section, LIGHT[section])]
