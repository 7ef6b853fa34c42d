"""Calls of a tokenizer or feature extractor that may be shared: what a call sets stays in the call, and the defaults
that the part was loaded with hold unless a call says otherwise."""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from threading import Lock, RLock
from typing import Any
from weakref import WeakKeyDictionary

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, SequenceFeatureExtractor

from .errors import describe_error, is_failure
from .limits import CEILINGS, check_ceiling

# options of a tokenizer's call that may be set when it is loaded
CALL_DEFAULTS = (
    "add_special_tokens",
    "padding",
    "truncation",
    "max_length",
    "pad_to_multiple_of",
    "return_token_type_ids",
    "return_special_tokens_mask",
)
EXTRACTOR_DEFAULTS = ("padding", "truncation", "max_length", "pad_to_multiple_of")

_locks: WeakKeyDictionary[PreTrainedTokenizerBase, Any] = WeakKeyDictionary()
_locks_lock = Lock()


def call_tokenizer(tokenizer: PreTrainedTokenizerBase, *args: Any, **options: Any) -> Any:
    """Calls the tokenizer, one thread at a time, and leaves its padding and truncation as they were.

    A fast tokenizer keeps both in the object that all threads share, so that a call would read the settings of
    another.
    """
    for text in iterate_texts(args):
        check_text(text, "a text")
    with lock_tokenizer(tokenizer), keep_settings(tokenizer):
        try:
            return tokenizer(*args, **options)
        except BaseException as error:  # of its options: errors of Python and of Rust, without the tokenizer's name
            if not is_failure(error):
                raise
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"{type(tokenizer).__name__}: {describe_error(error)}; check the options of the text") from error


def iterate_texts(values: Iterable[Any]) -> Iterator[str]:
    """Yields the texts among a call's arguments and in their lists."""
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from iterate_texts(value)


def check_text(text: str, where: str) -> None:
    """Raises ValueError for a text that is too long to tokenize, or that is no Unicode text: half of a surrogate pair,
    as a wrong decoding leaves it."""
    if len(text) > CEILINGS["text_characters"].highest:
        check_ceiling("text_characters", len(text), f"{where}: it")
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{where}: character {error.start} is {text[error.start]!r}, half of a pair and no character: decode the "
            "text again, or replace it by text.encode('utf-8', 'replace').decode()"
        ) from error


def lock_tokenizer(tokenizer: PreTrainedTokenizerBase) -> Any:
    """Returns the lock of this tokenizer, a context manager."""
    with _locks_lock:
        lock = _locks.get(tokenizer)
        return _locks.setdefault(tokenizer, RLock()) if lock is None else lock


@contextmanager
def keep_settings(tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Restores a fast tokenizer's padding and truncation at the end, which `save_pretrained` would write."""
    backend = tokenizer.backend_tokenizer if isinstance(tokenizer, PreTrainedTokenizerFast) else None
    kept = None if backend is None else (backend.padding, backend.truncation)
    try:
        yield
    finally:
        if backend is not None and kept is not None:
            padding, truncation = kept
            backend.no_padding() if padding is None else backend.enable_padding(**padding)
            backend.no_truncation() if truncation is None else backend.enable_truncation(**truncation)


def find_call_defaults(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Returns the options of the tokenizer's call that were set when it was loaded, or are saved with it:
    `AutoTokenizer.from_pretrained(..., padding="max_length", max_length=10)`.

    A `max_length` alone is none: files of many tokenizers hold that of their last training.
    """
    return _select_defaults(tokenizer.init_kwargs, CALL_DEFAULTS)


def find_extractor_defaults(extractor: SequenceFeatureExtractor, known: frozenset[str]) -> dict[str, Any]:
    """Returns the options of the feature extractor's call, among those that it knows, that were set when it was
    loaded."""
    found = _select_defaults(vars(extractor), EXTRACTOR_DEFAULTS)
    return {name: value for name, value in found.items() if name in known}


def _select_defaults(settings: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    found = {name: settings[name] for name in names if settings.get(name) is not None}
    if not found.keys() & {"padding", "truncation"}:
        found.pop("max_length", None)
    return found


def _forget_locks() -> None:
    """Forgets all locks: in a forked process, no thread is left that would release one."""
    global _locks_lock
    _locks_lock = Lock()
    _locks.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forget_locks)
