"""The options of `plait train`."""

from .new import add_table_options
from .options import Commands, add_changed_data


def add_train(commands: Commands) -> None:
    """Adds the parser of `plait train`."""
    parser = commands.add_parser(
        "train",
        help="train a model from a recipe or a table",
        description="Train a model from a recipe, or from a table for which a recipe is proposed, and save it with its "
        "metrics and a model card in a run folder.",
    )
    parser.add_argument(
        "recipe",
        help="a YAML file, the name of a recipe that comes with plait, such as translation, or a table: a file (csv, "
        "tsv, parquet, json, jsonl), a folder of these or of one folder a class",
    )
    add_table_options(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace the run folder if it exists")
    parser.add_argument("--resume", action="store_true", help="resume from the last checkpoint in the run folder")
    add_changed_data(parser)
    parser.epilog = "--key value overrides a value of the recipe: --seed 3 --training.learning_rate 1e-4"
