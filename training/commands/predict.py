"""`plait predict`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..data.unreadable_rows import UnreadableRow
from ..prediction.run import Predictions, Predictor, predict_file, predict_lines
from ..prediction.sources import OptionSource, RowSource, open_data
from ..prediction.writers import check_suffix
from ..recipes.errors import RecipeError
from ..recipes.schema import Recipe
from ..runs.image_output import is_image_output, predict_images, write_images
from ..runs.loading import load_model_recipe
from ..runs.predict import build_option_rows
from ..runs.processes import join_processes
from ..runs.thresholds import describe_thresholds
from ..tasks.registry import find_task
from .options import build_data_overrides, check_output_path

INPUT_OPTIONS = ("text", "image", "audio", "video", "document", "context")


def run_predict(options: argparse.Namespace, overrides: Sequence[str], arguments: Sequence[str]) -> int:
    """Runs `plait predict`: prints or writes predictions for inputs of the command line, or for the rows of --data."""
    for name in ("batch_size", "num_images", "top_k"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise RecipeError(f"--{name.replace('_', '-')} is {value}: expected at least 1")
    given = {"settings.top_k": options.top_k} if options.top_k is not None else {}
    recipe = load_model_recipe(options.model, build_data_overrides(options, overrides) | given)
    output = None if options.output is None else Path(options.output).expanduser()
    draws = recipe.task == "image_generation" and is_image_output(output)
    if output is not None and not draws:
        check_suffix(output, recipe.task)
    check_output_path(options.output, options.overwrite)
    if options.num_images != 1 and not draws:
        raise RecipeError("--num-images is for images alone: give --output GRID.png or --output FOLDER")
    source = open_source(options, recipe)
    if output is not None and draws:
        return generate_files(options, recipe, source, output)
    told = describe_thresholds(options.model, recipe)
    if told and join_processes().is_main_process:
        print(told, file=sys.stderr)
    predictor = Predictor(options.model, source, recipe, options.batch_size)
    found = (
        print_lines(predictor)
        if output is None
        else predict_file(predictor, output, recipe.data.label_separator or ";")
    )
    if join_processes().is_main_process:
        if found.failed:
            print(found.describe_failures(), file=sys.stderr)
        if output is not None:
            print(f"{found.count - found.failed} predictions in {output}")
    return 0


def open_source(options: argparse.Namespace, recipe: Recipe) -> RowSource:
    """Returns the rows of --data, or those that the options give."""
    inputs = {name: getattr(options, name) for name in INPUT_OPTIONS}
    if options.data is None:
        return OptionSource(build_option_rows(find_task(recipe.task), inputs))
    named = next((name for name, values in inputs.items() if values), None)
    if named is not None:
        raise RecipeError(f"--{named} and --data: give one of them")
    return open_data(recipe, options.split)


def print_lines(predictor: Predictor) -> Predictions:
    """Prints the rows with their answers as lines of JSON, as soon as they are known."""
    if join_processes().num_processes > 1:
        raise RecipeError("several processes write to one place in the order of the rows: give --output")
    failed: list[UnreadableRow] = []
    count = sum(1 for line in predict_lines(predictor, failed) if sys.stdout.write(f"{line}\n"))
    return Predictions(count, len(failed), failed)


def generate_files(options: argparse.Namespace, recipe: Recipe, source: RowSource, output: Path) -> int:
    """Generates the images of all rows, and writes them to a grid or a folder."""
    rows = [row for part in source.read_parts() for row in part.rows]
    images = predict_images(options.model, rows, recipe, options.num_images, options.batch_size)
    print(f"{write_images(rows, images, output)} images in {output}")
    return 0
