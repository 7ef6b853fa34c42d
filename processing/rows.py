"""The rows of a batch: as many of every input, and how many images each has."""

from collections.abc import Sequence
from typing import Any


def image_counts(
    texts: list[str | None], pictures: list[list[Any]] | None, given: Sequence[int] | None
) -> Sequence[int]:
    """How many images every row has."""
    if given is None:
        return [sum(picture is not None for picture in row) for row in pictures or [[] for _ in texts]]
    if pictures is not None or len(given) != len(texts):
        raise ValueError(
            f"num_images has {len(given)} rows, text {len(texts)}: pass one number a row, and no images beside it"
        )
    return given


def check_company(name: str, value: Any, **company: Any) -> None:
    """Raises ValueError for something that means nothing without this input."""
    for other, given in company.items():
        if value is None and given is not None:
            raise ValueError(f"{other} was passed without {name}")


def check_rows(inputs: dict[str, list[Any] | None]) -> None:
    """All inputs are of the same rows."""
    lengths = {name: len(rows) for name, rows in inputs.items() if rows is not None}
    if not lengths:
        raise ValueError("pass text, images, audio, videos, or several of them")
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} has {length} rows" for name, length in lengths.items())
        raise ValueError(
            f"{found}: pass one entry a row (None for a row without one; several pictures or clips of one row are a "
            "list within the list, [[a, b], [c]])"
        )
