"""The options of `plait doctor`."""

from .new import add_table_options
from .options import Commands, add_output_options, add_overwrite


def add_doctor(commands: Commands) -> None:
    """Adds the parser of `plait doctor`."""
    parser = commands.add_parser(
        "doctor",
        help="examine a recipe and its data before training",
        description="Examine a recipe, or a table, before any training: parts, memory, labels, inputs, leakage between "
        "splits, settings, and whether a copy of the model learns a single batch. Nothing of yours is changed. Exit "
        "code 1: there is an error.",
    )
    parser.add_argument("recipe", help="a recipe or a table, as of plait train")
    add_table_options(parser)
    parser.add_argument(
        "--all", action="store_true", help="read every image, audio clip and video (default: a sample of each split)"
    )
    parser.add_argument(
        "--output", metavar="FOLDER", help="write a page with rows as the model reads them, and their images, here"
    )
    add_overwrite(parser)
    add_output_options(parser)
    parser.epilog = "--key value overrides a value of the recipe, as of plait train: --training.learning_rate 1e-4"
