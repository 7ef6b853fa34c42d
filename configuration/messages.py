"""Words that the errors of all layers share."""

from collections.abc import Iterable
from difflib import get_close_matches


def suggest(name: object, valid: Iterable[str]) -> str:
    """Returns the end of an error about an unknown name: the nearest valid name, or all of them where none is near."""
    names = list(valid)
    return suggest_nearest(name, names) or f"; there are {', '.join(names)}"


def suggest_nearest(name: object, valid: Iterable[str]) -> str:
    """Returns "; did you mean 'x'?" with the nearest valid name, or nothing where none is near."""
    near = get_close_matches(str(name), list(valid), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def to_one_line(error: BaseException) -> str:
    """Returns the message of an error without line breaks."""
    return " ".join(str(error).split())
