"""The command `plait`: train, evaluate, predict, compare."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

FLAGS = {
    "train": {"--help", "--overwrite", "--resume"},
    "compare": {"--help", "--overwrite", "--resume"},
    "evaluate": {"--help", "--data", "--split", "--output", "--intervals", "--beside"},
    "predict": {"--help", "--data", "--output", "--text", "--image", "--context", "--batch-size"},
}
SWITCHES = {"--help", "--overwrite", "--resume", "--intervals"}
EPILOG = "Run one process a device with: torchrun --nproc_per_node 2 -m plait train RECIPE, or accelerate launch."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, or 2 for what the user has to mend."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    own, rest = split_overrides(given)
    options = make_parser().parse_args(own)
    from .recipes.schema import RecipeError

    try:
        return COMMANDS[options.command](options, rest, given)
    except RecipeError as error:
        print(f"plait {options.command}: {error}", file=sys.stderr)
        return 2


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The command's own arguments, and the `--key value` pairs (or `--key=value`) that change the recipe."""
    own: list[str] = []
    overrides: list[str] = []
    rest = list(arguments)
    flags = next((FLAGS[argument] for argument in arguments if argument in FLAGS), {"--help"})
    while rest:
        argument = rest.pop(0)
        flag, equals, _ = argument.partition("=")
        if not flag.startswith("--") or flag in flags:
            own.append(argument)
            if flag in flags - SWITCHES and not equals and rest:
                own.append(rest.pop(0))
            continue
        overrides += [argument] if equals or not rest else [argument, rest.pop(0)]
    return own, overrides


def make_parser() -> argparse.ArgumentParser:
    """The options; whatever else is given as --key value changes the recipe."""
    parser = argparse.ArgumentParser(
        prog="plait", description="Braid towers into one model and train it.", epilog=EPILOG
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar=" | ".join(COMMANDS))
    _add_train(commands)
    _add_evaluate(commands)
    _add_predict(commands)
    _add_compare(commands)
    return parser


def train(options: argparse.Namespace, rest: Sequence[str], given: Sequence[str]) -> int:
    """`plait train`: fill the run folder and print each metric beside the baselines."""
    from .recipes.schema import load_recipe, parse_overrides
    from .runs.train import report
    from .runs.train import train as run

    recipe = load_recipe(options.recipe, parse_overrides(rest))
    results = run(recipe, f"plait {shlex.join(given)}", options.overwrite, options.resume)
    if is_main_process():
        print(report(results))
        print(f"saved in {recipe.output_dir}")
    return 0


def evaluate(options: argparse.Namespace, rest: Sequence[str], given: Sequence[str]) -> int:
    """`plait evaluate`: print a model's metrics on some data."""
    from .metrics.per_row import lines
    from .recipes.schema import RecipeError
    from .runs.evaluate import evaluate as measure
    from .runs.evaluate import evaluate_rows, recipe_of
    from .runs.train import write_json

    recipe = recipe_of(options.model, data_overrides(options, rest))
    if recipe.data.source is None:
        raise RecipeError(f"{options.model} is no run folder with data of its own: give --data")
    if options.intervals or options.beside:
        scores, intervals = evaluate_rows(options.model, recipe, options.split, options.beside)
    else:
        scores, intervals = measure(options.model, recipe, options.split), {}
    if is_main_process():
        print("\n".join(f"{name}={value:.6g}" for name, value in scores.items()))
        if intervals:
            print(f"with 95 % intervals over the rows:\n{lines(intervals)}")
        if options.output is not None:
            write_json(Path(options.output), {**scores, "intervals": intervals} if intervals else scores)
    return 0


def predict(options: argparse.Namespace, rest: Sequence[str], given: Sequence[str]) -> int:
    """`plait predict`: answers for texts and pictures of the command line, or for the rows of a file."""
    from .runs.evaluate import data_rows, recipe_of, rows_of, write_predictions
    from .runs.evaluate import predict as answer
    from .tasks.registry import find_task

    recipe = recipe_of(options.model, data_overrides(options, rest))
    asked = {"text": options.text, "image": options.image, "context": options.context}
    rows = data_rows(recipe) if options.data is not None else rows_of(find_task(recipe.task), asked)
    output = None if options.output is None else Path(options.output)
    count = write_predictions(rows, answer(options.model, rows, recipe, options.batch_size), output)
    if output is not None:
        print(f"{count} predictions in {output}")
    return 0


def compare(options: argparse.Namespace, rest: Sequence[str], given: Sequence[str]) -> int:
    """`plait compare`: fill the comparison's folder and print its table."""
    from .compare.comparison import compare as run
    from .compare.report import answer, table
    from .recipes.schema import load_recipe, parse_overrides

    recipe = load_recipe(options.recipe, parse_overrides(rest))
    comparison = run(recipe, f"plait {shlex.join(given)}", options.overwrite, options.resume)
    print(f"{table(comparison.content)}\n\n{answer(comparison.content)}\nsaved in {recipe.output_dir}")
    return 0


COMMANDS = {"train": train, "evaluate": evaluate, "predict": predict, "compare": compare}


def data_overrides(options: argparse.Namespace, rest: Sequence[str]) -> dict:
    """The changes to a run's own recipe: other data are read by their own splits, whole."""
    from .recipes.schema import parse_overrides

    replaced = {"data.source": options.data, "data.splits": {}, "data.max_rows": None}
    replaced |= {"data.validation_fraction": None, "data.test_fraction": None}
    return {**(replaced if options.data is not None else {}), **parse_overrides(rest)}


def is_main_process() -> bool:
    """Whether this process prints; alone, or the first of several."""
    from accelerate import PartialState

    return PartialState().is_main_process


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
