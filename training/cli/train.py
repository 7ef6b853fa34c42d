"""The options of `plait train`."""

from argparse import RawDescriptionHelpFormatter
from typing import Any

from ..recipes.keys import list_shipped_recipes
from .completion import COMPLETE_FILES
from .new import add_table_options
from .options import Commands, add_changed_data, add_launch_options, add_output_options

EPILOG_HEAD = "recipes that come with plait:"
EPILOG_FOOT = """
before a long training: plait doctor RECIPE examines it, its data and the memory it needs
--key value overrides a value of the recipe: --seed 3 --training.learning_rate 1e-4
keys and their meaning: plait keys [recipe | model | data | tokenizer | compare | training | settings]"""


def add_train(commands: Commands) -> None:
    """Adds the parser of `plait train`."""
    parser = commands.add_parser(
        "train",
        help="train a model from a recipe or a table",
        formatter_class=RawDescriptionHelpFormatter,
        description="Train a model from a recipe, or from a table for which a recipe is proposed, and save it\n"
        "with its metrics, a report and a model card in a run folder.",
    )
    recipe: Any = parser.add_argument(
        "recipe",
        help="a YAML file, the name of a recipe that comes with plait, such as translation, or a table: a file (csv, "
        "tsv, parquet, json, jsonl), a folder of these or of one folder a class",
    )
    recipe.complete = COMPLETE_FILES
    add_table_options(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace the run folder if it exists")
    parser.add_argument("--resume", action="store_true", help="resume from the last checkpoint in the run folder")
    add_changed_data(parser)
    add_output_options(parser)
    add_launch_options(parser)
    parser.epilog = format_epilog()


def format_epilog() -> str:
    """Returns the recipes that come with plait, and how their keys are changed."""
    recipes = list_shipped_recipes()
    width = max(map(len, recipes))
    lines = [f"  {name:{width}}  {text}" for name, text in recipes.items()]
    return "\n".join([EPILOG_HEAD, *lines, EPILOG_FOOT])
