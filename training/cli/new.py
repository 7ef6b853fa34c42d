"""The options of `plait new`, and those that it shares with `plait train`."""

import argparse

from .options import Commands


def add_new(commands: Commands) -> None:
    """Adds the parser of `plait new`."""
    parser = commands.add_parser(
        "new",
        help="write a recipe for a table",
        description="Look at a table, find out what it holds and what can be learned from it, and print a recipe for "
        "it, with the reasons as comments. Nothing is trained.",
    )
    parser.add_argument(
        "data", help="a file (csv, tsv, parquet, json, jsonl), a folder of these or of one folder a class, or a Hub id"
    )
    add_table_options(parser)
    parser.epilog = "--key value sets a value of the recipe: plait new data.csv --model.text NAME > recipe.yaml"


def add_table_options(parser: argparse.ArgumentParser) -> None:
    """Adds what is said of a table: its target, and the columns to read."""
    parser.add_argument(
        "--target", metavar="COLUMN", help="of a table: the column to predict (default: label, target or class)"
    )
    parser.add_argument(
        "--inputs",
        metavar="COLUMNS",
        help="of a table: the columns to read, with commas between (default: all images, audio, videos and texts)",
    )
