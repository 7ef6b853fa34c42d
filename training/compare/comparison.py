"""`plait compare`: every modality alone and every fusion under one budget. Does fusion help, and which?"""

import shutil
from dataclasses import replace
from pathlib import Path

from tqdm.auto import tqdm
from transformers.utils import logging

from ...configuration.version import VERSION
from ..recipes.errors import RecipeError
from ..recipes.files import MARK, differences, read_yaml, save_recipe
from ..recipes.schema import Recipe
from ..runs.folder import write_json
from ..runs.recipe import build_recipe
from .best_model import keep_best
from .experiment import Bench
from .plot import draw
from .report import PLOT, markdown
from .summary import Comparison, summarise
from .trials import Answers, cells_of, run_cell

logger = logging.get_logger(__name__)

RECIPE_FILE = "compare.yaml"
GROWS = ("singles", "fusions", "seeds", "metric", "bootstrap", "keep_best")  # what may change while cells are kept


def compare(recipe: Recipe, command: str, overwrite: bool = False, resume: bool = False) -> Comparison:
    """Train every cell that is not there yet, and write compare.json, README.md and compare.png into the recipe's
    output_dir, and into its folder `best` the best fusion, trained on all rows.

    Raises:
        RecipeError: the folder exists (without `overwrite` or `resume`), or the recipe cannot be compared.
    """
    if recipe.output_dir is None:
        raise RecipeError("output_dir is missing: give it in the recipe or as --output_dir FOLDER")
    check_alone()
    folder = Path(recipe.output_dir).expanduser()
    bench = Bench(recipe)
    claim_folder(folder, recipe, overwrite, resume)
    answers = finish_cells(bench, folder / "cells")
    comparison = summarise(bench, answers)
    write_json(folder / "compare.json", comparison.content)
    (folder / "README.md").write_text(markdown(comparison, recipe, command), encoding="utf-8")
    plot(comparison, folder / PLOT)
    if recipe.compare.keep_best:
        keep_best(bench, comparison, folder / "best", command)
    return comparison


def check_alone() -> None:
    """Raises RecipeError where several processes would write the same cells."""
    from accelerate import PartialState

    count = PartialState().num_processes
    if count > 1:
        raise RecipeError(f"compare trains one cell after the other in one process, and here are {count}")


def plot(comparison: Comparison, path: Path) -> None:
    """Draw the comparison; without matplotlib say what is missing."""
    try:
        draw(comparison.content, path)
    except ImportError:
        logger.warning(f"{path.name} is not drawn: it needs matplotlib (pip install 'plait[plot]')")


def finish_cells(bench: Bench, folder: Path) -> dict[str, Answers]:
    """The answers of all cells by name: those that are kept, and those that are trained now."""
    folder.mkdir(parents=True, exist_ok=True)
    cells = list(cells_of(bench))
    kept = sum((folder / f"{cell.name}.npz").exists() for cell in cells)
    found = {}
    with tqdm(cells, desc="compare", unit="cell") as progress:
        progress.set_postfix_str(f"{kept} kept")
        for cell in progress:
            progress.set_postfix_str(cell.name)
            path = folder / f"{cell.name}.npz"
            if not path.exists():
                run_cell(bench, cell).save(path)
            found[cell.name] = Answers.load(path)
    return found


def claim_folder(folder: Path, recipe: Recipe, overwrite: bool, resume: bool) -> None:
    """Make the comparison's folder, or check that it can be gone on with.

    Raises:
        RecipeError: it exists and may not be touched, or was made by another recipe.
    """
    kept = is_comparison(folder)
    if resume:
        if not kept:
            raise RecipeError(f"{folder} is not the folder of a comparison: there is nothing to resume")
        changed = differences(fixed(saved_recipe(folder)), fixed(recipe))
        if changed:
            raise RecipeError(f"{folder} was begun with another recipe ({'; '.join(changed)}): its cells would not fit")
    elif folder.exists() and any(folder.iterdir()):
        if not overwrite:
            raise RecipeError(f"{folder} exists: --overwrite replaces it, --resume goes on, --output_dir names another")
        if not kept or folder.is_symlink():
            raise RecipeError(f"{folder} is not the folder of a comparison of plait, so it is not overwritten")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_recipe(recipe, folder / RECIPE_FILE, VERSION)


def is_comparison(folder: Path) -> bool:
    """Whether a folder was made by `compare`."""
    file = folder / RECIPE_FILE
    return file.is_file() and MARK in read_yaml(file)


def saved_recipe(folder: Path) -> Recipe:
    content = read_yaml(folder / RECIPE_FILE)
    return build_recipe({key: value for key, value in content.items() if key != MARK})


def fixed(recipe: Recipe) -> Recipe:
    """The recipe without what may change in a comparison that goes on."""
    usual = type(recipe.compare)()
    return replace(recipe, compare=replace(recipe.compare, **{name: getattr(usual, name) for name in GROWS}))


__all__ = ["Comparison", "compare"]
