"""Checks of rows without inputs, and of images and clips: whether they can be read, how large and how long they are."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np

from ...configuration.modalities import MEDIA, MODALITIES
from ...processing.audio import find_max_samples, read_samples
from ...processing.images import read_image
from ..data.media import READ_ERRORS, TARGET_IMAGE, Row, find_columns, list_present
from ..data.samplers import shuffle_indices
from ..data.unreadable_rows import find_unreadable, format_unreadable, is_empty_row
from .findings import Finding, count_of, format_share, name_some
from .subject import BuiltSubject

SAMPLED_ROWS = 48  # rows of each split whose images and clips are read, unless all are asked for
LONG_CLIPS = 0.05  # share of clips that are longer than the feature extractor reads
ABSENT = 0.9  # share of rows without an item of a modality


def check_empty_rows(subject: BuiltSubject, facts: dict[str, Any]) -> Iterator[Finding]:
    """Yields rows with nothing to read, at which training stops, and the share of rows without a modality."""
    for split, data in subject.data.splits.items():
        columns = {kind: find_columns(data.column_names, kind) for kind in MODALITIES}
        names = [name for own in columns.values() for name in own if not name.endswith("_id")]
        if not names:
            continue
        absent: Counter[str] = Counter()
        empty: list[int] = []
        for number, row in enumerate(data.select_columns(names)):
            absent.update(kind for kind, own in columns.items() if own and not holds(cast("Row", row), kind))
            if is_empty_row(cast("Row", row)):
                empty.append(number)
        facts.setdefault("absent", {})[split] = dict(absent)
        subject.unreadable.update(empty if split == "train" else ())
        yield from describe_absent(subject, split, len(data), absent, empty)


def holds(row: Row, kind: str) -> bool:
    """Returns whether a row has an item of a modality."""
    return row.get("text") not in (None, []) if kind == "text" else bool(list_present(row, kind))


def describe_absent(
    subject: BuiltSubject, split: str, count: int, absent: Counter[str], empty: list[int]
) -> Iterator[Finding]:
    """Yields the lines about a split's rows without inputs."""
    if empty:
        skips = subject.recipe.data.on_error == "skip"
        yield Finding(
            "inputs",
            "warning" if skips else "error",
            f"{count_of(empty, 'row')} of {split} with nothing to read, such as row {name_some(empty)}",
            "" if skips else "training stops there: fill them, or leave them out with data.on_error: skip",
        )
    for kind, number in absent.items():
        message = f"{split}: {count_of(number, 'row')} of {count:,} ({format_share(number, count)}) without {kind}"
        if number > ABSENT * count and not empty:
            yield Finding("inputs", "warning", message, f"is the column for {kind} the right one (data.columns)?")
        elif number:
            yield Finding("inputs", "ok", message)


def check_media(subject: BuiltSubject, facts: dict[str, Any], all_rows: bool) -> Iterator[Finding]:
    """Yields images, clips and videos that cannot be read, and the sizes and lengths of those that can."""
    for split, data in subject.data.splits.items():
        kinds = [kind for kind in (*MEDIA, TARGET_IMAGE) if find_columns_of(data.column_names, kind)]
        if not kinds:
            continue
        numbers = list(range(len(data)))
        if not all_rows and len(data) > SAMPLED_ROWS:
            numbers = sorted(shuffle_indices(len(data), subject.recipe.seed)[:SAMPLED_ROWS])
        sample = data.select(numbers)
        found = [
            item._replace(row=numbers[item.row])
            for item in find_unreadable(sample, split, subject.collator)
            if item.row not in list_empty(sample)
        ]
        which = f"{len(numbers):,} of {len(data):,} rows read" if len(numbers) < len(data) else "all rows read"
        if found:
            skips = subject.recipe.data.on_error == "skip"
            yield Finding(
                "media",
                "warning" if skips else "error",
                f"{split}: {count_of(found, 'row')} cannot be read ({which}): {format_unreadable(found)}",
                "they are left out (data.on_error: skip)"
                if skips
                else "training stops there: repair them, or leave them out with data.on_error: skip",
            )
        bad = {item.row for item in found}
        subject.unreadable.update(bad if split == "train" else ())
        good = [row for number, row in zip(numbers, sample, strict=True) if number not in bad]
        for kind in kinds:
            yield from describe_media(subject, split, kind, good, which, facts)


