"""Checks of the labels: how many rows each class has, in which split it is missing, and whether classes are numbers."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..data.labels import MULTI, REGRESSION, SINGLE, LabelSpec
from .findings import Finding, count_of, format_share, name_some
from .subject import Subject

LABELS_CHECK = "labels"
RARE_CLASS_ROWS = 5  # of a class, below which it is hardly learned
RARE_BY_CHANCE = 0.05  # a class is missing from a split by mistake if chance alone would do so less often
LARGE_MAJORITY = 0.85  # share of the largest class from which on a model may answer nothing else
LARGE_RATIO = 50  # rows of the largest class for one of the smallest, with which half of all rows is such a share
MANY_CLASSES, ROWS_PER_NUMBER = 20, 8  # numbers with more values and fewer rows a value are amounts, not classes
FAR_OUT = 20  # interquartile ranges from the median, beyond which equal targets are hardly amounts


def check_label_counts(subject: Subject, facts: dict[str, Any]) -> Iterator[Finding]:
    """Yields what the labels of a task look like; nothing for a task without labels."""
    labels = subject.data.labels
    if labels is None:
        return
    if labels.problem_type == REGRESSION:
        yield from check_numbers_to_predict(subject, facts)
        return
    counts = {split: count_classes(rows["label"][:], labels) for split, rows in subject.data.splits.items()}
    facts["counts"] = {split: {labels.names[key]: n for key, n in found.items()} for split, found in counts.items()}
    yield describe_classes(counts["train"], labels, len(subject.train))
    yield from check_unknown(subject)
    yield from check_rare_classes(counts["train"], labels)
    yield from check_amounts(counts["train"], labels, len(subject.train))
    if labels.problem_type == SINGLE:
        yield from check_imbalance(subject, counts["train"], labels)
    for split in counts.keys() - {"train"}:
        yield from check_absent_classes(counts, split, labels, len(subject.data.splits[split]))


def count_classes(values: list[Any], labels: LabelSpec) -> dict[int, int]:
    """Returns the number of rows of each class, also of those without any; unknown labels are left out."""
    if labels.problem_type == MULTI:
        numbers = [number for value in values for number in list_positive(value, labels.count)]
    else:
        numbers = [value for value in values if value >= 0]
    found = Counter(numbers)
    return {number: found.get(number, 0) for number in range(labels.count)}


def list_positive(value: Any, count: int) -> list[int]:
    """Returns the classes of a row with several labels: encoded as their numbers, or as 0 and 1 for each class (which
    `code_vector` writes as numbers of classes, negative for those not known)."""
    return [int(number) for number in value if 0 <= int(number) < count]


def describe_classes(counts: dict[int, int], labels: LabelSpec, rows: int) -> Finding:
    """Returns the line with the counts of the training split, largest first."""
    order = sorted(counts, key=lambda number: -counts[number])
    shown = name_some((f"{labels.names[n]} {counts[n]:,} ({format_share(counts[n], rows)})" for n in order), 10)
    kind = "labels, several a row" if labels.problem_type == MULTI else "classes"
    return Finding(LABELS_CHECK, "ok", f"{labels.count} {kind} in {count_of(rows, 'training row')}: {shown}")


def check_unknown(subject: Subject) -> Iterator[Finding]:
    """Yields a warning for rows whose label is not known."""
    for split, rows in subject.data.splits.items():
        values = rows["label"][:]
        unknown = [n for n, value in enumerate(values) if (value < 0 if isinstance(value, int) else lacks_label(value))]
        if unknown:
            yield Finding(
                LABELS_CHECK,
                "warning",
                f"{count_of(unknown, 'row')} of {len(values):,} of {split} have no label "
                f"(rows {name_some(unknown)}): they count in no loss and no metric",
                "fill in the labels, or leave these rows out of the file",
            )


def lacks_label(value: Any) -> bool:
    """Returns whether a number or a list of labels is not known."""
    return bool(np.isnan(value)) if isinstance(value, float) else any(number < 0 for number in value)


def check_rare_classes(counts: dict[int, int], labels: LabelSpec) -> Iterator[Finding]:
    """Yields a warning for classes with no or few training rows."""
    absent = [labels.names[n] for n, count in counts.items() if not count]
    few = [f"{labels.names[n]} {count}" for n, count in counts.items() if 0 < count < RARE_CLASS_ROWS]
    if absent:
        yield Finding(
            LABELS_CHECK,
            "warning",
            f"{count_of(absent, 'class')} without a training row: {name_some(absent)}",
            "the model can never answer them: take them out of data.labels, or add rows",
        )
    if few:
        yield Finding(
            LABELS_CHECK,
            "warning",
            f"{count_of(few, 'class')} with fewer than {RARE_CLASS_ROWS} training rows: {name_some(few)}",
            "add rows, join classes, or leave them out with data.leave_out",
        )


def check_amounts(counts: dict[int, int], labels: LabelSpec, rows: int) -> Iterator[Finding]:
    """Yields a warning for class names that are many numbers with few rows each: an amount to predict."""
    if (
        labels.count < MANY_CLASSES
        or labels.count * ROWS_PER_NUMBER < rows
        or not all(map(is_numeric_name, labels.names))
    ):
        return
    yield Finding(
        LABELS_CHECK,
        "warning",
        f"the {labels.count} classes are numbers ({name_some(labels.names)}), with {rows:,} rows",
        "if they are amounts to predict, set data.regression: true",
    )


def is_numeric_name(name: str) -> bool:
    """Returns whether a class name is a number."""
    try:
        float(name)
    except ValueError:
        return False
    return True


def check_imbalance(subject: Subject, counts: dict[int, int], labels: LabelSpec) -> Iterator[Finding]:
    """Yields a warning for classes of very unequal size without class weights."""
    present = [count for count in counts.values() if count]
    largest, total = max(present), sum(present)
    if subject.args.class_weights is not None or len(present) < 2:
        return
    if largest / total < (LARGE_MAJORITY if largest / min(present) < LARGE_RATIO else 0.5):
        return
    name = labels.names[max(counts, key=lambda number: counts[number])]
    yield Finding(
        LABELS_CHECK,
        "warning",
        f"{name!r} has {format_share(largest, total)} of the rows and the smallest class {min(present):,} rows, "
        "without class weights: a model that always answers the same looks good by accuracy",
        "set training.class_weights: balanced, and measure f1_macro or balanced_accuracy",
    )


def check_absent_classes(
    counts: dict[str, dict[int, int]], split: str, labels: LabelSpec, rows: int
) -> Iterator[Finding]:
    """Yields a line for classes of the training split that a split lacks: a warning if chance hardly explains it."""
    total = max(1, sum(counts["train"].values()))
    shares = {number: count / total for number, count in counts["train"].items() if count}
    absent = [number for number in shares if not counts[split].get(number)]
    if not absent:
        return
    limit = RARE_BY_CHANCE / labels.count
    odd = [number for number in absent if (1 - shares[number]) ** rows < limit]
    names = name_some(labels.names[number] for number in odd or absent)
    message = f"{split} has no row of {names}"
    if odd:
        yield Finding(
            LABELS_CHECK,
            "warning",
            f"{message}, which chance hardly explains ({rows:,} rows)",
            "were the rows sorted by class when they were split? Split them at random",
        )
    else:
        yield Finding(LABELS_CHECK, "ok", f"{message}: rare classes in {rows:,} rows")


def check_numbers_to_predict(subject: Subject, facts: dict[str, Any]) -> Iterator[Finding]:
    """Yields the range of the targets of a regression: an error if all are equal, a warning for values far out."""
    values = np.asarray(subject.train["label"][:], dtype=float)
    known = values[~np.isnan(values)]
    mean, std = float(known.mean()), float(known.std())
    facts["targets"] = {"mean": mean, "std": std, "min": float(known.min()), "max": float(known.max())}
    line = f"numbers of {known.min():g} to {known.max():g}, mean {mean:g}, deviation {std:g}, in {len(known):,} rows"
    if not std:
        yield Finding(
            LABELS_CHECK,
            "error",
            f"all targets are equal: {mean:g} in {len(known):,} rows",
            "map the column to predict in data.columns.label",
        )
        return
    yield Finding(LABELS_CHECK, "ok", line)
    yield from check_unknown(subject)
    middle, spread = np.median(known), max(float(np.subtract(*np.percentile(known, [75, 25]))), std / 1000)
    far = [n for n, value in enumerate(values) if abs(value - middle) > FAR_OUT * spread]
    value, count = Counter(float(values[n]) for n in far).most_common(1)[0] if far else (0.0, 0)
    if count > 1:  # one value, several times: a mark rather than a long tail
        rows = name_some(n for n in far if values[n] == value)
        yield Finding(
            LABELS_CHECK,
            "warning",
            f"{count} targets are {value:g}, far from all others (rows {rows})",
            "is this a mark for 'not known'? Empty such cells, or correct them",
        )
