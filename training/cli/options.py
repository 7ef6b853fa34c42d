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


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Adds --quiet and --json to a command with results."""
    parser.add_argument("--quiet", action="store_true", help="print the results and errors, without progress")
    parser.add_argument(
        "--json", action="store_true", help="print the results as one JSON object; all else goes to the error stream"
    )
