"""The options of `plait merge`."""

from .options import Commands


def add_merge(commands: Commands) -> None:
    """Adds the parser of `plait merge`."""
    parser = commands.add_parser(
        "merge",
        help="add the adapters of a run to the weights, as a model folder",
        description="Load the model of a run with adapters (the recipe's key lora), or of a folder that peft saved, "
        "add the adapters to the weights that they belong to, and save the whole model with its processor in another "
        "folder. The folder of the adapters stays as it is.",
    )
    parser.add_argument("folder", help="a folder of adapters")
    parser.add_argument("output", nargs="?", help="the folder to write; it must not exist (default: FOLDER-merged)")
