"""Encodes the rows of an explanation: the model's inputs, and which of their elements belong to which column."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...configuration import DOCUMENT
from ...configuration.modalities import MODALITY_TABLE
from ...modeling.tasks.question_answering import PlaitForQuestionAnswering
from ...processing import PlaitProcessor
from ...processing.calls import call_tokenizer
from ...processing.sentence import DEFAULT_PROMPT
from ..data.inputs import pad_token_rows, require_tokenizer
from ..data.media import NumberedRows, Row, find_columns, list_present, name_data_rows
from ..data.row_encoder import RowEncoder
from .clip_times import ClipTimes, find_clip_times
from .words import (
    CharacterSpan,
    TextWords,
    assign_words,
    drop_special_tokens,
    encode_pair,
    find_pair_places,
    guess_places,
)

QUESTION_LENGTH = 384  # tokens of a question with its context, as the task has them


class Part(NamedTuple):
    """One input of the rows that an explanation names.

    name: "text", "text_pair", "question", "context", "document", "image", "audio" or "video"; modality: of its tower;
    input: the argument of the model that holds it; present: (rows, items) of media, (rows, tokens) of texts, True for
    what belongs to it (no special token, no prompt).
    """

    name: str
    modality: str
    input: str
    present: Tensor


@dataclass
class EncodedRows:
    """Rows as the model reads them.

    Attributes:
        rows: as they were given.
        inputs: the arguments of the model's `forward`, without labels.
        parts: what an explanation names, by name.
        words: by name of a text for each row its words.
        clips: by name of audio for each row the times of its clips.
    """

    rows: Sequence[Row]
    inputs: dict[str, Tensor]
    parts: dict[str, Part]
    words: dict[str, list[TextWords]]
    clips: dict[str, list[list[ClipTimes]]] = field(default_factory=dict)

    def select(self, rows: Tensor) -> dict[str, Tensor]:
        """Returns the inputs of these rows, which may repeat."""
        return {name: value[rows] for name, value in self.inputs.items()}


def encode_explained_rows(
    model: Any, processor: PlaitProcessor, rows: Sequence[Row], max_length: int | None = None
) -> EncodedRows:
    """Encodes rows, {column: value} as the model's task names its columns, for a model of any class.

    max_length: the largest number of tokens of a text; None: the tokenizer's limit. Raises ValueError for no rows, rows
    without any column that the model reads, or a column of a modality that it has no tower for.
    """
    if not rows:
        raise ValueError("there are no rows: pass a row, or a list of rows, each a dict of column and value")
    check_columns(model, rows)
    encoder = RowEncoder(processor, None, None, max_length, seed=0)
    if isinstance(model, PlaitForQuestionAnswering):
        encoded = encode_questions(encoder, rows)
    else:
        inputs = encode_inputs(encoder, rows)
        encoded = EncodedRows(rows, inputs, {}, {})
        columns = [name for name in MODALITY_TABLE["text"].columns if name in rows[0]]
        add_texts(encoded, processor, columns, "input_ids", max_length)
    if DOCUMENT in rows[0]:
        add_documents(encoded, encoder, model.config.sides[DOCUMENT])
    expand_shared_images(encoded.inputs)
    encoded.parts |= find_media_parts(encoded.inputs, model.config.sides)
    add_clip_times(encoded, processor)
    encoded.inputs = {name: value.to(model.device) for name, value in encoded.inputs.items()}
    return encoded


def encode_numbered_row(
    model: Any, processor: PlaitProcessor, row: Row, number: int, max_length: int | None = None
) -> EncodedRows:
    """Encodes one row; an error about it has its number in the data."""
    rows = NumberedRows([row], [number])
    with name_data_rows(rows):
        return encode_explained_rows(model, processor, rows, max_length)


def encode_inputs(encoder: RowEncoder, rows: Sequence[Row]) -> dict[str, Tensor]:
    """Encodes the rows' columns of every modality; of texts with images inside, the images of each row are counted."""
    if encoder.processor.image_token is None:
        return dict(encoder.encode_inputs(rows))
    names = [name for name in rows[0] if name not in find_columns(list(rows[0]), "text")]
    counts = [len(list_present(row, "image")) for row in rows]
    options = {} if encoder.max_length is None else {"max_length": encoder.max_length, "truncation": True}
    texts = encoder.processor(text=[row["text"] for row in rows], num_images=counts, return_tensors="pt", **options)
    return {**texts, **encoder.encode_inputs([{name: row[name] for name in names} for row in rows])}


