"""The rows of a batch: as many of every input, and how many images each has."""

from collections.abc import Sequence
from typing import Any


def count_images(
    texts: list[str | None], images: list[list[Any]] | None, num_images: Sequence[int] | None
) -> Sequence[int]:
    """How many images every row has."""
    if num_images is None:
        return [sum(picture is not None for picture in row) for row in images or [[] for _ in texts]]
    if images is not None or len(num_images) != len(texts):
        raise ValueError(
            f"num_images has {len(num_images)} rows, text {len(texts)}: pass one number a row, and no images beside it"
        )
    return num_images


def check_required_input(name: str, value: Any, **dependents: Any) -> None:
    """Raises ValueError for something that means nothing without this input."""
    for other, given in dependents.items():
        if value is None and given is not None:
            raise ValueError(f"{other} was passed without {name}")


def check_row_counts(inputs: dict[str, list[Any] | None]) -> None:
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
