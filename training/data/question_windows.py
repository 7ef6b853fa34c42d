"""Splits the contexts of extractive question answering into overlapping windows."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ...modeling.losses.cross_entropy import IGNORE_INDEX
from ...processing.calls import call_tokenizer
from ..recipes.errors import RecipeError
from .inputs import pad_token_rows
from .media import Row

OUTSIDE_CONTEXT = (0, 0)  # the place of a token that is not part of the context


class Window(NamedTuple):
    """A question with one window of its context.

    row: the row it belongs to; places: for each token its characters in the context, (first, past-last), or
    OUTSIDE_CONTEXT; start, end: first and last token of the answer, 0 if the window has none, -100 if the answer is
    not known or only partly in the window.
    """

    row: int
    input_ids: list[int]
    token_type_ids: list[int]
    places: list[tuple[int, int]]
    start: int
    end: int


class WindowLimits(NamedTuple):
    """The limits of windows and answers.

    max_length: tokens of a window; stride: context tokens that neighbouring windows share; n_best: spans kept per
    question; max_answer_length: tokens; no_answer: margin by which "no answer" must score above the best span to be
    predicted (None: a span is always predicted).
    """

    max_length: int
    stride: int
    n_best: int
    max_answer_length: int
    no_answer: float | None


def split_windows(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], limits: WindowLimits) -> Iterator[Window]:
    """Yields the windows of every row, in order.

    Raises RecipeError for a question that leaves too little room for its context.
    """
    for number, row in enumerate(rows):
        room = limits.max_length - len(call_tokenizer(tokenizer, row["question"], "")["input_ids"])
        if room <= limits.stride:
            raise RecipeError(
                f"the question of row {number} leaves {room} of {limits.max_length} tokens for its context, and windows"
                f" share {limits.stride} (settings.doc_stride): raise max_length, lower doc_stride, or shorten it"
            )
        encoded: Any = call_tokenizer(
            tokenizer,
            row["question"],
            row["context"],
            truncation="only_second",
            max_length=limits.max_length,
            stride=limits.stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_token_type_ids=True,
        )
        for piece, ids in enumerate(encoded["input_ids"]):
            inside = encoded.sequence_ids(piece)
            offsets = encoded["offset_mapping"][piece]
            places: list[tuple[int, int]] = [
                place if part == 1 else OUTSIDE_CONTEXT for place, part in zip(offsets, inside, strict=True)
            ]
            ends = find_answer_tokens(places, row.get("answers"))
            yield Window(number, ids, encoded["token_type_ids"][piece], places, *ends)


def find_answer_tokens(places: Sequence[tuple[int, int]], answers: Mapping[str, Any] | None) -> tuple[int, int]:
    """Returns the first and last token of the (first) answer in a window; (0, 0) if the window has no part of it."""
    if answers is None:
        return IGNORE_INDEX, IGNORE_INDEX
    if not answers["text"]:
        return 0, 0
    first = answers["answer_start"][0]
    past = first + len(answers["text"][0])
    inside = [token for token, (start, end) in enumerate(places) if start < past and end > first]
    if not inside:
        return 0, 0
    whole = places[inside[0]][0] <= first and places[inside[-1]][1] >= past
    return (inside[0], inside[-1]) if whole else (IGNORE_INDEX, IGNORE_INDEX)


def normalize_answers(row: Row) -> dict[str, Any]:
    """Returns a row with answers in SQuAD's form, {text: [...], answer_start: [...]}, from that form, a list of {text,
    answer_start}, or texts with a column answer_start."""
    answers = row["answers"]
    if isinstance(answers, Mapping):
        found = {"text": list(answers["text"]), "answer_start": list(answers["answer_start"])}
    elif not isinstance(answers, str) and all(isinstance(answer, Mapping) for answer in answers):
        found = {name: [answer[name] for answer in answers] for name in ("text", "answer_start")}
    else:
        found = {"text": ensure_list(answers), "answer_start": ensure_list(row["answer_start"])}
    return {**row, "answers": found}


def ensure_list(value: Any) -> list[Any]:
    """Returns a string or number as a list of one, and any other sequence as a list."""
    return [value] if isinstance(value, (str, int)) else list(value)


def check_answers(rows: Iterable[Row], split: str) -> None:
    """Raises RecipeError for an answer that is not at its place in the context, or an empty context or question."""
    for number, row in enumerate(rows):
        answers = row["answers"]
        if not row["context"] or not row["question"]:
            raise RecipeError(f"data: row {number} of {split!r} has no context or no question: remove the row")
        for text, start in zip(answers["text"], answers["answer_start"], strict=True):
            there = row["context"][start : start + len(text)]
            if not text or there != text:
                raise RecipeError(
                    f"data: the answer {text!r} of row {number} of {split!r} is not at character {start} of "
                    f"its context, which has {there!r} there: correct answer_start"
                )


def build_window_batch(found: Sequence[Window], pad: int, segments: bool) -> dict[str, Tensor]:
    """Builds model inputs from windows, each (windows, length), and the start and end positions of answers."""
    ids, mask = pad_token_rows([window.input_ids for window in found], pad)
    batch = {
        "start_positions": torch.tensor([window.start for window in found]),
        "end_positions": torch.tensor([window.end for window in found]),
        "input_ids": ids,
        "attention_mask": mask,
    }
    return batch | ({"token_type_ids": pad_token_rows([w.token_type_ids for w in found], 0).ids} if segments else {})
