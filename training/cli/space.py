"""The options of `plait space`."""

from .options import Commands


def add_space(commands: Commands) -> None:
    """Adds the parser of `plait space`."""
    parser = commands.add_parser(
        "space",
        help="write the files of a Hugging Face Space for a model",
        description="Write app.py, requirements.txt and README.md of a Hugging Face Space that serves a model, with "
        "the model (a folder; a model of the Hub is named by its id) and plait itself. Nothing is uploaded.",
    )
    parser.add_argument("model", help="a run folder, a model folder or a Hub id")
    parser.add_argument("folder", help="the folder to write; it must not exist, or be empty")
    parser.add_argument("--api", action="store_true", help="also serve the answers as JSON, under named endpoints")
