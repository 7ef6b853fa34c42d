"""`plait consolidate`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..launching.consolidating import consolidate
from ..recipes.errors import RecipeError


def run_consolidate(options: argparse.Namespace, overrides: Sequence[str], arguments: Sequence[str]) -> int:
    """Runs `plait consolidate`: saves the model of a sharded checkpoint as a plain folder, and prints where."""
    if overrides:
        raise RecipeError(f"consolidate takes folders alone, not {overrides[0]}")
    output = Path(options.output).expanduser()
    folder = consolidate(Path(options.checkpoint).expanduser(), output)
    print(f"{output}: the model of {folder}, in one piece")
    return 0
