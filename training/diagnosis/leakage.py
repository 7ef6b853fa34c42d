"""Checks of leakage: rows, texts, images and clips that a split shares with the training split, by content."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...configuration.modalities import MEDIA
from ..data.labels import REGRESSION, SINGLE
from ..data.media import TARGET_IMAGE, find_columns, iterate_columns, iterate_keys, iterate_target_keys
from ..data.samplers import shuffle_indices
from .findings import Finding, count_of, format_share, name_some
from .subject import Subject

LEAKAGE = "leakage"
MEDIA_ROWS = 20_000  # rows of a split whose files are read, unless all are asked for
NOTED, SEVERE = 0.01, 0.1  # shares of a split's rows: of a warning and of an error
SHORT_TEXT = 5  # words: shorter texts recur by themselves ("Yeah.")
UNANSWERABLE = 0.1  # share of the training rows whose equal inputs have other labels
NOT_INPUTS = ("label", "group", "negative", "answers", "answer_start", "sampling_rate", TARGET_IMAGE)


@dataclass
class SplitKeys:
    """What identifies the inputs of a split's rows.

    numbers: of the rows in the split; texts: of each row its texts, without case and spacing; media: by modality the
    keys of each row's items.
    """

    numbers: list[int]
    texts: list[tuple[str, ...]]
    media: dict[str, list[tuple[str, ...]]]

    def list_rows(self) -> list[Hashable]:
        """Returns what all inputs of each row are together."""
        return list(zip(self.texts, *self.media.values(), strict=True))


def collect_split_keys(subject: Subject, all_rows: bool) -> dict[str, SplitKeys]:
    """Returns the keys of every split; of a split with many files, those of a random sample."""
    return {split: collect_keys(subject, rows, all_rows) for split, rows in subject.data.splits.items()}


def collect_keys(subject: Subject, data: Any, all_rows: bool) -> SplitKeys:
    """Returns the keys of the rows of a split."""
    kinds = [kind for kind in MEDIA if find_columns(data.column_names, kind)]
    kinds += [TARGET_IMAGE] if TARGET_IMAGE in data.column_names else []
    numbers = list(range(len(data)))
    if kinds and not all_rows and len(data) > MEDIA_ROWS:
        numbers = sorted(shuffle_indices(len(data), subject.recipe.seed)[:MEDIA_ROWS])
        data = data.select(numbers)
    names = list_text_inputs(subject, data.column_names)
    texts = [tuple(normalize_text(row[name]) for name in names) for row in iterate_columns(data, names)]
    media = {
        kind: [
            tuple(keys) for keys in (iterate_target_keys(data) if kind == TARGET_IMAGE else iterate_keys(data, kind))
        ]
        for kind in kinds
    }
    return SplitKeys(numbers, texts, media)


def list_text_inputs(subject: Subject, names: Sequence[str]) -> list[str]:
    """Returns the columns of texts that a model reads: none of images, clips, ids, labels or targets."""
    media = {name for kind in MEDIA for name in find_columns(names, kind)}
    left_out = {*subject.task.target_columns, *NOT_INPUTS} - {"messages"}
    return [name for name in names if name not in media and name.partition(".")[0] not in left_out]


def normalize_text(value: Any) -> str:
    """Returns a text, or the texts of a list or conversation, without case and with single spaces; "" for none."""
    if isinstance(value, list):
        return "\n".join(normalize_text(item) for item in value)
    if isinstance(value, dict):
        return "\t".join(normalize_text(item) for item in value.values())
    return "" if value is None else " ".join(str(value).split()).casefold()


def check_leakage(subject: Subject, keys: dict[str, SplitKeys], facts: dict[str, Any]) -> Iterator[Finding]:
    """Yields what the validation and test rows share with the training rows, and repeated training rows."""
    if subject.recipe.compare.folds is not None:
        yield Finding(LEAKAGE, "ok", "compare.folds joins all splits, and keeps rows with equal inputs together")
        return
    train = keys["train"]
    shared = facts.setdefault("shared", {})
    found: list[Finding] = []
    for split, own in keys.items():
        if split != "train":
            shared[split] = count_shared(own, train)
            found += describe_shared(split, own, train, shared[split])
    if len(keys) > 1 and not found:
        seen = sum(len(own.numbers) for own in keys.values())
        found.append(Finding(LEAKAGE, "ok", f"no split shares a row with train ({count_of(seen, 'row')} compared)"))
    if len(train.numbers) < len(subject.train):
        part = f"{len(train.numbers):,} of {len(subject.train):,} training rows"
        found.append(Finding(LEAKAGE, "ok", f"{part} were compared, a random sample (--all compares all)"))
    yield from found


def count_shared(own: SplitKeys, train: SplitKeys) -> dict[str, list[int]]:
    """Returns the numbers of a split's rows that share all inputs ("row"), the texts ("text", of SHORT_TEXT words or
    more) or an item of a modality with a training row."""
    whole = set(train.list_rows())
    found = {"row": [n for n, key in zip(own.numbers, own.list_rows(), strict=True) if key in whole]}
    texts = {text for row in train.texts for text in row if text}
    found["text"] = [
        n
        for n, row in zip(own.numbers, own.texts, strict=True)
        if any(text in texts and len(text.split()) >= SHORT_TEXT for text in row)
    ]
    found["short text"] = [
        n
        for n, row in zip(own.numbers, own.texts, strict=True)
        if any(text in texts and 0 < len(text.split()) < SHORT_TEXT for text in row)
    ]
    for kind, items in own.media.items():
        known = {key for row in train.media.get(kind, []) for key in row}
        found[kind] = [n for n, row in zip(own.numbers, items, strict=True) if known & set(row)]
    return found


def describe_shared(split: str, own: SplitKeys, train: SplitKeys, shared: dict[str, list[int]]) -> Iterator[Finding]:
    """Yields a line for each kind of what a split shares with the training split."""
    count, only_text = len(own.numbers), not own.media
    rows = shared["row"]
    if only_text:  # short texts that recur by themselves are no leak
        rows = [n for n in rows if n in set(shared["text"])]
    yield from judge_shared(split, "the same inputs as a training row", rows, count, SEVERE)
    others = {
        "a text that is in train too": [] if only_text else shared["text"],
        **{f"an item of {kind.replace('_', ' ')} that is in train too": shared[kind] for kind in own.media},
    }
    for what, found in others.items():
        left = sorted(set(found) - set(rows))
        is_question = what.startswith("a text") and own.media and repeats_texts(train)
        if left and is_question:
            yield Finding(LEAKAGE, "ok", f"{split}: {count_of(left, 'row')} with {what}: the texts recur in train")
        else:
            yield from judge_shared(split, what, left, count, 1.1)
    if only_text and shared["short text"]:
        yield Finding(
            LEAKAGE,
            "ok",
            f"{split}: {count_of(shared['short text'], 'row')} ({format_share(len(shared['short text']), count)}) have "
            f"a text of fewer than {SHORT_TEXT} words that is in train too: short texts recur by themselves",
        )


def repeats_texts(train: SplitKeys) -> bool:
    """Returns whether texts recur in training with other images or clips, as questions do."""
    texts = Counter(train.texts)
    return sum(count for count in texts.values() if count > 1) > 0.2 * len(train.texts)


def judge_shared(split: str, what: str, rows: list[int], count: int, severe: float) -> Iterator[Finding]:
    """Yields a line for shared rows: by their share fine, a warning, or (from `severe` on) an error."""
    if not rows:
        return
    share = len(rows) / count
    level = "error" if share >= severe else "warning" if share >= NOTED else "ok"
    message = f"{split}: {count_of(rows, 'row')} of {count:,} ({format_share(len(rows), count)}) with {what}, such as "
    message += f"row {name_some(rows)}"
    remedy = "" if level == "ok" else f"take them out of {split} or of train: what is measured on them is remembered"
    yield Finding(LEAKAGE, level, message, remedy)


def check_contradictions(subject: Subject, keys: dict[str, SplitKeys], facts: dict[str, Any]) -> Iterator[Finding]:
    """Yields training rows with equal inputs and different labels: no model can answer all of them."""
    labels = subject.data.labels
    if labels is None or labels.problem_type not in (SINGLE, REGRESSION):
        return
    train = keys["train"]
    values = np.asarray(subject.train["label"][:], dtype=float)[train.numbers]
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for place, key in enumerate(train.list_rows()):
        if not np.isnan(values[place]) and values[place] != -100:
            groups[key].append(place)
    split = [group for group in groups.values() if len({values[place] for place in group}) > 1]
    facts["contradicting"] = rows = [[train.numbers[place] for place in group] for group in split]
    if not split:
        return
    lost = count_lost(values, split, labels.problem_type == REGRESSION)
    named = "; ".join(name_some(group, 3) for group in sorted(rows, key=len)[-2:])
    message = (
        f"{count_of(sum(map(len, rows)), 'training row')} have inputs that other rows have too, with another label "
        f"(rows {named}): {format_share(lost, len(values))} of the labels cannot be learned"
    )
    if lost / len(values) < UNANSWERABLE:
        yield Finding("labels", "ok", message)
    else:
        yield Finding(
            "labels",
            "warning" if lost / len(values) < 0.5 else "error",
            message,
            "is a column missing that the label depends on? Map it in data.columns, or correct the labels",
        )


def count_lost(values: np.ndarray, groups: list[list[int]], is_number: bool) -> float:
    """Returns how many labels the best answer for equal inputs gets wrong; of numbers, the rows' worth of variance that
    it leaves."""
    if is_number:
        variance = float(np.nanvar(values)) or 1.0
        return sum(float(np.var(values[group])) * len(group) for group in groups) / variance
    return float(sum(len(group) - max(Counter(values[group].tolist()).values()) for group in groups))
