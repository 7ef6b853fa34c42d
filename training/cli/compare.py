"""The options of `plait compare`."""

from .options import Commands, add_changed_data, add_output_options


def add_compare(commands: Commands) -> None:
    """Adds the parser of `plait compare`."""
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
    add_changed_data(parser)
    add_output_options(parser)
    parser.epilog = "--key value overrides a value of the recipe: --compare.folds 5 --compare.fusions '[late, early]'"
