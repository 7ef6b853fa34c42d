"""The commands of `plait`: what each of them runs and prints, one file each, imported when it runs."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .registry import COMMANDS
    from .train import run_recipe

LAZY = {"COMMANDS": ".registry", "run_recipe": ".train"}

__all__ = ["COMMANDS", "run_recipe"]


def __getattr__(name: str) -> object:
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(LAZY[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *LAZY})
