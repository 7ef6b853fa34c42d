"""The command `plait`: train, evaluate, predict, compare."""

import argparse
import sys
from collections.abc import Sequence

from .. import training
from .recipes.errors import RecipeError

EPILOG = "Run one process a device with: torchrun --nproc_per_node 2 -m plait train RECIPE, or accelerate launch."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, or 2 for what the user has to mend."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser, commands = build_parsers()
    command = next((commands[argument] for argument in given if argument in commands), parser)
    own, overrides = split_overrides(given, command)
    options = parser.parse_args(own)
    try:
        return training.COMMANDS[options.command](options, overrides, given)
    except RecipeError as error:
        print(f"plait {options.command}: {error}", file=sys.stderr)
        return 2


def split_overrides(arguments: Sequence[str], command: argparse.ArgumentParser) -> tuple[list[str], list[str]]:
    """Splits arguments into the command's own and the `--key value` pairs (or `--key=value`) that change the recipe.

    argparse's parse_known_args would take the value of an override for the recipe, or for a flag where they are alike.
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


def build_parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Builds the parser of `plait`, and those of its commands by name; what else is given changes the recipe."""
    parser = argparse.ArgumentParser(
        prog="plait", description="Braid towers into one model and train it.", epilog=EPILOG
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _add_train(commands)
    _add_evaluate(commands)
    _add_predict(commands)
    _add_compare(commands)
    commands.metavar = " | ".join(commands.choices)
    return parser, commands.choices


def _add_train(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "train",
        help="train from a recipe",
        description="Train from a recipe: a yaml file, or a name: translation, ...",
    )
    parser.add_argument("recipe", help="a yaml file, or the name of a recipe that comes with plait")
    parser.add_argument("--overwrite", action="store_true", help="replace the run folder if it exists")
    parser.add_argument("--resume", action="store_true", help="go on from the run folder's last checkpoint")
    parser.epilog = "--key value overrides the recipe: --seed 3 --training.learning_rate 1e-4"


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("evaluate", help="measure a model", description="Measure a model on some data.")
    parser.add_argument("model", help="a run folder, a model folder or a Hub id")
    parser.add_argument("--data", help="a file, folder, Hub id or registered source; default: the run's own")
    parser.add_argument("--split", help="default: test, else validation, else the only one")
    parser.add_argument("--output", help="also write the metrics to this JSON file")
    parser.add_argument(
        "--intervals", action="store_true", help="95 %% bootstrap intervals over the rows, paired with the baselines"
    )
    parser.add_argument("--beside", action="append", default=[], metavar="MODEL", help="the same, and this model")
    parser.epilog = "--key value overrides the run's recipe: --data.columns.text question --metrics '[accuracy]'"


def _add_predict(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("predict", help="ask a model", description="Ask a model.")
    parser.add_argument("model", help="a run folder, a model folder or a Hub id")
    parser.add_argument("--text", action="append", default=[], help="a text, question or prompt; also several times")
    parser.add_argument("--image", action="append", default=[], help="a picture file; may be given several times")
    parser.add_argument("--context", action="append", default=[], help="where a question's answer stands; likewise")
    parser.add_argument("--data", help="rows from a file, folder, Hub id or registered source instead")
    parser.add_argument("--output", help="a .jsonl or .csv file; default: lines of JSON on the console")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.epilog = "--key value overrides the run's recipe: --generation.num_beams 5 --max_length 256"


def _add_compare(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "compare",
        help="does fusion help, and which?",
        description="Train every modality alone and every fusion under one budget, and compare them.",
    )
    parser.add_argument("recipe", help="a yaml file with a section `compare`, or the name of a recipe of plait's own")
    parser.add_argument("--overwrite", action="store_true", help="replace the comparison's folder if it exists")
    parser.add_argument("--resume", action="store_true", help="keep its finished trainings and do the others")
    parser.epilog = "--key value overrides the recipe: --compare.folds 5 --compare.fusions '[late, early]'"
