"""The commands of `plait` by name."""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module

Command = Callable[[argparse.Namespace, Sequence[str], Sequence[str]], int]  # options, overrides, command line


class CommandTable(Mapping[str, Command]):
    """The function that runs each command, imported when it is looked up: `run_train` of `train.py` for "train"."""

    def __init__(self, *names: str) -> None:
        self.commands = names

    def __getitem__(self, name: str) -> Command:
        if name not in self.commands:
            raise KeyError(name)
        module = name.replace("-", "_")
        return getattr(import_module(f".{module}", __package__), f"run_{module}")

    def __iter__(self) -> Iterator[str]:
        return iter(self.commands)

    def __len__(self) -> int:
        return len(self.commands)


COMMANDS = CommandTable(
    "train",
    "new",
    "doctor",
    "evaluate",
    "predict",
    "search",
    "explain",
    "serve",
    "space",
    "export",
    "compare",
    "check",
    "export-code",
    "keys",
    "report",
    "merge",
    "consolidate",
)
