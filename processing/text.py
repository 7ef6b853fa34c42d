"""Turns texts into token ids: truncates long texts, pads rows, and fills rows without a text."""

from collections.abc import Sequence
from copy import deepcopy
from reprlib import repr as short
from typing import Any

from transformers import PreTrainedTokenizerBase

from .calls import call_tokenizer, check_text, find_call_defaults
from .limits import check_ceiling

UNLIMITED_LENGTH = 10**9  # a tokenizer without a limit has model_max_length 1e30
LONG_TOKEN = 64  # characters: of a longer text than this for each token that is read, the beginning is looked at first
CUT_TOKENS = 8  # the tokens of a text that is cut in a word may differ from those of the whole text by fewer


def collect_text_rows(text: Any, name: str = "text") -> list[str | None]:
    """Returns one string for every row, None for a row without a text.

    Raises:
        TypeError: a value that is neither a string nor None; the message names its row.
        ValueError: an empty list.
    """
    if isinstance(text, str):
        text = [text]
    if not isinstance(text, Sequence) or isinstance(text, bytes):
        raise TypeError(
            f"{name}: {short(text)} ({type(text).__name__}) is neither a string nor a list: pass a string, or a list "
            "with a string or None for every row"
        )
    if not len(text):
        raise ValueError(f"{name} is an empty list: pass one entry per row (None for a row without a text)")
    for row, value in enumerate(text):
        if value is not None and not isinstance(value, str):
            raise TypeError(
                f"{name}, row {row}: {short(value)} ({type(value).__name__}) is not a string; pass str(...), or None "
                "for a row without a text"
            )
        if value is not None:
            check_text(value, f"{name}, row {row}")
    return list(text)


def collect_pair_rows(texts: list[str | None], text_pair: Any) -> list[str] | None:
    """Returns the second texts of text pairs, one for every row ("" for a row without a text).

    Raises:
        ValueError: different numbers of rows, or a row with only one of the two texts.
    """
    if text_pair is None:
        return None
    pairs = collect_text_rows(text_pair, "text_pair")
    if len(pairs) != len(texts):
        raise ValueError(f"text has {len(texts)} rows, text_pair has {len(pairs)}: pass one pair per row")
    for row, (first, second) in enumerate(zip(texts, pairs, strict=True)):
        if (first is None) != (second is None):
            raise ValueError(f"row {row} has only one of text and text_pair: pass both, or None for both")
    return [pair or "" for pair in pairs]


def add_pad_token(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Returns the tokenizer if it has a pad token, else a copy that pads with its end-of-sequence token.

    `attention_mask` still tells padding from a true end of sequence. Raises ValueError if both tokens are missing.
    """
    if "pad_token" in tokenizer.special_tokens_map:
        return tokenizer
    if "eos_token" not in tokenizer.special_tokens_map:
        raise ValueError(
            f"the {type(tokenizer).__name__} has neither a pad nor an eos token: set tokenizer.pad_token, "
            'for example with tokenizer.add_special_tokens({"pad_token": "[PAD]"})'
        )
    tokenizer = deepcopy(tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def encode_texts(
    tokenizer: PreTrainedTokenizerBase, texts: list[str | None], pairs: list[str] | None, options: dict[str, Any]
) -> dict[str, list[Any]]:
    """Encodes texts: ids and masks by name, nested lists (batch, length), of length 1 or more.

    By default rows are padded to the longest and truncated at `model_max_length`; options that the tokenizer was loaded
    with override this, and `options` of the call override both. A row without a text, or whose text has no tokens (an
    empty string without special tokens), is padding only. For a model that attends to padding (see `reads_padding`),
    every text is padded to one length, and the mask of a row with a text is all 1.
    """
    options = find_call_defaults(tokenizer) | options
    limited = "max_length" in options or tokenizer.model_max_length < UNLIMITED_LENGTH
    options = {"padding": True, "truncation": limited, "return_attention_mask": True} | options
    if reads_padding(tokenizer) and limited and options["padding"] is True:
        options["padding"] = "max_length"
    if options["padding"] == "max_length":
        length = options.get("max_length") or min(tokenizer.model_max_length, UNLIMITED_LENGTH)
        check_ceiling("batch_tokens", len(texts) * length, "text, padded to max_length,")
    check_ceiling("batch_tokens", len(texts) * (options.get("pad_to_multiple_of") or 1), "text, padded,")
    values = dict(call_tokenizer(tokenizer, [text or "" for text in texts], pairs, **options))
    if reads_padding(tokenizer) and options["padding"] == "max_length" and "attention_mask" in values:
        values["attention_mask"] = [[1] * len(ids) for ids in values["input_ids"]]
    return pad_absent_rows(tokenizer, texts, values)


def reads_padding(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Returns whether the tokenizer names no attention mask among the model inputs: such a model (SigLIP) was trained
    on texts that are all padded to one length, and attends to the padding."""
    return "attention_mask" not in tokenizer.model_input_names


def pad_absent_rows(
    tokenizer: PreTrainedTokenizerBase, texts: list[str | None], values: dict[str, list[Any]]
) -> dict[str, list[Any]]:
    """Replaces rows without a text by padding, of length 1 or more."""
    fillers = {
        "input_ids": tokenizer.pad_token_id,
        "attention_mask": 0,
        "token_type_ids": tokenizer.pad_token_type_id,
        "special_tokens_mask": 1,
        "offset_mapping": (0, 0),
    }
    empty = not any(values["input_ids"])
    for row, text in enumerate(texts):
        if text is None or empty:
            length = max(1, len(values["input_ids"][row]))
            for name in fillers.keys() & values.keys():
                values[name][row] = [fillers[name]] * length
    return values


def find_truncated_row(
    tokenizer: PreTrainedTokenizerBase, texts: list[str | None], pairs: list[str] | None, values: dict[str, list[Any]]
) -> int | None:
    """Returns the first row that was truncated at `tokenizer.model_max_length`; None if there is none."""
    # only a row that fills model_max_length can have been truncated, so only those are tokenized again
    for row, (text, mask) in enumerate(zip(texts, values["attention_mask"], strict=True)):
        if text is None or sum(mask) != tokenizer.model_max_length:
            continue
        if is_truncated(tokenizer, text, pairs[row] if pairs else None):
            return row
    return None


def is_truncated(tokenizer: PreTrainedTokenizerBase, text: str, pair: str | None) -> bool:
    """Returns whether a text, with its pair, has more tokens than `tokenizer.model_max_length`; of a very long one the
    beginning mostly tells."""
    limit = tokenizer.model_max_length
    beginnings = [None if given is None else given[: LONG_TOKEN * limit] for given in (text, pair)]
    if beginnings != [text, pair] and count_uncut_tokens(tokenizer, *beginnings) > limit + CUT_TOKENS:
        return True
    return count_uncut_tokens(tokenizer, text, pair) > limit


def count_uncut_tokens(tokenizer: PreTrainedTokenizerBase, text: str | None, pair: str | None) -> int:
    """Returns the number of tokens of a text with its pair, not truncated."""
    return len(call_tokenizer(tokenizer, text, pair, truncation=False, padding=False, verbose=False)["input_ids"])