def check_columns(model: Any, rows: Sequence[Row]) -> None:
    """Raises ValueError for rows with different columns, without any that the model reads, or with one of a modality
    that it has no tower for."""
    names, encoders = list(rows[0]), model.config.encoders
    odd = next((number for number, row in enumerate(rows) if set(row) != set(names)), None)
    if odd is not None:
        raise ValueError(
            f"row {odd} has the columns {', '.join(rows[odd])}, row 0 {', '.join(names)}: give all the same"
        )
    decodes = not encoders or model.config.inline  # the decoder takes the text
    for modality in MODALITY_TABLE:
        columns = find_columns(names, modality)
        if columns and modality not in encoders and not (modality == "text" and decodes):
            raise ValueError(
                f"column {columns[0]}: the model has no {modality} tower ({', '.join(encoders) or 'none'})"
            )
    asks = isinstance(model, PlaitForQuestionAnswering)
    known = ["question", "context"] if asks else [n for m in MODALITY_TABLE for n in find_columns(names, m)]
    known += [DOCUMENT] if DOCUMENT in model.config.sides else []
    if not set(known) & set(names) or (asks and not {"question", "context"} <= set(names)):
        wanted = ", ".join(["question", "context"] if asks else [*(encoders or ("text",)), *known])
        raise ValueError(f"the columns {', '.join(names)} lack what the model reads: name them {wanted}")


def add_texts(
    encoded: EncodedRows, processor: PlaitProcessor, columns: Sequence[str], name: str, max_length: int | None
) -> None:
    """Adds the texts in the input `name`: their words, and the part that each is."""
    rows, ids = encoded.rows, encoded.inputs.get(name)
    if not columns or ids is None:
        return
    found = [
        find_row_words(processor, row, columns, list_ids(ids, number), max_length) for number, row in enumerate(rows)
    ]
    for place, column in enumerate(columns):
        add_text(encoded, column, name, [words[place] for words in found])


def add_text(encoded: EncodedRows, column: str, name: str, found: Sequence[TextWords]) -> None:
    """Adds the words of one text column."""
    encoded.words[column] = list(found)
    encoded.parts[column] = Part(column, "text", name, torch.stack([words.tokens >= 0 for words in found]))


def list_ids(ids: Tensor, row: int) -> list[int]:
    """Returns the token ids of one row."""
    return ids[row].tolist()


def find_row_words(
    processor: PlaitProcessor, row: Row, columns: Sequence[str], ids: Sequence[int], max_length: int | None
) -> list[TextWords]:
    """Returns the words of each text column of a row, whose tokens are `ids` with padding on either side."""
    tokenizer = require_tokenizer(processor)
    texts = [row[column] for column in columns]
    if texts[0] is None:
        return [TextWords([], [], torch.full((len(ids),), -1)) for _ in columns]
    prompt = (processor.prompts or {}).get(DEFAULT_PROMPT, "")
    if not tokenizer.is_fast:
        return [assign_words(text, guess_places(tokenizer, ids, text), tokenizer) for text in texts]
    if len(columns) > 1:
        encoded = encode_pair(tokenizer, prompt + texts[0], texts[1], max_length)
        own, places = encoded["input_ids"][0], [find_pair_places(encoded, 0, part) for part in (0, 1)]
    else:
        options: dict[str, Any] = {} if max_length is None else {"max_length": max_length, "truncation": True}
        count = None if processor.image_token is None else [texts[0].count(processor.image_token)]
        found = processor(text=texts[:1], num_images=count, return_offsets_mapping=True, **options)
        own, places = found["input_ids"][0], [[tuple(place) for place in found["offset_mapping"][0]]]
    kept = [drop_special_tokens(tokenizer, own, part) for part in places]
    kept[0] = [shift_place(place, len(prompt)) for place in kept[0]]
    start = find_text_start(ids, own)
    padded = [[None] * start + part + [None] * (len(ids) - start - len(part)) for part in kept]
    return [assign_words(text, part, tokenizer) for text, part in zip(texts, padded, strict=True)]


def shift_place(place: CharacterSpan | None, length: int) -> CharacterSpan | None:
    """Returns the characters of a token in the text behind a prompt of this length; None for a token of the prompt."""
    return None if place is None or place[0] < length else (place[0] - length, place[1] - length)


def find_text_start(ids: Sequence[int], own: Sequence[int]) -> int:
    """Returns where the tokens of a text begin in its padded row.

    Raises ValueError if they are not in it: the tokenizer gives other tokens for the text alone.
    """
    last = len(ids) - len(own)
    for start in (0, last) if last >= 0 else ():
        if list(ids[start : start + len(own)]) == list(own):
            return start
    raise ValueError(f"the tokenizer gives {len(own)} tokens for a text, which are not in its row of {len(ids)}")


