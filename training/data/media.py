"""Collects the images, audio clips and videos of rows, with keys that items of equal content share; a batch's rows know
their numbers in the data, for errors."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset

from ...configuration.modalities import MODALITY_TABLE
from ...processing.errors import name_error, renumber_error
from .identity import compute_item_key, find_path, read_content

Row = Mapping[str, Any]
Items = list[tuple[str, Any]]
READ_ERRORS = (OSError, TypeError, ValueError, MemoryError)
AUDIO_SUFFIXES = frozenset(".wav .flac .ogg .oga .opus .mp3 .aif .aiff .au .caf .w64".split())
VIDEO_SUFFIXES = frozenset(".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .ogv .wmv .flv .ts".split())
TARGET_IMAGE = "target_image"  # the column of the image that a model learns to generate


def list_present(row: Row, modality: str) -> list[Any]:
    """Returns the present items of a row, unread, from the columns `image`, or `image.0`, `image.1`, ...

    A list is several images or clips, but for audio a list of numbers is one clip (with its rate in the column
    `sampling_rate`), and for video a list is the frames of one video.
    """
    columns = [modality] if modality in row else sorted(name for name in row if name.startswith(f"{modality}."))
    values = [item for name in columns for item in ITEM_READERS[modality](row[name], row.get("sampling_rate"))]
    return [value for value in values if value is not None]


def collect_items(row: Row, modality: str, read: dict[str, tuple[str, Any]] | None = None) -> Items:
    """Returns the present items of a row as (key, item), with the content of their files; the key is that of the
    content, whatever the item's path or id. `read` keeps the items read so far by path: a batch reads each file once.

    Raises OSError, TypeError or ValueError for an item without readable content.
    """
    known = {} if read is None else read
    items: Items = []
    for value in list_present(row, modality):
        path = find_path(value)
        if path is None or path not in known:
            content = read_content(value)
            item = compute_item_key(content), content
            items.append(item if path is None else known.setdefault(path, item))
        else:
            items.append(known[path])
    return items


def collect_batch_items(rows: Sequence[Row], modality: str) -> list[Items]:
    """Returns the present items of each row of a batch, as `collect_items`; every error names the row."""
    read: dict[str, tuple[str, Any]] = {}
    found = []
    for number, row in enumerate(rows):
        try:
            found.append(collect_items(row, modality, read))
        except READ_ERRORS as error:
            raise name_error(error, f"{MODALITY_TABLE[modality].processor_argument}, row {number}") from error
    return found


def iterate_keys(data: Any, modality: str) -> Iterator[list[str]]:
    """Yields the keys of each row's items, for a plan of which rows share items; every file is read once.

    An item that cannot be read is known by its name alone: it is reported when the model needs it.
    """
    keys: dict[str, str] = {}
    for row in iterate_columns(data, find_columns(list_column_names(data), modality)):
        yield [find_planned_key(value, keys) for value in list_present(row, modality)]


def iterate_target_keys(data: Any) -> Iterator[list[str]]:
    """Yields the key of each row's target image, as `iterate_keys`."""
    keys: dict[str, str] = {}
    for row in iterate_columns(data, [TARGET_IMAGE]):
        yield [find_planned_key(value, keys) for value in list_present(row, TARGET_IMAGE)]


def find_planned_key(value: Any, keys: dict[str, str]) -> str:
    """Returns the key of an item; `keys` keeps those of the files read so far."""
    path = find_path(value)
    if path is not None and path in keys:
        return keys[path]
    try:
        key = compute_item_key(value)
    except READ_ERRORS:
        key = f"unreadable: {value!r}"
    return key if path is None else keys.setdefault(path, key)


def list_column_names(data: Any) -> list[str]:
    """Returns the columns of a data set, or of a list of rows: those of its first row."""
    names = getattr(data, "column_names", None)
    return list(names) if names is not None else list(data[0]) if len(data) else []


def iterate_columns(data: Any, names: Sequence[str]) -> Iterator[Row]:
    """Yields the rows of a data set, or of a list of rows, with these columns."""
    if hasattr(data, "select_columns"):
        yield from data.select_columns(list(names)) if names else ({} for _ in range(len(data)))
    else:
        for number in range(len(data)):
            row = data[number]
            yield {name: row[name] for name in names if name in row}


