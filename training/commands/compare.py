"""`plait compare`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..compare.comparison import compare as compare_models
from ..compare.report import render_answer, render_table
from ..recipes.files import parse_overrides
from ..reports.writing import REPORT_FILE
from ..runs.recipe import load_recipe
from .options import format_command
from .output import hold_output, print_results


def run_compare(options: argparse.Namespace, overrides: Sequence[str], arguments: Sequence[str]) -> int:
    """Runs `plait compare`: fills the comparison folder and prints its table and its answer."""
    with hold_output(options):
        recipe = load_recipe(options.recipe, parse_overrides(overrides))
        command = format_command(arguments)
        found = compare_models(recipe, command, options.overwrite, options.resume, options.allow_changed_data).content
    page = Path(str(recipe.output_dir)).expanduser() / REPORT_FILE
    lines = [render_table(found), "", render_answer(found), f"saved in {recipe.output_dir}"]
    lines += [f"open {page}"] if page.is_file() else []
    print_results(options, "\n".join(lines), {"output_dir": str(recipe.output_dir), **found})
    return 0
