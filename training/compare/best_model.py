"""The best fusion, trained on all rows and saved with the comparison in its model card."""

import shutil
from pathlib import Path
from typing import Any

from ...configuration.version import VERSION
from ..data.loading import DataSplits
from ..recipes.files import save_recipe
from ..recipes.schema import Recipe
from ..runs.folder import RECIPE_FILE, RUN_FOLDER
from ..runs.model_card import write_card
from .experiment import Experiment
from .report import render_body
from .summary import Comparison
from .trials import train_system

CARD_FILE = "README.md"


def save_best_model(bench: Experiment, comparison: Comparison, folder: Path, command: str) -> None:
    """Fill the folder with the model, unless it holds this one already.

    With folds the model is trained on all rows, else on the training split, with the first of the seeds.
    """
    name = comparison.content["best_fusion"]
    system = next(system for system in bench.systems if system.name == name)
    recipe = system.build_training_recipe(bench.recipe, bench.recipe.compare.seeds[0])
    if is_saved(folder, recipe):
        return
    if folder.exists():
        shutil.rmtree(folder)
    part = bench.select_all_data(system)
    run = train_system(bench, system, recipe.seed, part, folder)
    run.trainer.save_model(str(folder))
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    save_recipe(recipe, folder / RECIPE_FILE, VERSION)
    data = DataSplits({"train": part.train}, bench.labels)
    model: Any = run.trainer.model
    write_card(folder, recipe, bench.task, model, data, {}, command, render_body(comparison.content))


def is_saved(folder: Path, recipe: Recipe) -> bool:
    """Whether the folder holds a finished model of this recipe; what is compared with it may have changed."""
    if not RUN_FOLDER.marks(folder) or not (folder / CARD_FILE).exists():
        return False
    saved = RUN_FOLDER.read_recipe(folder)
    return (saved.model, saved.training, saved.seed) == (recipe.model, recipe.training, recipe.seed)
