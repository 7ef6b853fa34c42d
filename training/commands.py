"""The commands of `plait`: what each runs, and what it prints."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from accelerate import PartialState

from .compare.comparison import compare as compare_models
from .compare.report import render_answer, render_table
from .metrics.per_row import format_intervals
from .multitask.train import train_tasks
from .recipes.errors import RecipeError
from .recipes.files import parse_overrides
from .recipes.schema import Recipe
from .runs.evaluate import evaluate as evaluate_model
from .runs.evaluate import evaluate_rows
from .runs.folder import write_json
from .runs.loading import load_model_recipe
from .runs.predict import build_option_rows, load_data_rows, write_predictions
from .runs.predict import predict as predict_rows
from .runs.recipe import load_recipe
from .runs.train import Results, format_results
from .runs.train import train as train_task
from .tasks.registry import find_task


def run_recipe(recipe: Recipe, command: str, overwrite: bool = False, resume: bool = False) -> Results:
    """Train as the recipe says, on one task or several, and fill its output_dir; returns metrics beside the baselines,
    by split.

    Raises:
        RecipeError: the folder exists (without `overwrite` or `resume`), or the recipe cannot be run.
    """
    if recipe.output_dir is None:
        raise RecipeError("output_dir is missing: give it in the recipe or as --output_dir FOLDER")
    return (train_tasks if recipe.tasks else train_task)(recipe, command, overwrite, resume)


def run_train(options: argparse.Namespace, rest: Sequence[str], given: Sequence[str]) -> int:
    """`plait train`: fill the run folder and print each metric beside the baselines."""
    recipe = load_recipe(options.recipe, parse_overrides(rest))
    results = run_recipe(recipe, f"plait {shlex.join(given)}", options.overwrite, options.resume)
    if is_main_process():
        print(format_results(results))
        print(f"saved in {recipe.output_dir}")
    return 0


def run_evaluate(options: argparse.Namespace, rest: Sequence[str], given: Sequence[str]) -> int:
    """`plait evaluate`: print a model's metrics on some data."""
    recipe = load_model_recipe(options.model, build_data_overrides(options, rest))
    if recipe.data.source is None:
        raise RecipeError(f"{options.model} is no run folder with data of its own: give --data")
    if options.intervals or options.beside:
        scores, intervals = evaluate_rows(options.model, recipe, options.split, options.beside)
    else:
        scores, intervals = evaluate_model(options.model, recipe, options.split), {}
    if is_main_process():
        print("\n".join(f"{name}={value:.6g}" for name, value in scores.items()))
        if intervals:
            print(f"with 95 % intervals over the rows:\n{format_intervals(intervals)}")
        if options.output is not None:
            write_json(Path(options.output), {**scores, "intervals": intervals} if intervals else scores)
    return 0


def run_predict(options: argparse.Namespace, rest: Sequence[str], given: Sequence[str]) -> int:
    """`plait predict`: answers for texts and pictures of the command line, or for the rows of a file."""
    recipe = load_model_recipe(options.model, build_data_overrides(options, rest))
    asked = {"text": options.text, "image": options.image, "context": options.context}
    rows = load_data_rows(recipe) if options.data is not None else build_option_rows(find_task(recipe.task), asked)
    output = None if options.output is None else Path(options.output)
    count = write_predictions(rows, predict_rows(options.model, rows, recipe, options.batch_size), output)
    if output is not None:
        print(f"{count} predictions in {output}")
    return 0


def run_compare(options: argparse.Namespace, rest: Sequence[str], given: Sequence[str]) -> int:
    """`plait compare`: fill the comparison's folder and print its table."""
    recipe = load_recipe(options.recipe, parse_overrides(rest))
    comparison = compare_models(recipe, f"plait {shlex.join(given)}", options.overwrite, options.resume)
    print(f"{render_table(comparison.content)}\n\n{render_answer(comparison.content)}\nsaved in {recipe.output_dir}")
    return 0


COMMANDS = {"train": run_train, "evaluate": run_evaluate, "predict": run_predict, "compare": run_compare}


def build_data_overrides(options: argparse.Namespace, rest: Sequence[str]) -> dict:
    """The changes to a run's own recipe: other data are read by their own splits, whole."""

    replaced = {"data.source": options.data, "data.splits": {}, "data.max_rows": None}
    replaced |= {"data.validation_fraction": None, "data.test_fraction": None}
    return {**(replaced if options.data is not None else {}), **parse_overrides(rest)}


def is_main_process() -> bool:
    """Whether this process prints; alone, or the first of several."""
    return PartialState().is_main_process
