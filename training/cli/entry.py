"""Runs the command line of plait."""

import os
import signal
import sys
import traceback
from collections.abc import Sequence

from ... import training
from ...configuration.messages import to_one_line
from ..recipes.errors import RecipeError, RunError, RunInterrupted
from ..streams.heap import keep_freed_memory
from .options import LAUNCH_FLAGS
from .parsers import build_parsers, split_overrides

COMPUTING_COMMANDS = ("train", "compare", "evaluate", "predict")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code: 0; 2 after a RecipeError, which the user can correct; 1 after a
    run that stopped; 128 plus the number of a signal that stopped it (Ctrl-C: 130). Errors are a line without a
    traceback, unless `--traceback` is given."""
    command_line = list(sys.argv[1:] if arguments is None else arguments)
    parser, commands = build_parsers()
    command = next((commands[argument] for argument in command_line if argument in commands), parser)
    own, overrides = split_overrides(command_line, command)
    options = parser.parse_args(own)
    if getattr(options, "quiet", False):
        os.environ["TQDM_DISABLE"] = "1"  # read when tqdm is imported, with the command below
    if arguments is None and options.command in COMPUTING_COMMANDS:
        keep_freed_memory()  # this process is plait's own
    try:
        if getattr(options, "launch", None) is not None:
            return training.run_launched(options, command_line, LAUNCH_FLAGS)
        return training.COMMANDS[options.command](options, overrides, command_line)
    except (RecipeError, RunError, OSError, KeyboardInterrupt) as error:
        if options.traceback:
            traceback.print_exception(error)
        print(f"plait {options.command}: {to_one_line(error) or 'interrupted'}", file=sys.stderr)
        if isinstance(error, KeyboardInterrupt):
            return error.exit_code if isinstance(error, RunInterrupted) else 128 + signal.SIGINT
        return 2 if isinstance(error, RecipeError) else 1
