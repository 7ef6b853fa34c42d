"""`plait explain`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..recipes.errors import RecipeError
from ..runs.explain import ExplainOptions, explain_data
from ..runs.loading import load_model_recipe
from .options import build_data_overrides


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
