"""The commands of `plait`: what each of them runs and prints."""

import argparse
import shlex
import tempfile
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
from .runs.check import check_folder
from .runs.evaluate import evaluate as evaluate_model
from .runs.evaluate import evaluate_rows
from .runs.explain import ExplainOptions, explain_data
from .runs.image_output import is_image_output, predict_images, write_images
from .runs.loading import load_model_recipe
from .runs.predict import build_option_rows, load_data_rows, write_predictions
from .runs.predict import predict as predict_rows
from .runs.recipe import load_recipe
from .runs.train import Results, format_results
from .runs.train import train as train_task
from .storage.atomic import write_json
from .storage.secret_values import hide_secret_arguments
from .tasks.registry import find_task


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
    recipe = load_recipe(options.recipe, parse_overrides(overrides))
    command = format_command(arguments)
    results = run_recipe(recipe, command, options.overwrite, options.resume, options.allow_changed_data)
    if is_main_process():
        print(format_results(results))
        print(f"saved in {recipe.output_dir}")
    return 0


def run_evaluate(options: argparse.Namespace, overrides: Sequence[str], arguments: Sequence[str]) -> int:
    """Runs `plait evaluate`: prints the metrics of a model on one split of the data."""
    check_output_path(options.output, options.overwrite)
    recipe = load_model_recipe(options.model, build_data_overrides(options, overrides))
    if recipe.data.source is None:
        raise RecipeError(f"{options.model} has no recipe that names data: give --data")
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


def run_predict(options: argparse.Namespace, overrides: Sequence[str], arguments: Sequence[str]) -> int:
    """Runs `plait predict`: prints or writes predictions for inputs of the command line, or for the rows of --data."""
    for name in ("batch_size", "num_images"):
        if getattr(options, name) < 1:
            flag = name.replace("_", "-")
            raise RecipeError(f"--{flag} is {getattr(options, name)}: expected at least 1")
    check_output_path(options.output, options.overwrite)
    recipe = load_model_recipe(options.model, build_data_overrides(options, overrides))
    inputs = {"text": options.text, "image": options.image, "audio": options.audio, "context": options.context}
    rows = load_data_rows(recipe) if options.data is not None else build_option_rows(find_task(recipe.task), inputs)
    output = None if options.output is None else Path(options.output)
    if output is not None and recipe.task == "image_generation" and is_image_output(output):
        images = predict_images(options.model, rows, recipe, options.num_images, options.batch_size)
        print(f"{write_images(rows, images, output)} images in {output}")
        return 0
    if options.num_images != 1:
        raise RecipeError("--num-images is for images alone: give --output GRID.png or --output FOLDER")
    count = write_predictions(rows, predict_rows(options.model, rows, recipe, options.batch_size), output)
    if output is not None:
        print(f"{count} predictions in {output}")
    return 0


def run_explain(options: argparse.Namespace, overrides: Sequence[str], arguments: Sequence[str]) -> int:
    """Runs `plait explain`: writes the folder of explanations, and prints the tables that were asked for."""
    recipe = load_model_recipe(options.model, build_data_overrides(options, overrides))
    if recipe.data.source is None:
        raise RecipeError(f"{options.model} has no recipe that names data: give --data")
    wanted = ExplainOptions(
        Path(options.output).expanduser(),
        options.method,
        options.target,
        options.check,
        options.modalities,
        options.absence,
        options.rows,
    )
    for name, text in explain_data(options.model, recipe, wanted).items():
        print(f"{name}:\n{text}\n" if "\n" in text else text)
    return 0


def run_compare(options: argparse.Namespace, overrides: Sequence[str], arguments: Sequence[str]) -> int:
    """Runs `plait compare`: fills the comparison folder and prints its table and its answer."""
    recipe = load_recipe(options.recipe, parse_overrides(overrides))
    command = format_command(arguments)
    comparison = compare_models(recipe, command, options.overwrite, options.resume, options.allow_changed_data)
    print(f"{render_table(comparison.content)}\n\n{render_answer(comparison.content)}\nsaved in {recipe.output_dir}")
    return 0


def format_command(arguments: Sequence[str]) -> str:
    """Returns the command line as it is typed, with secrets hidden."""
    return f"plait {shlex.join(hide_secret_arguments(arguments))}"


def check_output_path(output: str | None, overwrite: bool) -> None:
    """Raises RecipeError, before any work, for an output that exists (unless it may be overwritten) or cannot be
    written."""
    if output is None:
        return
    path = Path(output)
    filled = path.is_file() or (path.is_dir() and any(path.iterdir()))
    if filled and not overwrite:
        raise RecipeError(f"--output {output} exists: --overwrite replaces it, or name another")
    folder = path if path.is_dir() else path.parent
    if not folder.is_dir():
        if is_image_output(path):
            return  # images are written with their parents
        raise RecipeError(f"--output {output}: there is no folder {folder}")
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        raise RecipeError(f"--output {output} cannot be written: {error.strerror}") from error


def run_check(options: argparse.Namespace, overrides: Sequence[str], arguments: Sequence[str]) -> int:
    """Runs `plait check`: prints what is damaged in folders; the exit code is 1 if anything is."""
    if overrides:
        raise RecipeError(f"check takes folders alone, not {overrides[0]}")
    found = 0
    for folder in options.folders:
        problems, parts, unsummed = check_folder(Path(folder))
        found += len(problems)
        print("\n".join(problems) if problems else f"{folder}: whole ({len(parts)} folders read)")
        if unsummed:
            print(f"{folder}: {len(unsummed)} files were saved without checksums, so flipped bits in them are not seen")
    return 1 if found else 0


COMMANDS = {
    "train": run_train,
    "evaluate": run_evaluate,
    "predict": run_predict,
    "explain": run_explain,
    "compare": run_compare,
    "check": run_check,
}


def build_data_overrides(options: argparse.Namespace, overrides: Sequence[str]) -> dict:
    """Returns the changes to a run's recipe; the rows of --data are all read, in the splits that they come in."""
    replaced = {"data.source": options.data, "data.splits": {}, "data.max_rows": None}
    replaced |= {"data.validation_fraction": None, "data.test_fraction": None}
    return {**(replaced if options.data is not None else {}), **parse_overrides(overrides)}


def is_main_process() -> bool:
    """Returns whether this process prints: it is the only one, or the first of several."""
    return PartialState().is_main_process
