"""`plait export`."""

import argparse
from collections.abc import Sequence

from ..exporting.run import main_export
from ..recipes.errors import RecipeError


def run_export(options: argparse.Namespace, overrides: Sequence[str], arguments: Sequence[str]) -> int:
    """Runs `plait export`: writes the graphs, and prints the size of each and how far it is from the model."""
    if overrides:
        raise RecipeError(f"export takes no override, such as {overrides[0]}")
    found = main_export(options.model, options.output, options.to, options.task, options.overwrite)
    for name, difference in found.differences.items():
        size = found.sizes[name] / 2**20
        print(f"{found.folder / name}: {size:.1f} MB, differs from the model by at most {difference:.1e}")
    script = found.folder / "predict.py"
    if script.is_file():
        print(f"try it: python {script} --help")
    return 0
