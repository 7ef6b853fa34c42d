"""What several commands share: their output, the data of --data, the command line as text."""

import argparse
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..recipes.errors import RecipeError
from ..recipes.files import parse_overrides
from ..runs.image_output import is_image_output
from ..runs.processes import join_processes
from ..storage.secret_values import hide_secret_arguments


def format_command(arguments: Sequence[str]) -> str:
    """Returns the command line as it is typed, with secrets hidden."""
    return f"plait {shlex.join(hide_secret_arguments(arguments))}"


def check_output_path(output: str | None, overwrite: bool) -> None:
    """Raises RecipeError, before any work, for an output that exists (unless it may be overwritten) or cannot be
    written."""
    if output is None:
        return
    path = Path(output)
    filled = path.is_file() or (path.is_dir() and any(path.iterdir()))
    if filled and not overwrite:
        raise RecipeError(f"--output {output} exists: --overwrite replaces it, or name another")
    folder = path if path.is_dir() else path.parent
    if not folder.is_dir():
        if is_image_output(path):
            return  # images are written with their parents
        raise RecipeError(f"--output {output}: there is no folder {folder}")
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        raise RecipeError(f"--output {output} cannot be written: {error.strerror}") from error


def build_data_overrides(options: argparse.Namespace, overrides: Sequence[str]) -> dict:
    """Returns the changes to a run's recipe; the rows of --data are all read, in the splits that they come in."""
    replaced = {"data.source": options.data, "data.splits": {}, "data.max_rows": None}
    replaced |= {"data.validation_fraction": None, "data.test_fraction": None}
    return {**(replaced if options.data is not None else {}), **parse_overrides(overrides)}


def is_main_process() -> bool:
    """Returns whether this process prints: it is the only one, or the first of several."""
    return join_processes().is_main_process
