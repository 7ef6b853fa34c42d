"""The command line of plait: one file for the options of each command. Imports nothing heavy: help is printed at once.

A command is a file here (its options), a line in `parsers.py`, a file in `commands/` (its run function) and a line in
`commands/registry.py`.
"""

from .entry import main
from .parsers import build_parsers, split_overrides

__all__ = ["build_parsers", "main", "split_overrides"]
