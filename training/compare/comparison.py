"""`plait compare`: trains every single modality and every fusion under one budget. Does fusion help, and which one?"""

from pathlib import Path

from tqdm.auto import tqdm
from transformers.utils import logging

from ..recipes.errors import RecipeError
from ..recipes.schema import Recipe
from ..reports.writing import REPORT_FILE
from ..runs.claim import ClaimedFolder
from ..runs.folder import CELLS, FolderKind
from ..runs.reporting import is_report_wanted
from ..storage.atomic import replace_file, write_json, write_text
from ..storage.secret_values import find_secrets, hide_secrets
from .best_model import save_best_model
from .experiment import Experiment
from .page import render_comparison
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


def compare(
    recipe: Recipe, command: str, overwrite: bool = False, resume: bool = False, allow_changed_data: bool = False
) -> Comparison:
    """Runs every trial that is not finished yet, and writes compare.json, README.md, compare.png and report.html into
    the recipe's output_dir, and the best fusion, trained on all rows, into its folder `best`.

    Raises:
        RecipeError: the folder exists (without `overwrite` or `resume`), or the recipe cannot be compared.
        RunError, RunInterrupted: as in `plait.training.runs.train`; finished trials stay.
    """
    if recipe.output_dir is None:
        raise RecipeError("output_dir is missing: give it in the recipe or as --output_dir FOLDER")
    check_single_process()
    with ClaimedFolder(COMPARISON_FOLDER, recipe, overwrite, resume, changed_data=allow_changed_data) as folder:
        experiment = Experiment(recipe)
        folder.check_data(experiment.splits)
        results = run_trials(experiment, folder)
        comparison = summarize_comparison(experiment, results)
        command = hide_secrets(command, find_secrets(recipe.training))
        folder.start()
        write_json(folder.path / "compare.json", comparison.content)
        write_text(folder.path / "README.md", render_page(comparison, recipe, command))
        save_plot(comparison, folder.path / PLOT_FILE)
        if is_report_wanted(recipe):
            write_text(folder.path / REPORT_FILE, render_comparison(comparison.content, recipe, folder.place, command))
        if recipe.compare.keep_best:
            save_best_model(experiment, comparison, folder, command)
        folder.finish()
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
        with replace_file(path) as unfinished:
            draw_comparison(comparison.content, unfinished)
    except ImportError:
        logger.warning(f"{path.name} was not drawn: install matplotlib (pip install 'plait[plot]')")


def run_trials(experiment: Experiment, folder: ClaimedFolder) -> dict[str, TrialResult]:
    """Returns the results of all trials by name; runs those that have no file in the folder `cells`, or a damaged one,
    and loads the others."""
    (folder.path / CELLS).mkdir(parents=True, exist_ok=True)
    trials = list(list_trials(experiment))
    found = {trial.name: load_trial(folder.path / CELLS / f"{trial.name}.npz") for trial in trials}
    kept = sum(result is not None for result in found.values())
    with tqdm(trials, desc="compare", unit="trial") as progress:
        progress.set_postfix_str(f"{kept} finished before")
        for trial in progress:
            progress.set_postfix_str(trial.name)
            found[trial.name] = found[trial.name] or run_trial(experiment, trial, folder)
    return {name: result for name, result in found.items() if result is not None}


def load_trial(path: Path) -> TrialResult | None:
    """Returns the results of a trial; None if it is not finished, or its file is damaged, which is then set aside."""
    if not path.exists():
        return None
    try:
        return TrialResult.load(path)
    except RecipeError as error:
        path.replace(path.with_name(f"damaged-{path.name}"))
        logger.warning(f"{error}; it is set aside, and the trial runs again")
        return None


__all__ = ["Comparison", "compare"]
