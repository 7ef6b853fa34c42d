"""`plait predict`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..recipes.errors import RecipeError
from ..runs.image_output import is_image_output, predict_images, write_images
from ..runs.loading import load_model_recipe
from ..runs.predict import build_option_rows, load_data_rows, write_predictions
from ..runs.predict import predict as predict_rows
from ..tasks.registry import find_task
from .options import build_data_overrides, check_output_path


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
