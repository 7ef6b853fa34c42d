"""The parts of a row that a check removes and puts back: words, cells of an image, segments of a clip, frames."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from ....processing.audio import read_samples
from ....processing.images import read_image
from ....processing.video import FrameSampling, read_frames
from ...data.media import Row, list_present
from ..results import Attribution

IMAGE_CELLS = 8  # rows and columns of cells of an image
# what stands in the place of removed parts, the first choice first; "rows" and "blur" are baselines of methods too
REPLACEMENTS = {
    "text": ("removed", "rows"),
    "image": ("border", "rows", "mean", "blur"),
    "audio": ("silence", "rows"),
    "video": ("still", "rows", "blur"),
    "table": ("empty", "rows"),
}
SAME_AS = {"silence": ("zero", "mean")}  # baselines of methods that come to the same


class RemovableParts(NamedTuple):
    """The removable parts of one input of a row.

    values: (parts,) what an explanation says of each. build: returns the row in which only the parts with True in
    (parts,) are left, and the others are replaced.
    """

    values: np.ndarray
    build: Callable[[np.ndarray], Row]


def build_removable_parts(
    row: Row, name: str, attribution: Attribution, replacement: str, other: Row
) -> RemovableParts:
    """Returns the removable parts of the input `name` ("text", "image.1").

    replacement: what stands in the place of a removed part: "rows", the part of the row `other` at this place; of an
    image "border", the median colour of its edge, "mean" or "blur"; of a clip "silence"; of a video "still", its mean
    frame, or "blur"; "removed" words and "empty" columns are left out.

    Raises ValueError for a clip without a sampling rate.
    """
    return PART_BUILDERS[attribution.modality](row, name, attribution, replacement, other)


def find_item(row: Row, name: str) -> tuple[Any, int]:
    """Returns the item of an input, and its number among the row's items of its modality."""
    modality, _, number = name.partition(".")
    place = int(number) if number.isdigit() else 0
    items = list_present(row, modality)
    return items[min(place, len(items) - 1)], place


def replace_item(row: Row, name: str, item: Any) -> Row:
    """Returns the row with another item in the place of one of its modality's; ids and rates of the items are gone."""
    modality = name.partition(".")[0]
    if name in row:
        return {**row, name: item, **({f"{modality}_id": None} if f"{modality}_id" in row else {})}
    items = list_present(row, modality)
    items[find_item(row, name)[1]] = item
    return {**row, modality: items if len(items) > 1 else item}


def build_image_cells(row: Row, name: str, attribution: Attribution, replacement: str, other: Row) -> RemovableParts:
    """Returns the cells of an image; a cell's value is the sum over its pixels."""
    image = read_image(find_item(row, name)[0])
    instead = np.asarray(replace_image(image, replacement, other, name))
    pixels, cells = np.asarray(image), label_cells(image.height, image.width)
    values = np.bincount(cells.ravel(), attribution.values.ravel(), minlength=cells.max() + 1)

    def build(kept: np.ndarray) -> Row:
        mixed = np.where(kept[cells][..., None], pixels, instead)
        return replace_item(row, name, Image.fromarray(mixed))

    return RemovableParts(values, build)


