"""`plait export-code`."""

import argparse
from collections.abc import Sequence

from ...configuration.remote_code.export import export_code
from ..recipes.errors import RecipeError
from .output import hold_output, print_results


def run_export_code(options: argparse.Namespace, overrides: Sequence[str], arguments: Sequence[str]) -> int:
    """Runs `plait export-code`: writes the code beside a model, and prints its files and the classes that load it."""
    if overrides:
        raise RecipeError(f"export-code takes folders alone, not {overrides[0]}")
    with hold_output(options):
        try:
            found = export_code(options.folder, options.output)
        except ValueError as error:
            raise RecipeError(str(error)) from error
    sizes = ", ".join(f"{name} ({size / 1000:.0f} kB)" for name, size in found.files.items())
    lines = [f"{found.folder}: {sizes}", "classes that load it with trust_remote_code=True:"]
    lines += [f"  {auto} -> {code.partition('.')[2]}" for auto, code in found.auto_map.items()]
    print_results(options, "\n".join(lines), {**found._asdict(), "folder": str(found.folder)})
    return 0
