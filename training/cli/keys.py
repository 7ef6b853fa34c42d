"""The options of `plait keys`."""

from .options import Commands

SECTION_HINTS = {
    "recipe": "the top of a recipe",
    "model": "towers, fusion, decoder",
    "data": "source, columns, splits, labels",
    "tokenizer": "of newly initialized text towers",
    "compare": "what plait compare trains",
    "training": "fields of PlaitTrainingArguments",
    "settings": "of each task",
}


def add_keys(commands: Commands) -> None:
    """Adds the parser of `plait keys`."""
    hints = ", ".join(f"{name} ({meaning})" for name, meaning in SECTION_HINTS.items())
    parser = commands.add_parser(
        "keys",
        help="list the keys of a recipe and what they mean",
        description="List the keys of a recipe: their types, defaults and meaning.",
    )
    parser.add_argument(
        "section",
        nargs="?",
        choices=tuple(SECTION_HINTS),
        metavar="SECTION",
        help=f"{hints}; default: all but the last two",
    )
    parser.epilog = "Example: plait keys data"
