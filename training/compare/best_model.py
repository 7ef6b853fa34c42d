"""Trains the best fusion on all rows and saves it with the comparison in its model card."""

import os
import shutil
from pathlib import Path
from typing import Any

from ...configuration.version import VERSION
from ..data.loading import DataSplits
from ..recipes.files import save_recipe
from ..recipes.schema import Recipe
from ..runs.adapters import save_adapted
from ..runs.claim import ClaimedFolder
from ..runs.folder import CHECKPOINTS, RECIPE_FILE, RUN_FOLDER
from ..runs.model_card import write_card
from ..storage.atomic import UNFINISHED, flush_tree
from .experiment import Experiment
from .report import render_body
from .summary import Comparison
from .trials import train_system

CARD_FILE = "README.md"


def save_best_model(experiment: Experiment, comparison: Comparison, whole: ClaimedFolder, command: str) -> None:
    """Trains the best fusion and saves it in the folder `best`, unless this model is there already.

    With folds it is trained on all rows, without folds on the training split; the seed is the first of the recipe's.
    """
    folder = whole.path / "best"
    name = comparison.content["best_fusion"]
    system = next(system for system in experiment.systems if system.name == name)
    recipe = system.build_training_recipe(experiment.recipe, experiment.recipe.compare.seeds[0])
    if is_saved(folder, recipe):
        return
    part = experiment.select_all_data(system)
    own = f"best-{system.slug}-seed{recipe.seed}{UNFINISHED}"
    run = train_system(experiment, system, recipe.seed, part, whole, own)
    staged = whole.path / own
    if recipe.lora is None:
        run.trainer.save_model(str(staged))
    else:
        save_adapted(run.trainer, staged, recipe.lora.merge)
    shutil.rmtree(staged / CHECKPOINTS, ignore_errors=True)
    save_recipe(recipe, staged / RECIPE_FILE, VERSION)
    data = DataSplits({"train": part.train}, experiment.labels)
    model: Any = run.trainer.model
    write_card(staged, recipe, experiment.task, model, data, {}, command, render_body(comparison.content), folder.name)
    flush_tree(staged)
    if folder.exists():
        os.replace(folder, whole.path / f".best.old{UNFINISHED}")
    os.replace(staged, folder)
    shutil.rmtree(whole.path / f".best.old{UNFINISHED}", ignore_errors=True)


def is_saved(folder: Path, recipe: Recipe) -> bool:
    """Returns whether the folder holds a finished model of this recipe; the systems compared with it may differ."""
    if not RUN_FOLDER.marks(folder) or not (folder / CARD_FILE).exists():
        return False
    saved = RUN_FOLDER.read_recipe(folder)
    return (saved.model, saved.lora, saved.training, saved.seed) == (
        recipe.model,
        recipe.lora,
        recipe.training,
        recipe.seed,
    )
