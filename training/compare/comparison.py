"""`plait compare`: every modality alone and every fusion under one budget. Does fusion help, and which?"""

from pathlib import Path

from tqdm.auto import tqdm
from transformers.utils import logging

from ..recipes.errors import RecipeError
from ..recipes.schema import Recipe
from ..runs.folder import FolderKind, write_json
from .best_model import save_best_model
from .experiment import Experiment
from .plot import draw_comparison
from .report import PLOT_FILE, render_page
from .summary import Comparison, summarize_comparison
from .trials import TrialResult, list_trials, run_trial

logger = logging.get_logger(__name__)

COMPARISON_FOLDER = FolderKind(
    "comparison",
    "compare.yaml",
    changeable_keys=tuple(
        f"compare.{key}" for key in ("singles", "fusions", "seeds", "metric", "bootstrap", "keep_best")
    ),
)


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
    COMPARISON_FOLDER.claim(folder, recipe, overwrite, resume)
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


__all__ = ["Comparison", "compare"]
