"""The parser of `plait`, and of each of its commands."""

import argparse
from collections.abc import Sequence

from ...configuration.version import VERSION
from .check import add_check
from .compare import add_compare
from .completion import SHELLS, PrintCompletion
from .consolidate import add_consolidate
from .doctor import add_doctor
from .evaluate import add_evaluate
from .explain import add_explain
from .export import add_export
from .export_code import add_export_code
from .keys import add_keys
from .merge import add_merge
from .new import add_new
from .predict import add_predict
from .report import add_report
from .search import add_search
from .serve import add_serve
from .space import add_space
from .train import add_train

EPILOG = "Several devices, one process for each: plait train RECIPE --launch ddp (or torchrun, accelerate launch)."
PARSERS = (  # in the order of `plait --help`
    add_train,
    add_new,
    add_doctor,
    add_evaluate,
    add_predict,
    add_search,
    add_explain,
    add_serve,
    add_space,
    add_export,
    add_compare,
    add_check,
    add_export_code,
    add_keys,
    add_report,
    add_merge,
    add_consolidate,
)


def build_parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Builds the parser of `plait` and, by name, those of its commands, which know no override (`split_overrides`)."""
    parser = argparse.ArgumentParser(
        prog="plait", description="Compose towers into one multimodal model, train it and use it.", epilog=EPILOG
    )
    parser.add_argument("--version", action="version", version=f"plait {VERSION}")
    parser.add_argument(
        "--print-completion",
        action=PrintCompletion,
        metavar="SHELL",
        help=f'print a completion script for {", ".join(SHELLS)}: eval "$(plait --print-completion bash)"',
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for add_command in PARSERS:
        add_command(commands)
    for command in commands.choices.values():
        command.add_argument("--traceback", action="store_true", help="show where an error comes from")
    commands.metavar = " | ".join(commands.choices)
    return parser, commands.choices


def split_overrides(arguments: Sequence[str], command: argparse.ArgumentParser) -> tuple[list[str], list[str]]:
    """Splits arguments into those of the command and the `--key value` (or `--key=value`) pairs that change the recipe.

    argparse's parse_known_args would take an override's value for the recipe, and a key for a flag that it abbreviates.
    """
    own: list[str] = []
    overrides: list[str] = []
    flags, rest = command._option_string_actions, list(arguments)
    while rest:
        flag, equals, _ = rest[0].partition("=")
        is_override = flag.startswith("--") and flag not in flags
        takes_value = not equals and (is_override or (flag in flags and flags[flag].nargs != 0))
        part = overrides if is_override else own
        part += rest[: 1 + takes_value]
        del rest[: 1 + takes_value]
    return own, overrides