def encode_questions(encoder: RowEncoder, rows: Sequence[Row]) -> EncodedRows:
    """Encodes questions with their contexts, and images; of a context of several windows the first is explained."""
    tokenizer: Any = require_tokenizer(encoder.processor)
    length = min(encoder.max_length or QUESTION_LENGTH, tokenizer.model_max_length)
    options = {"truncation": "only_second", "max_length": length, "return_offsets_mapping": True}
    found = [
        call_tokenizer(tokenizer, [row["question"]], [row["context"]], return_token_type_ids=True, **options)
        for row in rows
    ]
    ids, mask = pad_token_rows([one["input_ids"][0] for one in found], tokenizer.pad_token_id)
    inputs = {"input_ids": ids, "attention_mask": mask}
    if "token_type_ids" in tokenizer.model_input_names:
        inputs["token_type_ids"] = pad_token_rows([one["token_type_ids"][0] for one in found], 0).ids
    encoded = EncodedRows(rows, {**inputs, **encoder.encode_images(rows)}, {}, {})
    for part, column in enumerate(("question", "context")):
        words = []
        for row, one in zip(rows, found, strict=True):
            places = drop_special_tokens(tokenizer, one["input_ids"][0], find_pair_places(one, 0, part))
            places += [None] * (ids.shape[1] - len(places))
            words.append(assign_words(row[column], places, tokenizer))
        add_text(encoded, column, "input_ids", words)
    return encoded


def add_documents(encoded: EncodedRows, encoder: RowEncoder, modality: str) -> None:
    """Adds the inputs of the column `document`, and its words if it is a text."""
    rows = [{modality: row[DOCUMENT]} for row in encoded.rows]
    inputs: dict[str, Tensor] = encoder.encode_inputs(rows)
    expand_shared_images(inputs)
    encoded.inputs |= {f"{DOCUMENT}_{name}": value for name, value in inputs.items()}
    if modality == "text":
        own = EncodedRows(rows, inputs, {}, {})
        add_texts(own, encoder.processor, ["text"], "input_ids", encoder.max_length)
        add_text(encoded, DOCUMENT, f"{DOCUMENT}_input_ids", own.words["text"])


def expand_shared_images(inputs: dict[str, Tensor]) -> None:
    """Gives every row its own copy of its images: (rows, images, channels, height, width) in place of indices."""
    indices = inputs.pop("image_indices", None)
    if indices is not None:
        inputs["pixel_values"] = inputs["pixel_values"][indices.clamp(min=0)] * (indices >= 0)[..., None, None, None]
        inputs["image_present"] = indices >= 0


def add_clip_times(encoded: EncodedRows, processor: PlaitProcessor) -> None:
    """Adds the times of the rows' audio clips."""
    for part in [part for part in encoded.parts.values() if part.modality == "audio"]:
        extractor: Any = processor.require_part("audio", "audio")
        value = encoded.inputs[part.input]
        waveforms = part.input.endswith("input_values") and value.ndim == 3
        length = value.shape[find_time_axis(part, value[0]) + 1]
        encoded.clips[part.name] = [
            [find_clip_times(extractor, clip, waveforms, length) for clip in list_row_items(row, part)]
            for row in encoded.rows
        ]


def find_time_axis(part: Part, value: Tensor) -> int:
    """Returns the axis of time of one row's clips, (clips, ...): frames before mel bins in `input_values` of
    spectrograms, else the last."""
    return 1 if part.input.endswith("input_values") else value.ndim - 1


def list_row_items(row: Row, part: Part) -> list[Any]:
    """Returns the items of a row's part, as they were given."""
    return list_present({part.modality: row[DOCUMENT]} if part.name == DOCUMENT else row, part.modality)


def find_media_parts(inputs: Mapping[str, Tensor], sides: Mapping[str, str]) -> dict[str, Part]:
    """Finds the images, clips and videos in the inputs, and which of them are present, (rows, items)."""
    parts = {}
    for side, modality in sides.items():
        row, start = MODALITY_TABLE[modality], f"{DOCUMENT}_" if side == DOCUMENT else ""
        for item in row.items:
            value = inputs.get(start + item.name)
            if value is not None:
                present = inputs.get(start + row.present_input, torch.ones(value.shape[:2], dtype=torch.bool))
                parts[side] = Part(side, modality, start + item.name, present)
    return parts
