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


LAUNCH_FLAGS = ("--launch", "--processes", "--machines", "--machine_rank", "--main_address")


def add_launch_options(parser: argparse.ArgumentParser) -> None:
    """Adds the `LAUNCH_FLAGS`, of a command that runs in several processes."""
    group = parser.add_argument_group("several processes (through accelerate)")
    group.add_argument(
        "--launch",
        metavar="CONFIG",
        help="run in several processes: ddp (whole models), fsdp2, zero2 or zero3 (sharded ones), or a file of "
        "`accelerate config`",
    )
    group.add_argument("--processes", type=int, help="processes on all machines together (default: one for each GPU)")
    group.add_argument(
        "--machines", type=int, default=1, help="machines, on each of which the command is run (default: 1)"
    )
    group.add_argument("--machine_rank", type=int, default=0, help="number of this machine, from 0 (default: 0)")
    group.add_argument("--main_address", metavar="HOST:PORT", help="of machine 0, on which the others call it")
