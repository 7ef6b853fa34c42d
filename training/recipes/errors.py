"""Errors of recipes, which suggest the nearest valid key, and of runs that stop."""

import signal
from collections.abc import Iterable, Sequence

from ...configuration.messages import suggest


class RecipeError(ValueError):
    """A recipe cannot be run; the message is a single line for the user."""


class RunError(ValueError):
    """A run stopped and cannot continue; the message is a single line for the user, with what is left of the run."""


class RunInterrupted(KeyboardInterrupt):
    """A run was stopped by a signal, such as that of Ctrl-C.

    number: of the signal; step: the step of the checkpoint that was saved then (None: none was).
    """

    def __init__(self, number: int, message: str = "", step: int | None = None) -> None:
        super().__init__(message or f"stopped by {signal.Signals(number).name}")
        self.number, self.step = number, step

    @property
    def exit_code(self) -> int:
        """The exit code by the convention of shells: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.number


def check_keys(keys: Iterable[str], valid: Sequence[str], where: str) -> None:
    """Raises RecipeError for a key that is not valid, and suggests the nearest valid one."""
    for key in keys:
        if key not in valid:
            hint = suggest(key, valid) if valid else ": it takes none, leave it out"
            raise RecipeError(f"{where} has no key {key!r}{hint}")


def check_choice(where: str, value: str, valid: Iterable[str]) -> None:
    """Raises RecipeError for a value that is not valid, and suggests the nearest valid one."""
    if value not in valid:
        raise RecipeError(f"{where} is {value!r}{suggest(value, valid)}")
