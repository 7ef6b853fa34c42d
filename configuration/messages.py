"""Wording that the errors of all packages share."""

from collections.abc import Iterable
from difflib import get_close_matches


def suggest(name: object, valid: Iterable[str]) -> str:
    """Returns the end of an error about an unknown name: the nearest valid name or, if none is near, all of them."""
    names = list(valid)
    return suggest_nearest(name, names) or f"; choose from {', '.join(names)}"


def suggest_nearest(name: object, valid: Iterable[str]) -> str:
    """Returns "; did you mean 'x'?" with the nearest valid name, or "" if none is near."""
    near = get_close_matches(str(name), list(valid), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def to_one_line(error: BaseException) -> str:
    """Returns the message of an error on one line."""
    return " ".join(str(error).split())
