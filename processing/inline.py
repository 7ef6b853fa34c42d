"""Encodes texts that contain images: each image token is repeated once per token that an image has in the model."""

import re
from bisect import bisect_right
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from .limits import check_number
from .text import encode_texts


class ImageToken(NamedTuple):
    """The placeholder of an image in a text, its token id, and the number of tokens of one image (None: not known)."""

    text: str
    id: int
    tokens_per_image: int | None


class InlineTexts(NamedTuple):
    """Texts and text pairs with every image token repeated, and their ids and masks by name."""

    texts: list[str | None]
    pairs: list[str] | None
    values: dict[str, Any]


def check_image_token(
    tokenizer: PreTrainedTokenizerBase | None, image_token: str | None, num_image_tokens: int | None
) -> None:
    """Raises ValueError for a blank image token or one without a tokenizer, or an invalid `num_image_tokens`."""
    if image_token is not None and (tokenizer is None or not image_token.strip()):
        raise ValueError(
            f"image_token {image_token!r} stands in a text: pass a tokenizer too, and a token that is not blank"
        )
    check_number("num_image_tokens", num_image_tokens)
    if num_image_tokens is not None and image_token is None:
        raise ValueError(
            f"num_image_tokens is {num_image_tokens}, and image_token is {image_token!r}: pass both, with the number "
            "of tokens of one image"
        )


def add_image_token(tokenizer: PreTrainedTokenizerBase, token: str) -> PreTrainedTokenizerBase:
    """Returns the tokenizer if `token` is one of its special tokens, else a copy to which it is added.

    A token that is in the vocabulary keeps its id; any other gets the next free id.
    """
    if token in tokenizer.all_special_tokens:
        return tokenizer
    tokenizer = deepcopy(tokenizer)
    tokenizer.add_special_tokens({"extra_special_tokens": [token]}, replace_extra_special_tokens=False)
    return tokenizer


def encode_inline_texts(
    tokenizer: PreTrainedTokenizerBase,
    texts: list[str | None],
    pairs: list[str] | None,
    token: ImageToken,
    counts: Sequence[int],
    options: dict[str, Any],
) -> InlineTexts:
    """Encodes texts like `encode_texts`, for rows with `counts` images each. Offsets refer to the original text.

    Raises:
        ValueError: an image token without an image or the reverse, truncated image tokens, or an unknown
            `token.tokens_per_image`.
    """
    check_image_counts(texts, pairs, token, counts)
    expanded = [text and text.replace(token.text, token.text * (token.tokens_per_image or 1)) for text in texts]
    expanded_pairs = pairs and [pair.replace(token.text, token.text * (token.tokens_per_image or 1)) for pair in pairs]
    values = encode_texts(tokenizer, expanded, expanded_pairs, options)
    if token.tokens_per_image is not None:
        check_image_tokens_kept(values, token, counts)
    if "offset_mapping" in values:
        if pairs:
            raise ValueError(
                "return_offsets_mapping: not for pairs of texts that may contain images; leave it or text_pair out"
            )
        rows = zip(values["offset_mapping"], texts, strict=True)
        values["offset_mapping"] = [restore_offsets(row, text or "", token) for row, text in rows]
    return InlineTexts(expanded, expanded_pairs, values)


def check_image_counts(
    texts: list[str | None], pairs: list[str] | None, token: ImageToken, counts: Sequence[int]
) -> None:
    """Raises ValueError for the first row whose numbers of image tokens and of images differ, or if the number of
    tokens per image is not known."""
    for row, (text, count) in enumerate(zip(texts, counts, strict=True)):
        found = (text or "").count(token.text) + (pairs[row].count(token.text) if pairs else 0)
        if found != count:
            raise ValueError(
                f"text, row {row}: {found} image token(s) {token.text!r} in the text, but {count} image(s): write "
                "one image token for each image"
            )
        if found and token.tokens_per_image is None:
            raise ValueError(
                "num_image_tokens is not set: set it to the number of tokens that one image has in the model, "
                "processor.num_image_tokens = model.num_image_tokens"
            )


def check_image_tokens_kept(values: dict[str, list[Any]], token: ImageToken, counts: Sequence[int]) -> None:
    """Raises ValueError for the first row in which truncation removed image tokens."""
    for row, (ids, count) in enumerate(zip(values["input_ids"], counts, strict=True)):
        left, wanted = ids.count(token.id), count * (token.tokens_per_image or 0)
        if left != wanted:
            raise ValueError(
                f"text, row {row}: truncated at {len(ids)} tokens, but all {wanted} tokens of its {count} image(s) are "
                f"needed, not {left}: shorten the text or raise max_length"
            )


def restore_offsets(offsets: Sequence[tuple[int, int]], text: str, token: ImageToken) -> list[tuple[int, int]]:
    """Maps offsets in the expanded text to offsets in the original text: (start, end) in characters per token. All
    tokens of an image get the span of its image token."""
    spans = [match.span() for match in re.finditer(re.escape(token.text), text)]
    length = len(token.text) * (token.tokens_per_image or 1)  # characters of one image in the expanded text
    grown = length - len(token.text)
    starts = [start + number * grown for number, (start, _) in enumerate(spans)]
    found = []
    for start, end in offsets:
        before = bisect_right(starts, start)  # images that begin here or earlier
        if before == 0 or end == 0:  # tokens outside the text, such as special tokens, have the offset (0, 0)
            found.append((start, end))
        elif start < starts[before - 1] + length:
            found.append(spans[before - 1])
        else:
            found.append((start - before * grown, end - before * grown))
    return found
