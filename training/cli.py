"""The command line of plait: train, evaluate, predict, explain, compare, check."""

import argparse
import signal
import sys
import traceback
from collections.abc import Sequence

from .. import training
from ..configuration.messages import to_one_line
from .recipes.errors import RecipeError, RunError, RunInterrupted

EPILOG = (
    "Several devices, one process for each: torchrun --nproc_per_node 2 -m plait train RECIPE, or accelerate launch."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code: 0; 2 after a RecipeError, which the user can correct; 1 after a
    run that stopped; 128 plus the number of a signal that stopped it (Ctrl-C: 130). Errors are a line without a
    traceback, unless `--traceback` is given."""
    command_line = list(sys.argv[1:] if arguments is None else arguments)
    parser, commands = build_parsers()
    command = next((commands[argument] for argument in command_line if argument in commands), parser)
    own, overrides = split_overrides(command_line, command)
    options = parser.parse_args(own)
    try:
        return training.COMMANDS[options.command](options, overrides, command_line)
    except (RecipeError, RunError, OSError, KeyboardInterrupt) as error:
        if options.traceback:
            traceback.print_exception(error)
        print(f"plait {options.command}: {to_one_line(error) or 'interrupted'}", file=sys.stderr)
        if isinstance(error, KeyboardInterrupt):
            return error.exit_code if isinstance(error, RunInterrupted) else 128 + signal.SIGINT
        return 2 if isinstance(error, RecipeError) else 1


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


def build_parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Builds the parser of `plait` and, by name, those of its commands, which know no override (`split_overrides`)."""
    parser = argparse.ArgumentParser(
        prog="plait", description="Compose towers into one multimodal model, train it and use it.", epilog=EPILOG
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _add_train(commands)
    _add_evaluate(commands)
    _add_predict(commands)
    _add_explain(commands)
    _add_compare(commands)
    _add_check(commands)
    for command in commands.choices.values():
        command.add_argument("--traceback", action="store_true", help="show where an error comes from")
    commands.metavar = " | ".join(commands.choices)
    return parser, commands.choices


def _add_train(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "train",
        help="train a model from a recipe",
        description="Train a model from a recipe and save it with its metrics and a model card in a run folder.",
    )
    parser.add_argument(
        "recipe", help="a YAML file, or the name of a recipe that comes with plait, such as translation"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the run folder if it exists")
    parser.add_argument("--resume", action="store_true", help="resume from the last checkpoint in the run folder")
    _add_changed_data(parser)
    parser.epilog = "--key value overrides a value of the recipe: --seed 3 --training.learning_rate 1e-4"


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("evaluate", help="measure a model on data", description="Measure a model on data.")
    parser.add_argument("model", help="a run folder, a model folder or a Hub id")
    parser.add_argument(
        "--data", help="a file, a folder, a Hub id or a registered source (default: the data of the run)"
    )
    parser.add_argument("--split", help="the split to measure on (default: test, else validation, else train)")
    parser.add_argument("--output", help="also write the metrics to this JSON file")
    _add_overwrite(parser)
    parser.add_argument(
        "--intervals",
        action="store_true",
        help="also print 95 %% bootstrap intervals and differences from the baselines",
    )
    parser.add_argument(
        "--beside",
        action="append",
        default=[],
        metavar="MODEL",
        help="also evaluate MODEL on the same rows and print paired differences; may be repeated",
    )
    parser.epilog = (
        "--key value overrides a value of the run's recipe: --data.columns.text question --metrics '[accuracy]'"
    )


def _add_predict(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "predict",
        help="answer or generate with a model",
        description="Print a model's predictions for texts and images, or for the rows of a data set.",
    )
    parser.add_argument("model", help="a run folder, a model folder or a Hub id")
    parser.add_argument("--text", action="append", default=[], help="a text, question or prompt; may be repeated")
    parser.add_argument("--image", action="append", default=[], help="an image file; may be repeated")
    parser.add_argument("--audio", action="append", default=[], help="an audio file; may be repeated")
    parser.add_argument(
        "--context", action="append", default=[], help="the text that holds a question's answer; may be repeated"
    )
    parser.add_argument("--data", help="predict for the rows of a file, a folder, a Hub id or a registered source")
    parser.add_argument(
        "--output",
        help="write to this .jsonl or .csv file (default: print lines of JSON); for generated images also a .png file, "
        "a grid of them, or a folder",
    )
    _add_overwrite(parser)
    parser.add_argument("--num-images", type=int, default=1, help="images to generate for each row (default: 1)")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.epilog = "--key value overrides a value of the run's recipe: --generation.num_beams 5 --max_length 256"


def _add_explain(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "explain",
        help="explain the answers of a model",
        description="Explain a model's answers for the rows of a data set: which words, pixels, moments and frames add "
        "to their scores, and write a page to look at. Orange adds to a score, purple takes from it.",
    )
    parser.add_argument("model", help="a run folder, a model folder or a Hub id")
    parser.add_argument(
        "--data", help="a file, a folder, a Hub id or a registered source (default: the data of the run)"
    )
    parser.add_argument("--output", required=True, help="the folder to write; it must not exist, or be empty")
    parser.add_argument("--rows", type=int, default=20, help="explain at most this many rows (default: 20)")
    parser.add_argument("--target", help="what to explain, such as a class (default: what the model predicts)")
    parser.add_argument("--method", help="see plait.explain (default: its default; with --check the best believed)")
    parser.add_argument(
        "--check", action="store_true", help="also check which methods can be believed for this model and these rows"
    )
    parser.add_argument("--modalities", action="store_true", help="also compute what each modality adds")
    parser.add_argument(
        "--absence",
        choices=("shuffled", "blank", "absent"),
        default="shuffled",
        help="what stands for an absent modality: its value in other rows (default), an input without content, or none",
    )
    parser.epilog = "--key value overrides a value of the run's recipe: --data.columns.text question"


def _add_compare(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "compare",
        help="compare fusions with single modalities",
        description="Train every single modality and every fusion under one budget and compare them: does fusion help?",
    )
    parser.add_argument(
        "recipe", help="a YAML file with a section `compare`, or the name of a recipe that comes with plait"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the comparison folder if it exists")
    parser.add_argument("--resume", action="store_true", help="keep the finished trainings and run the others")
    _add_changed_data(parser)
    parser.epilog = "--key value overrides a value of the recipe: --compare.folds 5 --compare.fusions '[late, early]'"


def _add_overwrite(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--overwrite", action="store_true", help="replace the file of --output if it exists")


def _add_changed_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow_changed_data", action="store_true", help="resume with other data than the run was started with"
    )


def _add_check(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "check",
        help="check that a folder is as it was saved",
        description="Read every file of a model, a run with its checkpoints, or cached features, and print what is "
        "damaged: checksums, tensors, numbers that are not finite, files that do not load. Exit code 1: something is.",
    )
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="a run folder, a model folder or a feature cache")
