"""`plait compare`."""

import argparse
from collections.abc import Sequence

from ..compare.comparison import compare as compare_models
from ..compare.report import render_answer, render_table
from ..recipes.files import parse_overrides
from ..runs.recipe import load_recipe
from .options import format_command
from .output import hold_output, print_results


def run_compare(options: argparse.Namespace, overrides: Sequence[str], arguments: Sequence[str]) -> int:
    """Runs `plait compare`: fills the comparison folder and prints its table and its answer."""
    with hold_output(options):
        recipe = load_recipe(options.recipe, parse_overrides(overrides))
        command = format_command(arguments)
        found = compare_models(recipe, command, options.overwrite, options.resume, options.allow_changed_data).content
    text = f"{render_table(found)}\n\n{render_answer(found)}\nsaved in {recipe.output_dir}"
    print_results(options, text, {"output_dir": str(recipe.output_dir), **found})
    return 0
