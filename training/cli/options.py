"""Options that several commands have."""

import argparse

Commands = argparse._SubParsersAction


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    """Adds --overwrite to a command that writes --output."""
    parser.add_argument("--overwrite", action="store_true", help="replace the file of --output if it exists")


def add_changed_data(parser: argparse.ArgumentParser) -> None:
    """Adds --allow_changed_data to a command that resumes."""
    parser.add_argument(
        "--allow_changed_data", action="store_true", help="resume with other data than the run was started with"
    )
