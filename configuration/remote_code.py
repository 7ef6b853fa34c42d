"""The code that a saved folder names in its `auto_map`: with `trust_remote_code=True` transformers imports it, and it
imports the installed plait, which registers its classes; without plait, the error says to install it."""

from os import PathLike
from pathlib import Path

MODULE = "load_plait"
FILE_NAME = f"{MODULE}.py"
CODE = '''"""Lets transformers load this folder by plait's classes (trust_remote_code=True): pip install plait"""

from plait import PlaitConfig, PlaitProcessor

__all__ = ["PlaitConfig", "PlaitProcessor"]
'''


def write_remote_code(saved_file: str | PathLike[str]) -> None:
    """Writes the code beside a saved config or processor file."""
    Path(saved_file).with_name(FILE_NAME).write_text(CODE, encoding="utf-8")


def is_remote_code(reference: object) -> bool:
    """Returns whether an entry of an `auto_map`, "[repository--]module.class", names this code."""
    return isinstance(reference, str) and reference.split("--")[-1].split(".")[0] == MODULE
