"""The best fusion, trained on all rows and saved with the comparison in its model card."""

import shutil
from pathlib import Path
from typing import Any

from ...configuration.version import VERSION
from ..data.loading import Data
from ..recipes.files import save_recipe
from ..recipes.schema import Recipe
from ..runs.folder import RECIPE_FILE, is_run, saved_recipe
from ..runs.model_card import write_card
from .experiment import Bench
from .report import body
from .summary import Comparison
from .trials import trained

CARD = "README.md"


def keep_best(bench: Bench, comparison: Comparison, folder: Path, command: str) -> None:
    """Fill the folder with the model, unless it holds this one already.

    With folds the model is trained on all rows, else on the training split, with the first of the seeds.
    """
    name = comparison.content["best_fusion"]
    system = next(system for system in bench.systems if system.name == name)
    recipe = system.recipe(bench.recipe, bench.recipe.compare.seeds[0])
    if is_kept(folder, recipe):
        return
    if folder.exists():
        shutil.rmtree(folder)
    part = bench.whole(system)
    run = trained(bench, system, recipe.seed, part, folder)
    run.trainer.save_model(str(folder))
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    save_recipe(recipe, folder / RECIPE_FILE, VERSION)
    data = Data({"train": part.train}, bench.labels)
    model: Any = run.trainer.model
    write_card(folder, recipe, model, data, {}, command, body(comparison.content))


def is_kept(folder: Path, recipe: Recipe) -> bool:
    """Whether the folder holds a finished model of this recipe; what is compared with it may have changed."""
    if not is_run(folder) or not (folder / CARD).exists():
        return False
    saved = saved_recipe(folder)
    return (saved.model, saved.training, saved.seed) == (recipe.model, recipe.training, recipe.seed)