def find_columns(names: Iterable[str], modality: str) -> list[str]:
    """Returns the columns that belong to a modality: text, text_pair; image, image.0, image_id; ..."""
    found = [name for name in names if name.split("_")[0].split(".")[0] == modality]
    return found + [name for name in names if name in MODALITY_TABLE[modality].columns and name not in found]


def list_items(value: Any, sampling_rate: float | None = None) -> list[Any]:
    """Returns the items of a list, or a single item as a list."""
    return list(value) if isinstance(value, list) else [value]


def list_clips(value: Any, sampling_rate: float | None) -> list[Any]:
    """Returns audio clips; bare samples become clips with their sampling rate (samples per second)."""
    if isinstance(value, (np.ndarray, torch.Tensor)) or (isinstance(value, list) and is_numbers(value)):
        return [add_rate(value, sampling_rate)]
    return [add_rate(clip, sampling_rate) for clip in list_items(value)]


def add_rate(clip: Any, sampling_rate: float | None) -> Any:
    """Returns decoded samples as {"array", "sampling_rate"}, with the rate of the clip or else of the row; any other
    clip unchanged."""
    if isinstance(clip, Mapping) and clip.get("array") is not None:
        array, own = clip["array"], clip.get("sampling_rate")
        sampling_rate = sampling_rate if own is None else own
    elif isinstance(clip, (np.ndarray, torch.Tensor)) or (isinstance(clip, list) and is_numbers(clip)):
        array = clip
    else:
        return clip
    return {"array": np.asarray(array) if isinstance(array, list) else array, "sampling_rate": sampling_rate}


def is_numbers(values: Sequence[Any]) -> bool:
    """Returns whether a list holds samples, of one or several channels (an empty list is a clip without samples)."""
    return (
        not values
        or isinstance(values[0], (int, float, np.number))
        or (isinstance(values[0], list) and is_numbers(values[0]))
    )


def wrap_item(value: Any, sampling_rate: float | None = None) -> list[Any]:
    """Returns a value as a list of one item."""
    return [value]


ITEM_READERS: dict[str, Callable[..., list[Any]]] = {
    "image": list_items,
    "audio": list_clips,
    "video": wrap_item,
    TARGET_IMAGE: wrap_item,
}


class NumberedRows(list[Row]):
    """The rows of a batch. numbers: of each row, its number in the data."""

    def __init__(self, rows: Sequence[Row], numbers: Sequence[int]) -> None:
        super().__init__(rows)
        self.numbers = list(numbers)


class NumberedData:
    """A data set whose batches are `NumberedRows`; all else is that of the data set."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: Any) -> Any:
        return self.data[key]

    def __getitems__(self, numbers: Sequence[int]) -> NumberedRows:
        """Returns the rows of these numbers: the loader of torch calls it for each batch."""
        several = getattr(self.data, "__getitems__", None)
        return NumberedRows([self.data[row] for row in numbers] if several is None else several(numbers), numbers)

    def __getattr__(self, name: str) -> Any:
        if name == "data":  # while it is unpickled, in a worker
            raise AttributeError(name)
        return getattr(self.data, name)


def number_rows(data: Any, drops_columns: bool) -> Any:
    """Returns a data set as `NumberedData`; a stream, whose rows have no numbers, or one of which the Trainer drops
    columns, unchanged."""
    return data if isinstance(data, IterableDataset) or drops_columns or data is None else NumberedData(data)


@contextmanager
def name_data_rows(rows: Sequence[Row]) -> Iterator[None]:
    """Gives an error about a row of the batch, inside the context, the row's number in the data if the rows know it."""
    try:
        yield
    except READ_ERRORS as error:
        named = renumber_error(error, getattr(rows, "numbers", ()))
        if named is error:
            raise
        raise named from error


@cache
def list_image_suffixes() -> frozenset[str]:
    """Returns the suffixes of images that Pillow reads."""
    from PIL import Image

    return frozenset(Image.registered_extensions()) - VIDEO_SUFFIXES


def find_modality(path: str | Path) -> str | None:
    """Returns the modality of a file, by its suffix: image, audio or video; None for another."""
    suffix = Path(path).suffix.lower()
    kinds = {"audio": AUDIO_SUFFIXES, "video": VIDEO_SUFFIXES, "image": list_image_suffixes()}
    return next((modality for modality, suffixes in kinds.items() if suffix in suffixes), None)