def find_columns_of(names: Sequence[str], kind: str) -> list[str]:
    """Returns the columns with items of a modality, or the target image."""
    return [TARGET_IMAGE] * (TARGET_IMAGE in names) if kind == TARGET_IMAGE else find_columns(names, kind)


def list_empty(data: Any) -> set[int]:
    """Returns the numbers of rows with nothing to read, which have a line of their own."""
    return {number for number, row in enumerate(data) if is_empty_row(cast("Row", row))}


def describe_media(
    subject: BuiltSubject, split: str, kind: str, rows: Sequence[Any], which: str, facts: dict[str, Any]
) -> Iterator[Finding]:
    """Yields the sizes of images or the lengths of audio clips, and those that hold nothing."""
    if kind not in ("image", "audio", TARGET_IMAGE):
        yield Finding("media", "ok", f"{split}: {kind}s can be read ({which})")
        return
    measure = measure_clip if kind == "audio" else measure_image
    sizes, flat = [], Counter[Any]()
    for row in rows:
        for value in list_present(row, kind):
            try:
                size, content = measure(value)
            except READ_ERRORS:  # has a line above
                continue
            sizes.append(size)
            flat.update(() if content is None else (content,))
    if not sizes:
        return
    line = describe_seconds(sizes) if kind == "audio" else describe_pixels(sizes)
    facts.setdefault("media", {}).setdefault(split, {})[kind] = line
    name = kind.replace("_", " ")
    yield Finding("media", "ok", f"{split}: {count_of(sizes, f'{name}')}: {line} ({which})")
    content, count = flat.most_common(1)[0] if flat else ("", 0)
    if count > 0.5 * len(sizes) and len(sizes) > 1:
        yield Finding(
            "media",
            "warning",
            f"{split}: {format_share(count, len(sizes))} of the {name}s are all {content}",
            "look at them: were they written or decoded wrongly?",
        )
    yield from check_clip_limit(subject, split, sizes) if kind == "audio" else ()


def measure_image(value: Any) -> tuple[tuple[int, int], str | None]:
    """Returns the width and height of an image in pixels, and its colour if it has a single one."""
    image = read_image(value)
    extrema: Any = image.getextrema()
    is_flat = all(low == high for low, high in extrema)
    return image.size, f"of the one colour {tuple(low for low, _ in extrema)}" if is_flat else None


def measure_clip(value: Any) -> tuple[float, str | None]:
    """Returns the length of a clip in seconds, and whether it is silent."""
    samples, rate = read_samples(value, None)
    frames = max(np.shape(samples)) if np.size(samples) else 0
    return frames / float(rate or 1), None if np.any(samples) else "silent"


def describe_pixels(sizes: Sequence[Any]) -> str:
    """Returns the sizes of images, width x height in pixels."""
    if len(set(sizes)) == 1:
        return "{} x {} pixels".format(*sizes[0])
    order = sorted(sizes, key=lambda size: size[0] * size[1])
    low, middle, high = order[0], order[len(order) // 2], order[-1]
    return f"{low[0]} x {low[1]} to {high[0]} x {high[1]} pixels, median {middle[0]} x {middle[1]}"


def describe_seconds(lengths: Sequence[float]) -> str:
    """Returns the lengths of clips in seconds."""
    return f"{min(lengths):.2f} to {max(lengths):.2f} s, median {float(np.median(lengths)):.2f} s"


def check_clip_limit(subject: BuiltSubject, split: str, lengths: Sequence[float]) -> Iterator[Finding]:
    """Yields a warning for clips that are longer than the feature extractor reads."""
    extractor: Any = subject.processor.find_part("feature_extractor")
    limit = find_clip_limit(extractor)
    cut = sum(length > limit for length in lengths) if limit is not None else 0
    if cut > LONG_CLIPS * len(lengths):
        yield Finding(
            "media",
            "warning",
            f"{split}: {count_of(cut, 'clip')} of {len(lengths)} longer than {limit:g} s are cut there",
            "cut them into shorter clips with a label each, or choose another audio tower",
        )


def find_clip_limit(extractor: Any) -> float | None:
    """Returns the seconds that a feature extractor reads; None without a limit."""
    if extractor is None:
        return None
    samples = find_max_samples(extractor)
    return None if samples is None else samples / extractor.sampling_rate
