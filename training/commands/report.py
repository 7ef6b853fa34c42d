"""`plait report`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..recipes.errors import RecipeError
from ..reports.comparison import MetricComparison, format_comparison
from ..reports.comparison_page import describe_intervals, save_comparison
from ..runs.reporting import compare_runs, renew_run_report
from .options import check_output_path
from .output import hold_output, print_results


def run_report(options: argparse.Namespace, overrides: Sequence[str], arguments: Sequence[str]) -> int:
    """Runs `plait report`: writes the page of one run, or compares two and prints the table."""
    if overrides:
        raise RecipeError(f"report takes run folders, not {overrides[0]}")
    runs, beside = [[Path(name).expanduser() for name in names] for names in (options.runs, options.beside)]
    if len(runs) == 1 and not beside:
        with hold_output(options):
            page = renew_run_report(runs[0])
        print_results(options, f"open {page}", {"page": str(page)})
        return 0
    if not beside:
        if len(runs) > 2:
            raise RecipeError(
                f"{len(runs)} runs: give two, or the trainings of each model: A1 A2 --beside B1 --beside B2"
            )
        runs, beside = runs[:1], runs[1:]
    return compare_folders(options, runs, beside)


def compare_folders(options: argparse.Namespace, first: list[Path], second: list[Path]) -> int:
    """Compares the trainings of two models and prints the table."""
    names = name_runs(first[0], second[0])
    output = options.output or f"{names[0]}-{names[1]}.html".replace("/", "-")
    check_output_path(output, options.overwrite)
    with hold_output(options):
        found = compare_runs(first, second)
        save_comparison(Path(output), found, names, (len(first), len(second)))
    lines = format_comparison(found, *names)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = ["  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    text = "\n".join([*shown, "", describe_intervals((len(first), len(second))), f"open {output}"])
    print_results(options, text, {"page": output, "metrics": {one.name: describe_metric(one) for one in found}})
    return 0


def describe_metric(found: MetricComparison) -> dict[str, object]:
    """Returns one comparison as plain values."""
    bounds = {name: getattr(found, name).as_dict() for name in ("first", "second", "difference")}
    return {**bounds, "rows": found.rows}


def name_runs(first: Path, second: Path) -> tuple[str, str]:
    """Returns short names of two folders that differ."""
    one, other = first.resolve(), second.resolve()
    if one == other:
        raise RecipeError(f"{first} and {second} are the same folder: name two runs")
    if one.name != other.name:
        return one.name, other.name
    return f"{one.parent.name}/{one.name}", f"{other.parent.name}/{other.name}"
