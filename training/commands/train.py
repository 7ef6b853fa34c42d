"""`plait train`."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..multitask.train import train_tasks
from ..proposals.fit import check_run_folder, propose_recipe, train_proposed
from ..proposals.tables import is_table
from ..proposals.writing import format_proposal
from ..recipes.errors import RecipeError
from ..recipes.files import parse_overrides
from ..recipes.schema import Recipe
from ..reports.writing import REPORT_FILE
from ..runs.recipe import load_recipe
from ..runs.reporting import list_run_cautions
from ..runs.train import Results, format_results
from ..runs.train import train as train_task
from .new import split_inputs
from .options import format_command, is_main_process
from .output import hold_output, print_results


def run_recipe(
    recipe: Recipe, command: str, overwrite: bool = False, resume: bool = False, allow_changed_data: bool = False
) -> Results:
    """Trains as the recipe says, on one task or several, and fills its output_dir; returns the metrics of the model and
    of the baselines by split.

    Raises:
        RecipeError: the folder exists (without `overwrite` or `resume`), or the recipe cannot be run.
        RunError: the run stopped, because it diverged or could not write; the message says what is left.
        RunInterrupted: a signal stopped it, after a checkpoint.
    """
    if recipe.output_dir is None:
        raise RecipeError("output_dir is missing: give it in the recipe or as --output_dir FOLDER")
    return (train_tasks if recipe.tasks else train_task)(recipe, command, overwrite, resume, allow_changed_data)


def run_train(options: argparse.Namespace, overrides: Sequence[str], arguments: Sequence[str]) -> int:
    """Runs `plait train`: fills the run folder and prints each metric with those of the baselines."""
    command = format_command(arguments)
    if is_table(options.recipe, options.target, options.inputs):
        return run_train_table(options, parse_overrides(overrides), command)
    with hold_output(options):
        recipe = load_recipe(options.recipe, parse_overrides(overrides))
        results = run_recipe(recipe, command, options.overwrite, options.resume, options.allow_changed_data)
    if is_main_process():
        print_trained(options, recipe, results)
    return 0


def run_train_table(options: argparse.Namespace, overrides: dict[str, Any], command: str) -> int:
    """Runs `plait train` on a table: prints what was found and chosen, trains, and prints each metric."""
    keeps = options.overwrite or options.resume
    inputs = split_inputs(options.inputs)
    with hold_output(options):
        proposal, recipe = propose_recipe(options.recipe, options.target, inputs, overrides, keep_name=keeps)
        check_run_folder(recipe, options.overwrite, options.resume)
        if proposal is not None:
            print(f"{format_proposal(proposal)}\n", flush=True)
        flags = (options.overwrite, options.resume, options.allow_changed_data)
        results = train_proposed(recipe, proposal, command, *flags)
    if proposal is not None:
        print_trained(options, recipe, results)
    return 0


def print_trained(options: argparse.Namespace, recipe: Recipe, results: Results) -> None:
    """Prints the metrics of a run, where it lies and the page to open."""
    folder = Path(str(recipe.output_dir)).expanduser()
    page = folder / REPORT_FILE
    cautions = list_run_cautions(folder, results)
    notes = [] if options.quiet else [f"note: {caution}" for caution in cautions]
    lines = [format_results(results), *notes, f"saved in {recipe.output_dir}"]
    lines += [f"open {page}"] if page.is_file() else []
    content = {"output_dir": str(recipe.output_dir), "results": results, "notes": cautions}
    print_results(options, "\n".join(lines), {**content, "report": str(page) if page.is_file() else None})
