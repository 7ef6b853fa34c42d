"""`plait compare`."""

import argparse
from collections.abc import Sequence

from ..compare.comparison import compare as compare_models
from ..compare.report import render_answer, render_table
from ..recipes.files import parse_overrides
from ..runs.recipe import load_recipe
from .options import format_command


def run_compare(options: argparse.Namespace, overrides: Sequence[str], arguments: Sequence[str]) -> int:
    """Runs `plait compare`: fills the comparison folder and prints its table and its answer."""
    recipe = load_recipe(options.recipe, parse_overrides(overrides))
    command = format_command(arguments)
    comparison = compare_models(recipe, command, options.overwrite, options.resume, options.allow_changed_data)
    print(f"{render_table(comparison.content)}\n\n{render_answer(comparison.content)}\nsaved in {recipe.output_dir}")
    return 0
