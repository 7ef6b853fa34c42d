"""From a row's text and pictures to the model's inputs, and names by which equal ones are known."""

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..processing import PlaitProcessor

if TYPE_CHECKING:
    from datasets import Dataset

Row = Mapping[str, Any]


def picture_key(picture: Any) -> str:
    """A name for one picture: its path, or the digest of its bytes. Takes a path, a datasets Image, or a PIL image."""
    if isinstance(picture, (str, Path)):
        return f"path:{picture}"
    if isinstance(picture, Mapping):
        if picture.get("bytes") is not None:
            return sha256(picture["bytes"]).hexdigest()
        return f"path:{picture['path']}"
    return sha256(f"{picture.mode}{picture.size}".encode() + picture.tobytes()).hexdigest()


def pictures_of(row: Row) -> list[tuple[str, Any]]:
    """A row's pictures, each after its key, absent ones left out; from the columns image, or image.0, image.1, ..."""
    columns = ["image"] if "image" in row else sorted(name for name in row if name.startswith("image."))
    values = [item for name in columns for item in (row[name] if isinstance(row[name], list) else [row[name]])]
    pictures = [picture for picture in values if picture is not None]
    if row.get("image_id") is not None and len(pictures) == 1:
        return [(f"id:{row['image_id']}", pictures[0])]
    return [(picture_key(picture), picture) for picture in pictures]


def picture_groups(data: "Dataset") -> list[str | None]:
    """For each row the name of its (first) picture, equal for rows that share it; None for a row without one.

    Raises ValueError where no column holds pictures.
    """
    if "image_id" in data.column_names:
        return [None if name is None else str(name) for name in data["image_id"]]
    names = [name for name in data.column_names if name.startswith("image")]
    if not names:
        raise ValueError(f"the data have no pictures to share, only {', '.join(data.column_names)}")
    found = [pictures_of(cast("Row", row)) for row in data.select_columns(names)]
    return [pictures[0][0] if pictures else None for pictures in found]


def text_key(row: Row, max_length: int | None) -> str | None:
    """A name for a row's text (and pair), cut at so many tokens; None for a row without a text."""
    if row["text"] is None:
        return None
    return sha256(json.dumps([row["text"], row.get("text_pair"), max_length]).encode()).hexdigest()


def tokenizer_in(processor: PlaitProcessor) -> PreTrainedTokenizerBase:
    """The processor's tokenizer. Raises ValueError where there is none."""
    if processor.tokenizer is None:
        raise ValueError("the processor has no tokenizer, and there is text to read")
    return processor.tokenizer


def text_inputs(processor: PlaitProcessor, rows: Sequence[Row], max_length: int | None) -> dict[str, Tensor]:
    """The text columns as the model's inputs."""
    options: dict[str, Any] = {} if max_length is None else {"max_length": max_length, "truncation": True}
    if "text_pair" in rows[0]:
        options["text_pair"] = [row["text_pair"] for row in rows]
    return dict(processor(text=[row["text"] for row in rows], return_tensors="pt", **options))


def image_inputs(processor: PlaitProcessor, pictures: Sequence[Any]) -> Tensor:
    """(pictures, channels, height, width)."""
    return processor(images=list(pictures), return_tensors="pt")["pixel_values"][:, 0]
