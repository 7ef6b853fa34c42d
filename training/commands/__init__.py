"""The commands of `plait`: what each of them runs and prints, one file each."""

from .registry import COMMANDS
from .train import run_recipe

__all__ = ["COMMANDS", "run_recipe"]
