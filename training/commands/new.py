"""`plait new`."""

import argparse
from collections.abc import Sequence

from ..proposals.fit import propose_recipe
from ..proposals.writing import write_commented_recipe
from ..recipes.files import parse_overrides
from .options import is_main_process


def run_new(options: argparse.Namespace, overrides: Sequence[str], arguments: Sequence[str]) -> int:
    """Runs `plait new`: prints a recipe for a table, with its reasons."""
    proposal, _ = propose_recipe(options.data, options.target, split_inputs(options.inputs), parse_overrides(overrides))
    if is_main_process() and proposal is not None:
        print(write_commented_recipe(proposal), end="")
    return 0


def split_inputs(names: str | None) -> list[str] | None:
    """Returns the columns of --inputs; None if it is not given."""
    return None if names is None else [name.strip() for name in names.split(",") if name.strip()]
