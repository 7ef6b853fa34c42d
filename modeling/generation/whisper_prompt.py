"""The decoder prompt of speech recognition (Whisper, Radford et al. 2022, https://arxiv.org/abs/2212.04356, section
2.3): tokens for the start, the language, the task, and that no timestamps follow, from the generation config."""

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
    """Builds the decoder prompt of each row; None if it would be the start token only.

    Args:
        read_option: returns an option of `generate`: `language` (a name, a code or a token; one for all rows, or a
            list), `task` ("transcribe" or "translate"), `return_timestamps`, and their tables in the generation config.
        detect: returns the likeliest of the given language tokens for each row; called if no language is given.

    Raises:
        ValueError: a language or task that the checkpoint does not have, or another number of languages than rows.
    """
    language, task, known = read_option("language"), read_option("task"), read_option("lang_to_id")
    requested = language is not None or task is not None
    if requested and (known is None or read_option("is_multilingual") is False):
        raise ValueError(
            f"language={language!r}, task={task!r}: this model transcribes one language only, leave them out"
        )
    fixed: Sequence[Any] = () if requested else read_option("forced_decoder_ids") or ()
    forced = [token for _, token in sorted(fixed, key=lambda pair: pair[0])]
    first: list[Any] = [[token] for token in forced[:1]] * rows
    if language is not None:
        first = [[token] for token in find_language_tokens(language, known, rows)]
    elif known is not None and forced[:1] in ([], [None]):
        first = [[token] for token in detect(list(known.values()))]
    tasks = find_task_tokens(language, task, read_option("task_to_id"))
    start, begun = read_option("decoder_start_token_id"), first or [[] for _ in range(rows)]
    prompts = [[token for token in (start, *row, *forced[1:], *tasks) if token is not None] for row in begun]
    prompts = [
        set_timestamps_token(prompt, bool(read_option("return_timestamps")), read_option("no_timestamps_token_id"))
        for prompt in prompts
    ]
    return prompts if len(prompts[0]) > 1 else None


def find_language_tokens(language: str | Sequence[str], known: Mapping[str, int], rows: int) -> list[int]:
    """Returns the token of each row's language (a name, a code or a token; one for all rows, or one for each).

    Raises ValueError for an unknown language, or another number of languages than rows.
    """
    from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

    given = [language] * rows if isinstance(language, str) else list(language)
    if len(given) != rows:
        raise ValueError(f"{len(given)} languages for {rows} rows: pass one for all rows, or one for each")
    tokens = []
    for name in given:
        code = TO_LANGUAGE_CODE.get(str(name).lower(), str(name).lower())
        token = known.get(code, known.get(f"<|{code}|>"))
        if token is None:
            codes = ", ".join(key.strip("<|>") for key in known)
            raise ValueError(f"language {name!r} is none of this model's: choose one of {codes}")
        tokens.append(token)
    return tokens


def find_task_tokens(language: Any, task: str | None, known: Mapping[str, int] | None) -> list[int]:
    """Returns the token of the task, in a list; transcription if only a language is given, no token if neither is.

    Raises ValueError for a task that the model does not have.
    """
    if known is None or (task is None and language is None):
        return []
    task = "transcribe" if task is None else task
    if task not in known:
        raise ValueError(f"task {task!r} is none of this model's: choose one of {', '.join(known)}")
    return [known[task]]


def set_timestamps_token(prompt: list[int], wanted: bool, without: int | None) -> list[int]:
    """Returns the decoder prompt, ending with the token `without` (no timestamps follow) unless they are `wanted`."""
    if prompt[-1] == without:
        prompt = prompt[:-1]
    return prompt if wanted or without is None else [*prompt, without]


def build_timestamp_processors(
    read_option: OptionReader, generation_config: Any, begin: int, processors: Sequence[Any] | None
) -> Any:
    """Adds the processor that keeps timestamps in order to a call's logits processors, if timestamps are requested.

    Raises ValueError if the model has no timestamps, or for timestamps of words.
    """
    wanted = read_option("return_timestamps")
    if not wanted:
        return processors
    if wanted == "word" or read_option("no_timestamps_token_id") is None:
        raise ValueError(
            f"return_timestamps={wanted!r}: pass True for timestamps of segments, with a checkpoint that generates them"
        )
    own = WhisperTimeStampLogitsProcessor(generation_config, begin_index=begin)
    return LogitsProcessorList([*(processors or ()), own])
