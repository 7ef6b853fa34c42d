"""Errors of recipes, each with the nearest right key."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class RecipeError(ValueError):
    """A recipe that cannot be run; the message is one line for the user."""


def check_keys(keys: Iterable[str], valid: Sequence[str], where: str) -> None:
    """Raises RecipeError: a key that is not valid, with the nearest one."""
    for key in keys:
        if key not in valid:
            raise RecipeError(f"{where} has no key {key!r}{_format_hint(key, valid)}")


def check_choice(where: str, value: str, valid: Iterable[str]) -> None:
    """Raises RecipeError: a value that is not among the valid ones, with the nearest one."""
    if value not in valid:
        raise RecipeError(f"{where} is {value!r}{_format_hint(value, list(valid))}")


def _format_hint(key: object, valid: Sequence[str]) -> str:
    near = get_close_matches(str(key), valid, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(valid)}"
