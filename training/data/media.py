"""Collects the images, audio clips and videos of a row, and computes keys that equal items share."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from ...configuration.modalities import MODALITY_TABLE

Row = Mapping[str, Any]


def collect_items(row: Row, modality: str) -> list[tuple[str, Any]]:
    """Returns the present items of a row as (key, item), from the columns `image`, or `image.0`, `image.1`, ...

    A list is several images or clips, but for audio a list of numbers is one clip (with its rate in the column
    `sampling_rate`), and for video a list is the frames of one video.
    """
    columns = [modality] if modality in row else sorted(name for name in row if name.startswith(f"{modality}."))
    values = [item for name in columns for item in ITEM_READERS[modality](row[name], row.get("sampling_rate"))]
    present = [value for value in values if value is not None]
    if row.get(f"{modality}_id") is not None and len(present) == 1:
        return [(f"id:{row[f'{modality}_id']}", present[0])]
    return [(compute_item_key(value), value) for value in present]


def find_columns(names: Iterable[str], modality: str) -> list[str]:
    """Returns the columns that belong to a modality: text, text_pair; image, image.0, image_id; ..."""
    found = [name for name in names if name.split("_")[0].split(".")[0] == modality]
    return found + [name for name in names if name in MODALITY_TABLE[modality].columns and name not in found]


def compute_item_key(value: Any) -> str:
    """Computes the key of an item: its path, or the digest of its bytes, pixels, samples or frames."""
    if isinstance(value, (str, Path)):
        return f"path:{value}"
    if isinstance(value, Mapping):
        if value.get("bytes") is not None:
            return sha256(value["bytes"]).hexdigest()
        if value.get("array") is not None:
            return compute_digest(np.asarray(value["array"]), value.get("sampling_rate"))
        return f"path:{value['path']}"
    if isinstance(value, (list, tuple)):
        return sha256(" ".join(compute_item_key(frame) for frame in value).encode()).hexdigest()
    if isinstance(value, bytes):
        return sha256(value).hexdigest()
    if hasattr(value, "tobytes") and hasattr(value, "mode"):  # a Pillow image
        return sha256(f"{value.mode}{value.size}".encode() + value.tobytes()).hexdigest()
    return compute_digest(np.asarray(value))


def compute_digest(array: np.ndarray, *further: Any) -> str:
    """Computes the digest of an array's values, type and shape, and of further values."""
    head = f"{array.dtype} {array.shape} {further}".encode()
    return sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()


def list_items(value: Any, sampling_rate: float | None = None) -> list[Any]:
    """Returns the items of a list, or a single item as a list."""
    return list(value) if isinstance(value, list) else [value]


def list_clips(value: Any, sampling_rate: float | None) -> list[Any]:
    """Returns audio clips; bare samples become one clip with its sampling rate (samples per second)."""
    numbers = isinstance(value, np.ndarray) or (isinstance(value, list) and is_numbers(value))
    if numbers:
        return [{"array": np.asarray(value), "sampling_rate": sampling_rate}]
    return list_items(value)


def is_numbers(values: Sequence[Any]) -> bool:
    """Returns whether a list holds samples, of one or several channels (an empty list is a clip without samples)."""
    return not values or isinstance(values[0], (int, float)) or (isinstance(values[0], list) and is_numbers(values[0]))


def wrap_item(value: Any, sampling_rate: float | None = None) -> list[Any]:
    """Returns a value as a list of one item."""
    return [value]


ITEM_READERS: dict[str, Callable[..., list[Any]]] = {"image": list_items, "audio": list_clips, "video": wrap_item}
