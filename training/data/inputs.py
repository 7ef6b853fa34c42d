"""Turns texts, images, audio and videos of rows into model inputs, and computes keys that equal inputs share."""

import json
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from ...configuration.modalities import MODALITY_TABLE
from ...modeling.losses.cross_entropy import IGNORE_INDEX
from ...processing import PlaitProcessor
from ...processing.calls import call_tokenizer
from ...processing.errors import name_error
from ...processing.images import read_image
from .media import READ_ERRORS, Row, collect_items, find_columns, iterate_keys, list_column_names

if TYPE_CHECKING:
    from datasets import Dataset


TEXTS_PER_CALL, CHARACTERS_PER_CALL = 1000, 2_000_000  # of a tokenizer that counts tokens


class PaddedTokens(NamedTuple):
    """Padded token ids and their mask, both (batch, length)."""

    ids: Tensor
    mask: Tensor


def collect_rows(data: "Dataset") -> list[Row]:
    """Returns the rows of a data set as a list."""
    return [cast("Row", row) for row in data]


def find_images(row: Row) -> list[tuple[str, Any]]:
    """Returns the present images of a row as (key, image)."""
    return collect_items(row, "image")


def find_image_groups(data: Any) -> list[str | None]:
    """Returns for each row the key of its first image, equal for rows that share it; None for a row without an image.

    Raises ValueError if no column holds images.
    """
    names = list_column_names(data)
    if not find_columns(names, "image"):
        raise ValueError(f"the data have no images to share, only {', '.join(names)}")
    return [keys[0] if keys else None for keys in iterate_keys(data, "image")]


def compute_text_key(row: Row, max_length: int | None) -> str | None:
    """Computes the key of a row's text (and pair), truncated at `max_length`; None for a row without a text."""
    if row["text"] is None:
        return None
    return sha256(json.dumps([row["text"], row.get("text_pair"), max_length]).encode()).hexdigest()


def require_tokenizer(processor: PlaitProcessor) -> PreTrainedTokenizerBase:
    """Returns the processor's tokenizer; raises ValueError if there is none."""
    tokenizer = processor.find_part("tokenizer")
    if tokenizer is None:
        raise ValueError("the processor has no tokenizer, but the data have text: compose the processor with text=...")
    return tokenizer


def encode_text_inputs(processor: PlaitProcessor, rows: Sequence[Row], max_length: int | None) -> dict[str, Tensor]:
    """Turns the text columns of rows into model inputs."""
    options: dict[str, Any] = {} if max_length is None else {"max_length": max_length, "truncation": True}
    if "text_pair" in rows[0]:
        options["text_pair"] = [row["text_pair"] for row in rows]
    return dict(processor(text=[row["text"] for row in rows], return_tensors="pt", **options))


def encode_image_inputs(processor: PlaitProcessor, images: Sequence[Any]) -> Tensor:
    """Processes images: (images, channels, height, width)."""
    return processor(images=list(images), return_tensors="pt")["pixel_values"][:, 0]


def encode_media_inputs(
    processor: PlaitProcessor, modality: str, rows: Sequence[Sequence[Any]], options: Mapping[str, Any] | None = None
) -> dict[str, Tensor]:
    """Turns the audio clips or videos of each row into model inputs; returns an empty dict if no row has any.

    options: further arguments of the processor's call.
    """
    if not any(rows):
        return {}
    items = [[open_frames(item) if modality == "video" else item for item in row] or None for row in rows]
    given: dict[str, Any] = {MODALITY_TABLE[modality].processor_argument: items}
    return dict(processor(return_tensors="pt", **given, **(options or {})))


def encode_items(
    processor: PlaitProcessor, modality: str, items: Sequence[Any], names: Sequence[str]
) -> dict[str, Any]:
    """Turns images, audio clips or videos, one for each row, into model inputs. The error about an item that cannot be
    processed begins with its name."""
    try:
        if modality == "image":
            return {"pixel_values": encode_image_inputs(processor, items)}
        return encode_media_inputs(processor, modality, [[item] for item in items])
    except READ_ERRORS as error:
        if len(items) == 1:
            raise name_error(error, names[0], str(error).partition(" row 0: ")[2]) from error
        for item, name in zip(items, names, strict=True):
            encode_items(processor, modality, [item], [name])
        raise


def open_frames(video: Any) -> Any:
    """Reads a list of stored frames as images; returns any other video unchanged. Raises ValueError for no frames."""
    if isinstance(video, list) and not video:
        raise ValueError("a video has no frames: leave its row out, or set the column to None")
    return [read_image(frame) for frame in video] if isinstance(video, list) else video


def count_row_tokens(processor: PlaitProcessor, data: "Dataset", max_length: int | None) -> list[int]:
    """Counts the tokens of each row's text columns, at most `max_length`; 0 without text columns."""
    lengths = [0] * len(data)
    for name in ("text", "text_pair"):
        if name in data.column_names:
            found = count_tokens_per_text(require_tokenizer(processor), data[name])
            lengths = [a + b for a, b in zip(lengths, found, strict=True)]
    return [min(length, max_length) for length in lengths] if max_length is not None else lengths


def count_tokens_per_text(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str | None]) -> list[int]:
    """Counts the tokens of each text."""
    lengths: list[int] = []
    for part in group_texts([text or "" for text in texts]):
        lengths += [len(ids) for ids in call_tokenizer(tokenizer, part, verbose=False)["input_ids"]]
    return lengths


def group_texts(texts: Sequence[str]) -> Iterator[list[str]]:
    """Yields the texts in parts of at most `TEXTS_PER_CALL` texts and (but for one longer text) `CHARACTERS_PER_CALL`
    characters: the ids of all at once would take many times the memory of the texts."""
    part: list[str] = []
    size = 0
    for text in texts:
        if part and (len(part) == TEXTS_PER_CALL or size + len(text) > CHARACTERS_PER_CALL):
            yield part
            part, size = [], 0
        part.append(text)
        size += len(text)
    if part:
        yield part


def encode_target_labels(
    processor: PlaitProcessor, targets: Sequence[str], max_length: int | None
) -> dict[str, Tensor]:
    """Returns `labels` (batch, length): the targets' tokens with the end of sequence, padded with -100."""
    labels = processor(text_target=list(targets), max_target_length=max_length, return_tensors="pt")["labels"]
    return {"labels": labels}


def count_target_tokens(processor: PlaitProcessor, targets: Sequence[str], max_length: int | None) -> list[int]:
    """Counts the labels of each target, without padding."""
    part = 1000
    batches = (targets[start : start + part] for start in range(0, len(targets), part))
    labels = (encode_target_labels(processor, batch, max_length)["labels"] for batch in batches)
    return [count for batch in labels for count in (batch != IGNORE_INDEX).sum(1).tolist()]


def pad_token_rows(rows: Sequence[Sequence[int]], padding: int, left: bool = False) -> PaddedTokens:
    """Pads rows of token ids to the longest row, on the right or on the left."""
    side = "left" if left else "right"
    tensors = [torch.tensor(list(row), dtype=torch.long) for row in rows]
    ids = pad_sequence(tensors, batch_first=True, padding_value=padding, padding_side=side)
    mask = pad_sequence([torch.ones_like(row) for row in tensors], batch_first=True, padding_side=side)
    return PaddedTokens(ids, mask)
