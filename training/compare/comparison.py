"""`plait compare`: trains every single modality and every fusion under one budget. Does fusion help, and which one?"""

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
    """Runs every trial that is not finished yet, and writes compare.json, README.md and compare.png into the recipe's
    output_dir, and the best fusion, trained on all rows, into its folder `best`.

    Raises:
        RecipeError: the folder exists (without `overwrite` or `resume`), or the recipe cannot be compared.
    """
    if recipe.output_dir is None:
        raise RecipeError("output_dir is missing: give it in the recipe or as --output_dir FOLDER")
    check_single_process()
    folder = Path(recipe.output_dir).expanduser()
    experiment = Experiment(recipe)
    COMPARISON_FOLDER.claim(folder, recipe, overwrite, resume)
    results = run_trials(experiment, folder / "cells")
    comparison = summarize_comparison(experiment, results)
    write_json(folder / "compare.json", comparison.content)
    (folder / "README.md").write_text(render_page(comparison, recipe, command), encoding="utf-8")
    save_plot(comparison, folder / PLOT_FILE)
    if recipe.compare.keep_best:
        save_best_model(experiment, comparison, folder / "best", command)
    return comparison


def check_single_process() -> None:
    """Raises RecipeError where several processes would write the same trials."""
    from accelerate import PartialState

    count = PartialState().num_processes
    if count > 1:
        raise RecipeError(
            f"compare runs in one process, and this is one of {count}: start it without torchrun or accelerate launch"
        )


def save_plot(comparison: Comparison, path: Path) -> None:
    """Draws the comparison; without matplotlib, logs how to install it."""
    try:
        draw_comparison(comparison.content, path)
    except ImportError:
        logger.warning(f"{path.name} was not drawn: install matplotlib (pip install 'plait[plot]')")


def run_trials(experiment: Experiment, folder: Path) -> dict[str, TrialResult]:
    """Returns the results of all trials by name; runs those that have no file in the folder, and loads the others."""
    folder.mkdir(parents=True, exist_ok=True)
    trials = list(list_trials(experiment))
    kept = sum((folder / f"{trial.name}.npz").exists() for trial in trials)
    found = {}
    with tqdm(trials, desc="compare", unit="trial") as progress:
        progress.set_postfix_str(f"{kept} finished before")
        for trial in progress:
            progress.set_postfix_str(trial.name)
            path = folder / f"{trial.name}.npz"
            if not path.exists():
                run_trial(experiment, trial).save(path)
            found[trial.name] = TrialResult.load(path)
    return found


__all__ = ["Comparison", "compare"]
