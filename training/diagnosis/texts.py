"""Checks of the texts as the model reads them: how long they are, what is cut, what is padding, what is unknown."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ...processing.calls import call_tokenizer
from ..data.cells import TEXT_COLUMNS
from ..data.inputs import count_tokens_per_text
from ..data.samplers import shuffle_indices
from .findings import Finding, count_of, format_share
from .subject import BuiltSubject

TEXTS_CHECK = "texts"
SAMPLED_TEXTS = 5000  # rows whose tokens are counted
CUT, UNKNOWN = 0.05, 0.1  # shares of texts that are cut, and of tokens that the tokenizer does not know
NO_LIMIT = 10**6  # tokens: a tokenizer without a limit says a huge number


def check_texts(subject: BuiltSubject, facts: dict[str, Any]) -> Iterator[Finding]:
    """Yields the lengths of the training texts by column, with what is cut, padding and unknown."""
    train: Any = subject.train
    if len(train) > SAMPLED_TEXTS:
        train = train.select(sorted(shuffle_indices(len(train), subject.recipe.seed)[:SAMPLED_TEXTS]))
    for name in [name for name in TEXT_COLUMNS if name in train.column_names]:
        texts = list_column_texts(train[name][:])
        tokenizer: Any = find_column_tokenizer(subject, name)
        if tokenizer is None or not texts:
            continue
        lengths = count_tokens_per_text(tokenizer, texts)
        limit = find_text_limit(subject, name, tokenizer)
        facts.setdefault("tokens", {})[name] = describe_lengths(lengths)
        yield from check_lengths(subject, name, lengths, limit, facts)
        yield from check_unknown_tokens(tokenizer, name, texts[:500])


def list_column_texts(values: Sequence[Any]) -> list[str]:
    """Returns the texts of a column that are present; of a list of texts each."""
    flat = (text for value in values for text in (value if isinstance(value, list) else [value]))
    return [text for text in flat if isinstance(text, str) and text]


def find_column_tokenizer(subject: BuiltSubject, name: str) -> Any:
    """Returns the tokenizer that reads a column: targets are the decoder's."""
    if name == "target" and subject.task.generates:
        return subject.processor.target_tokenizer
    return subject.processor.find_part("tokenizer")


def find_text_limit(subject: BuiltSubject, name: str, tokenizer: Any) -> int | None:
    """Returns the number of tokens at which a column's texts are cut; None if they are not."""
    given = subject.recipe.max_length
    if name == "target":
        given = getattr(subject.collator.settings, "max_target_length", None)
    elif name in ("question", "context", "prompt"):
        return None  # cut into windows, or by the whole conversation
    limits = [limit for limit in (given, tokenizer.model_max_length) if limit is not None and limit < NO_LIMIT]
    return min(limits, default=None)


def describe_lengths(lengths: Sequence[int]) -> dict[str, float]:
    """Returns the median, the 95th percentile and the maximum of lengths in tokens."""
    values = np.asarray(lengths)
    return {"median": float(np.median(values)), "p95": float(np.percentile(values, 95)), "max": int(values.max())}


def check_lengths(
    subject: BuiltSubject, name: str, lengths: list[int], limit: int | None, facts: dict[str, Any]
) -> Iterator[Finding]:
    """Yields the lengths of a column with the share of padding in a batch, and a warning for texts that are cut."""
    found = facts["tokens"][name]
    line = (
        f"{name}: {found['median']:.0f} tokens (median), {found['p95']:.0f} (95th percentile), {found['max']} (longest)"
    )
    cut = sum(length > limit for length in lengths) if limit is not None else 0
    found["cut"] = cut / len(lengths)
    kept = [min(length, limit) if limit is not None else length for length in lengths]
    batch = min(subject.args.train_batch_size, len(kept))
    if batch > 1 and name in ("text", "target"):
        plain, grouped = measure_padding(kept, batch, subject.recipe.seed)
        found |= {"padding": plain, "padding_grouped": grouped}
        line += f"; padding in batches of {batch}: {format_share(plain, 1)}"
        line += f", {format_share(grouped, 1)} with train_sampling_strategy: group_by_length"
    if cut / len(lengths) > CUT:
        key = "settings.max_target_length" if name == "target" else "max_length"
        yield Finding(
            TEXTS_CHECK,
            "warning",
            f"{line}\n{count_of(cut, 'text')} ({format_share(cut, len(lengths))}) are cut at {limit} tokens",
            f"raise {key} to {found['p95']:.0f} or more, if the model has that many positions, or shorten the texts",
        )
    else:
        some = f"; {count_of(cut, 'text')} cut at {limit}" if cut else f"; none cut at {limit}" if limit else ""
        yield Finding(TEXTS_CHECK, "ok", f"{line}{some}")


def measure_padding(lengths: Sequence[int], batch: int, seed: int) -> tuple[float, float]:
    """Returns the share of padding in batches of random rows, and in batches of rows of similar length."""
    order = [lengths[n] for n in shuffle_indices(len(lengths), seed)]
    return compute_padding(order, batch), compute_padding(sorted(lengths), batch)


def compute_padding(lengths: Sequence[int], batch: int) -> float:
    """Returns the share of padding, 0..1, if rows in this order are cut into batches."""
    batches = [lengths[start : start + batch] for start in range(0, len(lengths), batch)]
    places = sum(max(part) * len(part) for part in batches)
    return 1 - sum(lengths) / places if places else 0.0


def check_unknown_tokens(tokenizer: Any, name: str, texts: Sequence[str]) -> Iterator[Finding]:
    """Yields a warning for texts that the tokenizer does not know: another language, script or case."""
    unknown = tokenizer.unk_token_id
    if unknown is None:
        return
    rows = call_tokenizer(tokenizer, list(texts), add_special_tokens=False)["input_ids"]
    ids = [number for row in rows for number in row]
    count = sum(number == unknown for number in ids)
    if ids and count / len(ids) > UNKNOWN:
        yield Finding(
            TEXTS_CHECK,
            "warning",
            f"{name}: {format_share(count, len(ids))} of the tokens are {tokenizer.unk_token}",
            "the tokenizer does not know this language or script: choose a checkpoint that does",
        )
