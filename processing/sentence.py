"""How a sentence encoder (sentence-transformers, https://sbert.net) reads texts: its length, lower case and prompts."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

from tokenizers import normalizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..configuration.sentence import SENTENCE_MODULES_FILE, SENTENCE_SETTINGS_FILE, SENTENCE_TOWER_FILES

DEFAULT_PROMPT = "default"  # the name of the prompt of a call that gives none
JsonReader = Callable[[str], Any]


def follow_sentence_encoder(tokenizer: PreTrainedTokenizerBase, read_json: JsonReader) -> PreTrainedTokenizerBase:
    """Returns a copy of the tokenizer that truncates and lowers texts as the folder's sentence encoder does; the
    tokenizer itself if the folder holds none.

    read_json: returns the content of a file of the folder, None if there is no such file. Raises ValueError for a slow
    tokenizer that is to lower texts.
    """
    if read_json(SENTENCE_MODULES_FILE) is None:
        return tokenizer
    settings = next((found for name in SENTENCE_TOWER_FILES if (found := read_json(name)) is not None), {})
    tokenizer, length = deepcopy(tokenizer), settings.get("max_seq_length")
    if length is not None:
        tokenizer.model_max_length = length
    if settings.get("do_lower_case"):
        lower_texts(tokenizer)
    return tokenizer


def lower_texts(tokenizer: PreTrainedTokenizerBase) -> None:
    """Makes the tokenizer lower every text first. Raises ValueError for a slow tokenizer."""
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ValueError(
            f"do_lower_case needs a fast tokenizer, not a {type(tokenizer).__name__}: lower the texts first"
        )
    own: Any = tokenizer.backend_tokenizer.normalizer
    parts: list[Any] = [] if own is None else [*own] if type(own) is normalizers.Sequence else [own]
    if not any(isinstance(part, normalizers.Lowercase) for part in parts):
        tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *parts])


def find_prompts(read_json: JsonReader) -> dict[str, str] | None:
    """Returns the prompts of the folder's sentence encoder by name, with its default under "default"; None without
    any."""
    if read_json(SENTENCE_MODULES_FILE) is None:
        return None
    settings: Mapping[str, Any] = read_json(SENTENCE_SETTINGS_FILE) or {}
    prompts, default = dict(settings.get("prompts") or {}), settings.get("default_prompt_name")
    named = {name: text for name, text in prompts.items() if text}
    return named | ({} if default is None else {DEFAULT_PROMPT: prompts[default]}) or None


def add_prompt(texts: list[str | None], prompt: str | None, prompts: Mapping[str, str] | None) -> list[str | None]:
    """Puts the prompt before every text: `prompt` or, if it is None, the default of `prompts`."""
    before = (prompts or {}).get(DEFAULT_PROMPT, "") if prompt is None else prompt
    return [text if text is None else before + text for text in texts] if before else texts
