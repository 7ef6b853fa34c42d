"""`plait --print-completion`: a script that completes plait's commands and options in a shell."""

import argparse
from collections.abc import Sequence
from typing import Any

SHELLS = ("bash", "zsh", "tcsh")
COMPLETE_FILES = {"bash": "_shtab_compgen_files", "zsh": "_files", "tcsh": "f"}  # an argument's `complete`, for shtab


class PrintCompletion(argparse.Action):
    """Prints the completion script of a shell, made by shtab, and ends."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        if values not in SHELLS:
            parser.error(f"{option_string} {values}: choose one of {', '.join(SHELLS)}")
        try:
            import shtab
        except ImportError:
            parser.error(f"{option_string} needs shtab: pip install shtab")
        print(shtab.complete(parser, shell=str(values)))
        parser.exit()
