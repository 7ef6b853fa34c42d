"""`plait doctor`."""

import argparse
from collections.abc import Sequence
from functools import partial

from ..diagnosis.doctor import doctor
from ..recipes.files import parse_overrides
from .new import split_inputs
from .options import check_output_path
from .output import hold_output, print_results


def run_doctor(options: argparse.Namespace, overrides: Sequence[str], arguments: Sequence[str]) -> int:
    """Runs `plait doctor`: prints what is found, line by line; the exit code is 1 if there is an error."""
    check_output_path(options.output, options.overwrite)
    with hold_output(options):
        found = doctor(
            options.recipe,
            parse_overrides(overrides),
            target=options.target,
            inputs=split_inputs(options.inputs),
            all_rows=options.all,
            output=options.output,
            show=partial(print, flush=True),
        )
    shown = found.describe() if options.quiet else found.format_summary()
    print_results(options, shown, found.as_dict())
    return 0 if found.is_sound else 1
