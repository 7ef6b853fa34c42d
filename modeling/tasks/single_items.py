"""Tells one item (a text, an image, an audio clip, a video) from a list of items."""

from collections.abc import Mapping, Sequence, Sized
from os import PathLike
from typing import Any, TypeGuard

import numpy as np
from torch import Tensor

# dimensions of an array that is one item; a text is never an array
ITEM_DIMENSIONS = {"text": -1, "image": 3, "audio": 1, "video": 4}


def is_single_item(value: Any, modality: str) -> bool:
    """Returns whether a value is one item of a modality, not a list of items.

    One item is a string, the bytes of a file, a path, a dict (as `datasets` gives), an object without a length (a
    Pillow image), an array of an item's dimensions or fewer, and for video also a list of decoded frames.

    Raises ValueError for an audio array of two dimensions or more, which may be several channels or several clips.
    """
    if value is None:
        return False
    if isinstance(value, (str, bytes, PathLike, Mapping)) or not isinstance(value, Sized):
        return True
    if is_number_array(value):
        if modality == "audio" and value.ndim > 1:
            raise ValueError(
                f"an audio array of shape {tuple(value.shape)} may be one clip of several channels or several clips: "
                "pass [clip] or list(clips)"
            )
        return value.ndim <= ITEM_DIMENSIONS[modality]
    return modality == "video" and isinstance(value, Sequence) and bool(value) and all(map(is_decoded_frame, value))


def is_number_array(value: Any) -> TypeGuard[np.ndarray | Tensor]:
    """Returns whether a value is an array or tensor of numbers (an array of strings or objects is a list)."""
    return isinstance(value, Tensor) or (isinstance(value, np.ndarray) and value.dtype.kind not in "OUS")


def is_decoded_frame(value: Any) -> bool:
    """Returns whether a value is a decoded image: an array, or an object without a length (a Pillow image)."""
    if is_number_array(value):
        return value.ndim <= ITEM_DIMENSIONS["image"]
    return value is not None and not isinstance(value, (Sized, PathLike))
