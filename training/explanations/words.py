"""Words of a text, and the word that each of its tokens belongs to."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ...processing.calls import call_tokenizer, find_call_defaults

# a character of a script without spaces between words, a word with its apostrophes and hyphens, or a sign
WORD = r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+(?:['’\-]\w+)*|[^\w\s]"

CharacterSpan = tuple[int, int]


class TextWords(NamedTuple):
    """The words of one text, the characters (first, past-last) of each, and the word of each token of the row,
    (tokens,), -1 for a token of no word (a special token, a prompt, another text, padding)."""

    words: list[str]
    spans: list[CharacterSpan]
    tokens: Tensor


def find_words(text: str, whole: Sequence[str] = ()) -> list[CharacterSpan]:
    """Returns the characters (first, past-last) of the words of a text; `whole` strings, such as special tokens, are
    one word each."""
    special = "|".join(re.escape(token) for token in sorted(whole, key=len, reverse=True) if token)
    return [match.span() for match in re.finditer(f"{special}|{WORD}" if special else WORD, text)]


def assign_words(text: str, places: Sequence[CharacterSpan | None], tokenizer: PreTrainedTokenizerBase) -> TextWords:
    """Assigns each token to the word that it shares most characters with.

    places: for each token of the row its characters in the text, None for a token that is not of this text.
    """
    spans = find_words(text, tokenizer.all_special_tokens)
    owner = [-1] * (len(text) + 1)
    for word, (first, past) in enumerate(spans):
        owner[first:past] = [word] * (past - first)
    tokens = [-1 if place is None else find_owner(owner[place[0] : max(place[1], place[0])]) for place in places]
    return TextWords([text[first:past] for first, past in spans], spans, torch.tensor(tokens, dtype=torch.long))


def find_owner(owners: Sequence[int]) -> int:
    """Returns the most frequent word of a token's characters, the first of equals; -1 for spaces alone."""
    known = [owner for owner in owners if owner >= 0]
    return max(dict.fromkeys(known), key=known.count) if known else -1


def find_pair_places(encoded: Any, piece: int, part: int) -> list[CharacterSpan | None]:
    """Returns the characters of each token of text number `part` of a pair, None for other tokens."""
    parts, offsets = encoded.sequence_ids(piece), encoded["offset_mapping"][piece]
    return [tuple(place) if own == part else None for own, place in zip(parts, offsets, strict=True)]


def encode_pair(tokenizer: PreTrainedTokenizerBase, text: str, pair: str, max_length: int | None) -> Any:
    """Tokenizes a pair of texts as the processor does, with offsets."""
    options = find_call_defaults(tokenizer) | {"truncation": True, "padding": False}
    options |= {} if max_length is None else {"max_length": max_length}
    return call_tokenizer(tokenizer, [text], [pair], return_offsets_mapping=True, **options)


def guess_places(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], text: str) -> list[CharacterSpan | None]:
    """Returns the characters of each token, for a tokenizer without offsets: where its text stands next."""
    places: list[CharacterSpan | None] = []
    start, lowered = 0, text.lower()
    for token in ids:
        piece = str(tokenizer.decode([token])).strip().lower()
        found = -1 if not piece or token in tokenizer.all_special_ids else lowered.find(piece, start)
        places.append(None if found < 0 else (found, found + len(piece)))
        start = start if found < 0 else found + len(piece)
    return places


def drop_special_tokens(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], places: Sequence[CharacterSpan | None]
) -> list[CharacterSpan | None]:
    """Returns the places without those of special tokens, which stay as they are; unknown words are no such tokens."""
    own: Any = tokenizer
    special = {*own.all_special_ids} - {own.unk_token_id}
    return [None if token in special else place for token, place in zip(ids, places, strict=True)]
