"""`plait merge`."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..recipes.errors import RecipeError
from ..runs.adapters import is_adapter_folder
from ..runs.folder import RUN_FOLDER
from ..runs.loading import load_model, load_model_recipe
from ..runs.thresholds import copy_thresholds
from ..storage.atomic import UNFINISHED, flush_tree
from ..tasks.registry import find_task


def run_merge(options: argparse.Namespace, overrides: Sequence[str], arguments: Sequence[str]) -> int:
    """Runs `plait merge`: saves the model of a folder of adapters as a whole, and prints where."""
    if overrides:
        raise RecipeError(f"merge takes folders alone, not {overrides[0]}")
    folder = Path(options.folder).expanduser()
    output = folder.with_name(f"{folder.resolve().name}-merged") if options.output is None else Path(options.output)
    merge_folder(folder, output.expanduser())
    print(f"{output}: the model of {folder} with its adapters in the weights")
    return 0


def merge_folder(folder: Path, output: Path) -> None:
    """Saves the model of a folder of adapters, added to its weights, with its processor and recipe in a new folder.

    Raises RecipeError for a folder without adapters, an output that exists, or a model that cannot be loaded.
    """
    if not is_adapter_folder(str(folder)):
        raise RecipeError(f"{folder} holds no adapters (adapter_config.json): name the folder of a run with lora")
    if output.exists():
        raise RecipeError(f"{output} exists already: name another folder, or remove it")
    recipe = load_model_recipe(str(folder), {})
    model, processor = load_model(str(folder), recipe, find_task(recipe.task))
    staged = output.with_name(f".{output.name}{UNFINISHED}")
    model.save_pretrained(staged)
    processor.save_pretrained(staged)
    if RUN_FOLDER.marks(folder):
        own = RUN_FOLDER.read_recipe(folder)
        lora = None if own.lora is None else replace(own.lora, merge=True)
        RUN_FOLDER.write(staged, replace(own, lora=lora, output_dir=str(output)))
        copy_thresholds(folder, staged)
    flush_tree(staged)
    os.replace(staged, output)
