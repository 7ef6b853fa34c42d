"""Errors of recipes, which suggest the nearest valid key."""

from collections.abc import Iterable, Sequence

from ...configuration.messages import suggest


class RecipeError(ValueError):
    """A recipe cannot be run; the message is a single line for the user."""


def check_keys(keys: Iterable[str], valid: Sequence[str], where: str) -> None:
    """Raises RecipeError for a key that is not valid, and suggests the nearest valid one."""
    for key in keys:
        if key not in valid:
            raise RecipeError(f"{where} has no key {key!r}{suggest(key, valid)}")


def check_choice(where: str, value: str, valid: Iterable[str]) -> None:
    """Raises RecipeError for a value that is not valid, and suggests the nearest valid one."""
    if value not in valid:
        raise RecipeError(f"{where} is {value!r}{suggest(value, valid)}")
