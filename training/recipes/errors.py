"""Errors of recipes, each with the nearest right key."""

from collections.abc import Iterable, Sequence

from ...configuration.messages import suggest


class RecipeError(ValueError):
    """A recipe that cannot be run; the message is one line for the user."""


def check_keys(keys: Iterable[str], valid: Sequence[str], where: str) -> None:
    """Raises RecipeError: a key that is not valid, with the nearest one."""
    for key in keys:
        if key not in valid:
            raise RecipeError(f"{where} has no key {key!r}{suggest(key, valid)}")


def check_choice(where: str, value: str, valid: Iterable[str]) -> None:
    """Raises RecipeError: a value that is not among the valid ones, with the nearest one."""
    if value not in valid:
        raise RecipeError(f"{where} is {value!r}{suggest(value, valid)}")
