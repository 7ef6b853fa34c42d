"""`plait check`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..recipes.errors import RecipeError
from ..runs.check import check_folder
from .output import hold_output, print_results


def run_check(options: argparse.Namespace, overrides: Sequence[str], arguments: Sequence[str]) -> int:
    """Runs `plait check`: prints what is damaged in folders; the exit code is 1 if anything is."""
    if overrides:
        raise RecipeError(f"check takes folders alone, not {overrides[0]}")
    with hold_output(options):
        reports = {folder: check_folder(Path(folder)) for folder in options.folders}
    lines = []
    for folder, (problems, parts, unsummed) in reports.items():
        lines += problems or [f"{folder}: whole ({len(parts)} folders read)"]
        if unsummed:
            lines.append(
                f"{folder}: {len(unsummed)} files were saved without checksums, so flipped bits in them are not seen"
            )
    print_results(options, "\n".join(lines), {folder: report._asdict() for folder, report in reports.items()})
    return 1 if any(report.problems for report in reports.values()) else 0
