"""`plait compare`: every modality alone and every fusion under one budget. Does fusion help, and which?"""

import shutil
from dataclasses import replace
from pathlib import Path

from tqdm.auto import tqdm
from transformers.utils import logging

from ...configuration.version import VERSION
from ..recipes.errors import RecipeError
from ..recipes.files import VERSION_KEY, find_differences, read_yaml, save_recipe
from ..recipes.schema import Recipe
from ..runs.folder import write_json
from ..runs.recipe import build_recipe
from .best_model import save_best_model
from .experiment import Experiment
from .plot import draw_comparison
from .report import PLOT_FILE, render_page
from .summary import Comparison, summarize_comparison
from .trials import TrialResult, list_trials, run_trial

logger = logging.get_logger(__name__)

COMPARISON_FILE = "compare.yaml"
RESUMABLE_KEYS = (
    "singles",
    "fusions",
    "seeds",
    "metric",
    "bootstrap",
    "keep_best",
)  # what may change while cells are kept


def compare(recipe: Recipe, command: str, overwrite: bool = False, resume: bool = False) -> Comparison:
    """Train every cell that is not there yet, and write compare.json, README.md and compare.png into the recipe's
    output_dir, and into its folder `best` the best fusion, trained on all rows.

    Raises:
        RecipeError: the folder exists (without `overwrite` or `resume`), or the recipe cannot be compared.
    """
    if recipe.output_dir is None:
        raise RecipeError("output_dir is missing: give it in the recipe or as --output_dir FOLDER")
    check_single_process()
    folder = Path(recipe.output_dir).expanduser()
    bench = Experiment(recipe)
    claim_comparison_folder(folder, recipe, overwrite, resume)
    answers = run_trials(bench, folder / "cells")
    comparison = summarize_comparison(bench, answers)
    write_json(folder / "compare.json", comparison.content)
    (folder / "README.md").write_text(render_page(comparison, recipe, command), encoding="utf-8")
    save_plot(comparison, folder / PLOT_FILE)
    if recipe.compare.keep_best:
        save_best_model(bench, comparison, folder / "best", command)
    return comparison


def check_single_process() -> None:
    """Raises RecipeError where several processes would write the same cells."""
    from accelerate import PartialState

    count = PartialState().num_processes
    if count > 1:
        raise RecipeError(f"compare trains one cell after the other in one process, and here are {count}")


def save_plot(comparison: Comparison, path: Path) -> None:
    """Draw the comparison; without matplotlib say what is missing."""
    try:
        draw_comparison(comparison.content, path)
    except ImportError:
        logger.warning(f"{path.name} is not drawn: it needs matplotlib (pip install 'plait[plot]')")


def run_trials(bench: Experiment, folder: Path) -> dict[str, TrialResult]:
    """The answers of all cells by name: those that are kept, and those that are trained now."""
    folder.mkdir(parents=True, exist_ok=True)
    cells = list(list_trials(bench))
    kept = sum((folder / f"{cell.name}.npz").exists() for cell in cells)
    found = {}
    with tqdm(cells, desc="compare", unit="cell") as progress:
        progress.set_postfix_str(f"{kept} kept")
        for cell in progress:
            progress.set_postfix_str(cell.name)
            path = folder / f"{cell.name}.npz"
            if not path.exists():
                run_trial(bench, cell).save(path)
            found[cell.name] = TrialResult.load(path)
    return found


def claim_comparison_folder(folder: Path, recipe: Recipe, overwrite: bool, resume: bool) -> None:
    """Make the comparison's folder, or check that it can be gone on with.

    Raises:
        RecipeError: it exists and may not be touched, or was made by another recipe.
    """
    kept = is_comparison(folder)
    if resume:
        if not kept:
            raise RecipeError(f"{folder} is not the folder of a comparison: there is nothing to resume")
        changed = find_differences(drop_resumable_keys(read_comparison_recipe(folder)), drop_resumable_keys(recipe))
        if changed:
            raise RecipeError(f"{folder} was begun with another recipe ({'; '.join(changed)}): its cells would not fit")
    elif folder.exists() and any(folder.iterdir()):
        if not overwrite:
            raise RecipeError(f"{folder} exists: --overwrite replaces it, --resume goes on, --output_dir names another")
        if not kept or folder.is_symlink():
            raise RecipeError(f"{folder} is not the folder of a comparison of plait, so it is not overwritten")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_recipe(recipe, folder / COMPARISON_FILE, VERSION)


def is_comparison(folder: Path) -> bool:
    """Whether a folder was made by `compare`."""
    file = folder / COMPARISON_FILE
    return file.is_file() and VERSION_KEY in read_yaml(file)


def read_comparison_recipe(folder: Path) -> Recipe:
    content = read_yaml(folder / COMPARISON_FILE)
    return build_recipe({key: value for key, value in content.items() if key != VERSION_KEY})


def drop_resumable_keys(recipe: Recipe) -> Recipe:
    """The recipe without what may change in a comparison that goes on."""
    usual = type(recipe.compare)()
    return replace(recipe, compare=replace(recipe.compare, **{name: getattr(usual, name) for name in RESUMABLE_KEYS}))


__all__ = ["Comparison", "compare"]
