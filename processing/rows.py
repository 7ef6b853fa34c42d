"""Checks that all inputs of a batch have the same number of rows, and counts the images of each row."""

from collections.abc import Sequence
from typing import Any

from .limits import check_number

CHECKED_ARGUMENTS = ("video_fps", "max_target_length")  # a sampling rate is compared with the extractor's


def count_images(
    texts: list[str | None], images: list[list[Any]] | None, num_images: Sequence[int] | None
) -> Sequence[int]:
    """Returns the number of images of every row; `num_images` replaces `images` as the source of the counts."""
    if num_images is None:
        return [sum(image is not None for image in row) for row in images or [[] for _ in texts]]
    if images is not None or len(num_images) != len(texts):
        raise ValueError(
            f"num_images has {len(num_images)} rows, text {len(texts)}: pass one number per row, and no images"
        )
    for number in num_images:
        check_number("num_images", number)
    return num_images


def check_required_input(name: str, value: Any, **dependents: Any) -> None:
    """Raises ValueError for an argument that was passed without the input it belongs to, or a number out of range."""
    for other, given in dependents.items():
        if value is None and given is not None:
            raise ValueError(f"{other} was passed without {name}: pass both or neither")
        if other in CHECKED_ARGUMENTS:
            check_number(other, given)


def check_return_tensors(value: Any) -> None:
    """Raises ValueError for a kind of tensors that is not known; None: lists."""
    known = ("pt", "np")
    if value is not None and getattr(value, "value", value) not in known:
        raise ValueError(f"return_tensors is {value!r}: pass one of {', '.join(map(repr, known))}, or leave it out")


def check_row_counts(inputs: dict[str, list[Any] | None]) -> None:
    """Raises ValueError unless there is an input and all inputs have the same number of rows."""
    lengths = {name: len(rows) for name, rows in inputs.items() if rows is not None}
    if not lengths:
        raise ValueError("there is no input: pass text, images, audio, videos, or several of them")
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} has {length} rows" for name, length in lengths.items())
        raise ValueError(
            f"{found}: pass one entry per row (None for a row without one; several images or clips of one row are a "
            "list within the list, [[a, b], [c]])"
        )
