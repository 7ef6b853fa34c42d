"""`plait check`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..recipes.errors import RecipeError
from ..runs.check import check_folder


def run_check(options: argparse.Namespace, overrides: Sequence[str], arguments: Sequence[str]) -> int:
    """Runs `plait check`: prints what is damaged in folders; the exit code is 1 if anything is."""
    if overrides:
        raise RecipeError(f"check takes folders alone, not {overrides[0]}")
    found = 0
    for folder in options.folders:
        problems, parts, unsummed = check_folder(Path(folder))
        found += len(problems)
        print("\n".join(problems) if problems else f"{folder}: whole ({len(parts)} folders read)")
        if unsummed:
            print(f"{folder}: {len(unsummed)} files were saved without checksums, so flipped bits in them are not seen")
    return 1 if found else 0
