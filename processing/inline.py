"""Pictures inside a text: an image token for each, repeated as often as a picture has tokens in the model."""

import re
from bisect import bisect_right
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from .text import encode_texts


class ImageToken(NamedTuple):
    """What stands in a text for a picture, its id, and how many of it one picture takes (None: not known)."""

    text: str
    id: int
    tokens_per_image: int | None


class InlineTexts(NamedTuple):
    """Texts and pairs with every image token repeated, and their ids and masks."""

    texts: list[str | None]
    pairs: list[str] | None
    values: dict[str, Any]


def check_image_token(
    tokenizer: PreTrainedTokenizerBase | None, image_token: str | None, num_image_tokens: int | None
) -> None:
    """Raises ValueError for an image token that no text could hold, or a number of them that makes no sense."""
    if image_token is not None and (tokenizer is None or not image_token.strip()):
        raise ValueError(f"image_token {image_token!r} stands in a text: it needs a tokenizer, and a name")
    if num_image_tokens is not None and (image_token is None or num_image_tokens < 1):
        raise ValueError(
            f"num_image_tokens is {num_image_tokens}: it is the number of tokens of one image, at least 1, for an "
            f"image_token (which is {image_token!r})"
        )


def add_image_token(tokenizer: PreTrainedTokenizerBase, token: str) -> PreTrainedTokenizerBase:
    """The tokenizer itself if this is one of its special tokens, else a copy in which it is: a word of the vocabulary
    keeps its id, any other comes last."""
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
    """As `encode`, for rows with so many images each (`counts`). Offsets are those in the text as it was given.

    Raises:
        ValueError: an image token without an image or the reverse, images cut off, `token.times` not known.
    """
    check_image_counts(texts, pairs, token, counts)
    longer = [text and text.replace(token.text, token.text * (token.tokens_per_image or 1)) for text in texts]
    longer_pairs = pairs and [pair.replace(token.text, token.text * (token.tokens_per_image or 1)) for pair in pairs]
    values = encode_texts(tokenizer, longer, longer_pairs, options)
    if token.tokens_per_image is not None:
        check_image_tokens_kept(values, token, counts)
    if "offset_mapping" in values:
        if pairs:
            raise ValueError("return_offsets_mapping: not for pairs of texts that may hold images")
        rows = zip(values["offset_mapping"], texts, strict=True)
        values["offset_mapping"] = [restore_offsets(row, text or "", token) for row, text in rows]
    return InlineTexts(longer, longer_pairs, values)


def check_image_counts(
    texts: list[str | None], pairs: list[str] | None, token: ImageToken, counts: Sequence[int]
) -> None:
    """Raises ValueError for the first row that has another number of image tokens than of images, or whose images take
    an unknown number of tokens."""
    for row, (text, count) in enumerate(zip(texts, counts, strict=True)):
        found = (text or "").count(token.text) + (pairs[row].count(token.text) if pairs else 0)
        if found != count:
            raise ValueError(
                f"text, row {row}: {found} image token(s) {token.text!r} in the text, but {count} image(s): an image "
                "token without an image or the reverse"
            )
        if found and token.tokens_per_image is None:
            raise ValueError(
                "num_image_tokens is not set: it is the number of tokens that one image has in the model, "
                "processor.num_image_tokens = model.num_image_tokens"
            )


def check_image_tokens_kept(values: dict[str, list[Any]], token: ImageToken, counts: Sequence[int]) -> None:
    """Raises ValueError for the first row whose image tokens are not all there: the text was cut before they ended."""
    for row, (ids, count) in enumerate(zip(values["input_ids"], counts, strict=True)):
        left, wanted = ids.count(token.id), count * (token.tokens_per_image or 0)
        if left != wanted:
            raise ValueError(
                f"text, row {row}: cut at {len(ids)} tokens, of the {wanted} tokens of its {count} image(s) {left} "
                "would be left; shorten the text or raise max_length"
            )


def restore_offsets(offsets: Sequence[tuple[int, int]], text: str, token: ImageToken) -> list[tuple[int, int]]:
    """Where the tokens of an expanded text stand in the text as it was given: (start, end) in characters; all tokens of
    a picture stand where its image token does."""
    spans = [match.span() for match in re.finditer(re.escape(token.text), text)]
    length = len(token.text) * (token.tokens_per_image or 1)  # of a picture in the expanded text
    grown = length - len(token.text)
    starts = [start + number * grown for number, (start, _) in enumerate(spans)]
    found = []
    for start, end in offsets:
        before = bisect_right(starts, start)  # pictures that begin here or earlier
        if before == 0 or end == 0:  # what is not of the text is at (0, 0)
            found.append((start, end))
        elif start < starts[before - 1] + length:
            found.append(spans[before - 1])
        else:
            found.append((start - before * grown, end - before * grown))
    return found
