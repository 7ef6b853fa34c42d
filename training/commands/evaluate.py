"""`plait evaluate`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..metrics.per_row import format_intervals
from ..recipes.errors import RecipeError
from ..runs.evaluate import choose_label_thresholds, evaluate_rows
from ..runs.evaluate import evaluate as evaluate_model
from ..runs.loading import load_model_recipe
from ..runs.thresholds import format_thresholds
from ..storage.atomic import write_json
from .options import build_data_overrides, check_output_path, is_main_process
from .output import hold_output, print_results


def run_evaluate(options: argparse.Namespace, overrides: Sequence[str], arguments: Sequence[str]) -> int:
    """Runs `plait evaluate`: prints the metrics of a model on one split of the data."""
    check_output_path(options.output, options.overwrite)
    with hold_output(options):
        recipe = load_model_recipe(options.model, build_data_overrides(options, overrides))
        if recipe.data.source is None:
            raise RecipeError(f"{options.model} has no recipe that names data: give --data")
        thresholds = choose_label_thresholds(options.model, recipe, options.split) if options.tune_thresholds else None
        scores, intervals = {}, {}
        if thresholds is None and (options.intervals or options.beside):
            scores, intervals = evaluate_rows(options.model, recipe, options.split, options.beside)
        elif thresholds is None:
            scores = evaluate_model(options.model, recipe, options.split)
    if thresholds is not None and is_main_process():
        print_results(options, format_thresholds(thresholds), thresholds)
        return 0
    if is_main_process():
        lines = [f"{name}={value:.6g}" for name, value in scores.items()]
        lines += [f"with 95 % intervals over the rows:\n{format_intervals(intervals)}"] if intervals else []
        content = {**scores, "intervals": intervals} if intervals else scores
        print_results(options, "\n".join(lines), content)
        if options.output is not None:
            write_json(Path(options.output), content)
    return 0
