"""Inputs without content, and inputs of other rows, in the place of a modality's own."""

from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

import numpy as np

from ..data.media import Row, is_numbers

SILENCE_SAMPLES = 16000  # one second at 16 kHz: also the sampling rate
GREY_PIXEL = (127, 127, 127)


def shuffle_rows(rows: Sequence[Row], seed: int) -> list[Row]:
    """Returns the rows moved by one random cycle through all of them, so that none keeps its place."""
    order = np.random.default_rng(seed).permutation(len(rows))
    moved = list(rows)
    for place, source in zip(order, np.roll(order, 1), strict=True):
        moved[place] = rows[source]
    return moved


def build_blank_columns(row: Row, columns: Sequence[str], modality: str) -> dict[str, Any]:
    """Returns blank inputs for the columns of a modality; ids of inputs (`image_id`) become None."""
    return {name: None if name.endswith("_id") else build_blank_value(row[name], modality) for name in columns}


def build_blank_value(value: Any, modality: str) -> Any:
    """Returns the blank input for a value; a list of inputs keeps its length."""
    if value is None or isinstance(value, (int, float)):  # an absent input, or a sampling rate
        return value
    if modality == "video":
        return [build_grey_image()] * 2
    if isinstance(value, list) and not is_numbers(value):
        return [BLANK_BUILDERS[modality]() for _ in value]
    return BLANK_BUILDERS[modality]()


def build_grey_image() -> dict[str, Any]:
    """Returns the file of an image of one colour."""
    from PIL import Image

    file = BytesIO()
    Image.new("RGB", (32, 32), GREY_PIXEL).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def build_silence() -> dict[str, Any]:
    """Returns one second of silent audio."""
    return {"array": np.zeros(SILENCE_SAMPLES, dtype=np.float32), "sampling_rate": SILENCE_SAMPLES}


BLANK_BUILDERS: dict[str, Callable[[], Any]] = {"text": str, "image": build_grey_image, "audio": build_silence}
