"""The options of `plait export-code`."""

from .options import Commands, add_output_options


def add_export_code(commands: Commands) -> None:
    """Adds the parser of `plait export-code`."""
    parser = commands.add_parser(
        "export-code",
        help="write plait's own code beside a model, so that it loads where plait is not installed",
        description="Write the code of a saved model and its processor beside them, generated from the installed "
        "plait: with trust_remote_code=True transformers then loads the folder where plait is not installed.",
    )
    parser.add_argument("folder", metavar="FOLDER", help="a run folder or a model folder")
    parser.add_argument("output", metavar="OUTPUT", nargs="?", help="write a copy of the folder with its code here")
    add_output_options(parser)
