"""Turns target texts into labels for a decoder."""

from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from .calls import call_tokenizer, find_call_defaults
from .text import UNLIMITED_LENGTH

LABEL_PAD_TOKEN_ID = -100  # a label that the loss ignores


class TargetLabels(NamedTuple):
    """ids: (batch, length), padded with -100 on the right; truncated_row: the first truncated row, or None."""

    ids: list[list[int]]
    truncated_row: int | None


def encode_targets(tokenizer: PreTrainedTokenizerBase, texts: list[str | None], limit: int | None) -> TargetLabels:
    """Encodes target texts with the tokenizer's special tokens and an end token, truncated to `limit` tokens in all.

    The default limit is the `max_length` that the tokenizer was loaded with, or else its `model_max_length`.

    Raises:
        ValueError: a row without a target, a limit below 2, or a tokenizer without an end token.
    """
    present = [text for text in texts if text is not None and text.strip()]
    if len(present) < len(texts):
        row, text = next((row, text) for row, text in enumerate(texts) if text is None or not text.strip())
        raise ValueError(f"text_target, row {row}: {text!r} is an empty target; leave this row out")
    limit = limit if limit is not None else find_target_limit(tokenizer)
    if limit < 2:
        raise ValueError(
            f"max_target_length is {limit}: pass 2 or more, as a text and its end token are at least 2 tokens"
        )
    options: dict[str, Any] = {"padding": False, "truncation": False, "verbose": False}
    encoded = call_tokenizer(tokenizer, text_target=present, return_attention_mask=False, **options)
    rows = [add_end_token(tokenizer, ids) for ids in encoded["input_ids"]]
    truncated_row = (
        next((row for row, ids in enumerate(rows) if len(ids) > limit), None) if limit < UNLIMITED_LENGTH else None
    )
    rows = [[*ids[: limit - 1], ids[-1]] if len(ids) > limit else ids for ids in rows]
    length = max(map(len, rows))
    return TargetLabels([ids + [LABEL_PAD_TOKEN_ID] * (length - len(ids)) for ids in rows], truncated_row)


def find_target_limit(tokenizer: PreTrainedTokenizerBase) -> int:
    """Returns the largest number of tokens of a target, unless a call says otherwise."""
    return find_call_defaults(tokenizer).get("max_length") or tokenizer.model_max_length


def add_end_token(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int]:
    """Appends the end-of-sequence token (or else the separator) to the ids, unless they end with either of the two."""
    ends: list[Any] = [end for end in (tokenizer.eos_token_id, tokenizer.sep_token_id) if end is not None]
    if not ends:
        raise ValueError(
            f"text_target: the {type(tokenizer).__name__} has neither an eos nor a sep token, so a decoder could not "
            "learn where to stop: set tokenizer.eos_token"
        )
    return ids if ids[-1:] and ids[-1] in ends else [*ids, ends[0]]