def label_cells(height: int, width: int) -> np.ndarray:
    """Returns (height, width) the number of each pixel's cell, from 0."""
    rows, columns = min(IMAGE_CELLS, height), min(IMAGE_CELLS, width)
    return (np.arange(height) * rows // height)[:, None] * columns + np.arange(width) * columns // width


def replace_image(image: Image.Image, replacement: str, other: Row, name: str) -> Image.Image:
    """Returns the image whose pixels stand in the place of removed ones."""
    if replacement == "rows":
        return read_image(find_item(other, name)[0]).resize(image.size)
    if replacement == "blur":
        return image.filter(ImageFilter.GaussianBlur(max(image.size) / 6))
    pixels = np.asarray(image, dtype=float)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    colour = np.median(edge, axis=0) if replacement == "border" else pixels.mean(axis=(0, 1))
    return Image.new("RGB", image.size, tuple(int(channel) for channel in colour.round()))


def build_words(row: Row, name: str, attribution: Attribution, replacement: str, other: Row) -> RemovableParts:
    """Returns the words of a text; a removed one is left out, or is a word of the other row's text."""
    text, spans = row[name], attribution.spans or []
    others = str(other.get(name) or "").split() or [""]

    def build(kept: np.ndarray) -> Row:
        parts, last = [], 0
        for number, ((first, past), stays) in enumerate(zip(spans, kept, strict=True)):
            instead = others[number % len(others)] if replacement == "rows" else ""
            parts += [text[last:first], text[first:past] if stays else instead]
            last = past
        return {**row, name: " ".join("".join([*parts, text[last:]]).split())}

    return RemovableParts(attribution.values, build)


def build_segments(row: Row, name: str, attribution: Attribution, replacement: str, other: Row) -> RemovableParts:
    """Returns the segments of a clip; a removed one is silent, or a segment of another row's clip."""
    samples, rate = read_samples(find_item(row, name)[0], row.get("sampling_rate"))
    if rate is None or attribution.times is None:
        raise ValueError(f"{name}: a clip without a sampling rate has no seconds to remove: give its sampling_rate")
    instead = np.zeros_like(samples)
    if replacement == "rows":
        taken = read_samples(find_item(other, name)[0], other.get("sampling_rate"))[0]
        instead = np.resize(taken, samples.shape).astype(samples.dtype)
    seconds = np.arange(samples.shape[-1]) / rate
    labels = np.clip(np.searchsorted(attribution.times, seconds, side="right") - 1, 0, len(attribution.values) - 1)

    def build(kept: np.ndarray) -> Row:
        clip = {"array": np.where(kept[labels], samples, instead), "sampling_rate": rate}
        return replace_item(row, name, clip)

    return RemovableParts(attribution.values, build)


def build_frames(row: Row, name: str, attribution: Attribution, replacement: str, other: Row) -> RemovableParts:
    """Returns the frames of a video; a removed one is a frame of another row's video, the mean frame, or blurred."""
    frames = [read_image(frame) for frame in read_frames(find_item(row, name)[0], FrameSampling(), None)]
    if replacement == "rows":
        taken = [read_image(frame) for frame in read_frames(find_item(other, name)[0], FrameSampling(), None)]
        instead = [taken[number % len(taken)].resize(frame.size) for number, frame in enumerate(frames)]
    elif replacement == "blur":
        instead = [frame.filter(ImageFilter.GaussianBlur(max(frame.size) / 6)) for frame in frames]
    else:
        mean = np.mean([np.asarray(frame, dtype=float) for frame in frames], axis=0)
        instead = [Image.fromarray(mean.round().astype(np.uint8))] * len(frames)
    labels = np.arange(len(frames)) * len(attribution.values) // len(frames)

    def build(kept: np.ndarray) -> Row:
        mixed = [own if kept[label] else new for own, new, label in zip(frames, instead, labels, strict=True)]
        return replace_item(row, name, mixed)

    return RemovableParts(attribution.values, build)


def build_table_columns(row: Row, name: str, attribution: Attribution, replacement: str, other: Row) -> RemovableParts:
    """Returns the columns of a table; a removed one is empty, or that of the other row."""
    columns = attribution.columns or []

    def build(kept: np.ndarray) -> Row:
        gone = [column for column, stays in zip(columns, kept, strict=True) if not stays]
        return {**row, **{column: other.get(column) if replacement == "rows" else None for column in gone}}

    return RemovableParts(attribution.values, build)


PART_BUILDERS = {
    "text": build_words,
    "image": build_image_cells,
    "audio": build_segments,
    "video": build_frames,
    "table": build_table_columns,
}


def order_parts(values: np.ndarray, steps: int) -> list[np.ndarray]:
    """Returns (steps + 1) masks (parts,) bool, from no part to all of them, the largest values first; of fewer parts
    than steps each has a mask of its own."""
    count = len(values)
    order = np.argsort(-values, kind="stable")
    sizes = np.unique(np.linspace(0, count, min(steps, count) + 1).round().astype(int))
    return [np.isin(np.arange(count), order[:size]) for size in sizes]


def choose_replacement(modality: str, used: Sequence[str]) -> str:
    """Returns what a check puts in the place of removed parts: the first that none of the methods has as its own
    baseline, by which it would be measured by its own yardstick."""
    choices = REPLACEMENTS[modality]
    return next((choice for choice in choices if not {choice, *SAME_AS.get(choice, ())} & set(used)), choices[0])
