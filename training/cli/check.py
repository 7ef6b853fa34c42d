"""The options of `plait check`."""

from .options import Commands, add_output_options


def add_check(commands: Commands) -> None:
    """Adds the parser of `plait check`."""
    parser = commands.add_parser(
        "check",
        help="check that a folder is as it was saved",
        description="Read every file of a model, a run with its checkpoints, or cached features, and print what is "
        "damaged: checksums, tensors, numbers that are not finite, files that do not load. Exit code 1: something is.",
    )
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="a run folder, a model folder or a feature cache")
    add_output_options(parser)
