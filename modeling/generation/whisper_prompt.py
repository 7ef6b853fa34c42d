"""The decoder prompt of speech recognition (Whisper, Radford et al. 2022, https://arxiv.org/abs/2212.04356, section
2.3): the start token, the language, the task, and that no timestamps follow, as the generation config names them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformers import LogitsProcessorList
from transformers.generation.logits_process import WhisperTimeStampLogitsProcessor

# the arguments of `generate` that shape the prompt
PROMPT_OPTIONS = ("language", "task", "return_timestamps")
OptionReader = Callable[[str], Any]


def build_decoder_prompt(
    read_option: OptionReader, rows: int, detect: Callable[[Sequence[int]], list[int]]
) -> list[list[int]] | None:
    """Builds the decoder prompt of each row; None where nothing but the start token is fixed.

    Args:
        read_option: returns an option of `generate`: `language` (a name, a code or a token; one for all rows, or a
            list), `task` ("transcribe" or "translate"), `return_timestamps`, and their tables in the generation config.
        detect: returns the likeliest of some language tokens for each row; called where no language is given.

    Raises:
        ValueError: a language or task that the checkpoint does not have, or another number of languages than rows.
    """
    language, task, known = read_option("language"), read_option("task"), read_option("lang_to_id")
    said = language is not None or task is not None
    if said and (known is None or read_option("is_multilingual") is False):
        raise ValueError(f"language={language!r}, task={task!r}: this model writes one language alone, leave them out")
    fixed: Sequence[Any] = () if said else read_option("forced_decoder_ids") or ()
    forced = [token for _, token in sorted(fixed, key=lambda pair: pair[0])]
    first: list[Any] = [[token] for token in forced[:1]] * rows
    if language is not None:
        first = [[token] for token in find_language_tokens(language, known, rows)]
    elif known is not None and forced[:1] in ([], [None]):
        first = [[token] for token in detect(list(known.values()))]
    tasks = find_task_tokens(language, task, read_option("task_to_id"))
    start, begun = read_option("decoder_start_token_id"), first or [[] for _ in range(rows)]
    texts = [[token for token in (start, *row, *forced[1:], *tasks) if token is not None] for row in begun]
    texts = [
        set_timestamps_token(text, bool(read_option("return_timestamps")), read_option("no_timestamps_token_id"))
        for text in texts
    ]
    return texts if len(texts[0]) > 1 else None


def find_language_tokens(language: str | Sequence[str], known: Mapping[str, int], rows: int) -> list[int]:
    """Returns the token of each row's language."""
    from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

    given = [language] * rows if isinstance(language, str) else list(language)
    if len(given) != rows:
        raise ValueError(f"{len(given)} languages for {rows} rows: give one for all of them, or one each")
    tokens = []
    for name in given:
        code = TO_LANGUAGE_CODE.get(str(name).lower(), str(name).lower())
        token = known.get(code, known.get(f"<|{code}|>"))
        if token is None:
            codes = ", ".join(key.strip("<|>") for key in known)
            raise ValueError(f"language {name!r} is none of this model's: {codes}")
        tokens.append(token)
    return tokens


def find_task_tokens(language: Any, task: str | None, known: Mapping[str, int] | None) -> list[int]:
    """Returns the task's token; transcription where only a language is given."""
    if known is None or (task is None and language is None):
        return []
    task = "transcribe" if task is None else task
    if task not in known:
        raise ValueError(f"task {task!r} is none of this model's: {', '.join(known)}")
    return [known[task]]


def set_timestamps_token(text: list[int], wanted: bool, without: int | None) -> list[int]:
    """Returns the decoder prompt with the token that says that no timestamps follow, or without it."""
    if text[-1] == without:
        text = text[:-1]
    return text if wanted or without is None else [*text, without]


def build_timestamp_processors(
    read_option: OptionReader, generation_config: Any, begin: int, processors: Sequence[Any] | None
) -> Any:
    """Adds the processor that keeps timestamps in order to a call's logits processors, where timestamps are wanted.

    Raises ValueError where the model has no timestamps, or for timestamps of words.
    """
    wanted = read_option("return_timestamps")
    if not wanted:
        return processors
    if wanted == "word" or read_option("no_timestamps_token_id") is None:
        raise ValueError(
            f"return_timestamps={wanted!r}: only checkpoints with timestamps write them, by segments (True)"
        )
    own = WhisperTimeStampLogitsProcessor(generation_config, begin_index=begin)
    return LogitsProcessorList([*(processors or ()), own])
