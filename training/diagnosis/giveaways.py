"""Checks of inputs that give the label away: a text with the label's name in it, a column that is the label under
another name."""

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import numpy as np

from ..data.files import load_source
from ..data.labels import SINGLE
from ..data.loading import choose_splits
from .findings import Finding, count_of, format_share
from .leakage import list_text_inputs, normalize_text
from .subject import Subject

LEAKED_NAME, LIFT = 0.5, 2.0  # share of texts with their label's name, and how much more often than with another's
PREDICTS_ALL, COVERED = 0.98, 0.5  # share of rows that a value predicts, of the share of rows whose value recurs
GAIN = 0.2  # of the share predicted over that of the most frequent label
MIN_NAME, MIN_ROWS = 3, 20  # letters of a name; rows


def check_giveaways(subject: Subject, facts: dict[str, Any]) -> Iterator[Finding]:
    """Yields what gives the label away in the training rows."""
    labels = subject.data.labels
    if labels is None or labels.problem_type != SINGLE or len(subject.train) < MIN_ROWS:
        return
    values = subject.train["label"][:]
    texts = collect_input_texts(subject)
    yield from check_names_in_texts(texts, values, labels.names, facts)
    for name, (cells, given) in collect_columns(subject).items():
        yield from check_column(name, cells, given, facts)


def collect_input_texts(subject: Subject) -> list[str]:
    """Returns all texts of each training row, joined."""
    names = list_text_inputs(subject, subject.train.column_names)
    columns = [subject.train[name][:] for name in names]
    return [" \n ".join(map(normalize_text, cells)) for cells in zip(*columns, strict=True)] if columns else []


def check_names_in_texts(
    texts: Sequence[str], values: Sequence[int], names: Sequence[str], facts: dict[str, Any]
) -> Iterator[Finding]:
    """Yields the share of texts with the name of their own label, an error or warning if that is much more often than
    the names of other rows' labels are in them."""
    patterns = {
        n: re.compile(rf"(?<!\w){re.escape(name.casefold())}(?!\w)")
        for n, name in enumerate(names)
        if len(name) >= MIN_NAME and not name.isdigit()
    }
    known = [(text, value) for text, value in zip(texts, values, strict=False) if value in patterns]
    if not known or len(known) < 0.5 * len(values):
        return
    named = [{n for n, pattern in patterns.items() if pattern.search(text)} for text, _ in known]
    own = float(np.mean([value in found for found, (_, value) in zip(named, known, strict=True)]))
    other = float(np.mean([bool(found - {value}) for found, (_, value) in zip(named, known, strict=True)]))
    facts["texts_with_label_name"] = own
    if own == 0:
        return
    message = f"the text contains the label's name in {format_share(own, 1)} of the training rows"
    message += f" (that of another label: {format_share(other, 1)})"
    if own >= LEAKED_NAME and own >= LIFT * other:
        yield Finding(
            "leakage",
            "warning",
            message,
            "the label can be read in the input: will it be there when the "
            "model is used? If not, take it out of the text",
        )
    elif own >= 0.01:
        yield Finding("leakage", "ok", message)


def collect_columns(subject: Subject) -> dict[str, tuple[list[Any], list[Any]]]:
    """Returns the cells of each text column with the rows' labels, by its own name: of columns that are joined into one
    text, each as it stands in the source."""
    data, train = subject.recipe.data, subject.train
    joined = [name for value in data.columns.values() if isinstance(value, list) for name in value]
    names = list_text_inputs(subject, train.column_names)
    label: Any = data.columns.get("label", "label")
    if joined and data.stream is None:
        train = choose_splits(load_source(data, True), data)["train"]
        names = joined
    else:
        label = "label"
    values = train[label][:]
    return {name: (train[name][:], values) for name in names if is_single_cell(train[name][0])}


def is_single_cell(cell: Any) -> bool:
    """Returns whether a cell is a single value rather than a list, a mapping or bytes."""
    return cell is None or isinstance(cell, (str, int, float, bool))


def check_column(
    name: str, cells: Sequence[Any], values: Sequence[Hashable], facts: dict[str, Any]
) -> Iterator[Finding]:
    """Yields a warning for a column whose value alone predicts the label of other rows with the same value."""
    predicted, covered, majority = measure_column([normalize_text(cell) for cell in cells], values)
    facts.setdefault("predicted_by_column", {})[name] = predicted
    if covered < COVERED or predicted < PREDICTS_ALL or predicted - majority < GAIN:
        return
    yield Finding(
        "leakage",
        "warning",
        f"the column {name} alone predicts the label: in {format_share(predicted, 1)} of "
        f"{count_of(len(values), 'row')} another row with the same value has the same label (the most frequent label: "
        f"{format_share(majority, 1)})",
        f"is {name} known when the model is used, or is it the label under another name? Leave it out of data.columns",
    )


def measure_column(cells: Sequence[Hashable], values: Sequence[Hashable]) -> tuple[float, float, float]:
    """Returns the share of rows whose label the most frequent label of the *other* rows with their value predicts (of
    the rows whose value recurs), the share of rows whose value recurs, and the share of the most frequent label.

    Leaving the row itself out keeps values that occur once, such as texts, from predicting anything.
    """
    counts: dict[Hashable, Counter[Hashable]] = defaultdict(Counter)
    for cell, value in zip(cells, values, strict=True):
        counts[cell][value] += 1
    right = recurring = 0
    for cell, value in zip(cells, values, strict=True):
        others = counts[cell].total() - 1
        if others:
            recurring += 1
            best = max(count for label, count in counts[cell].items() if label != value) if len(counts[cell]) > 1 else 0
            right += counts[cell][value] - 1 > best or (counts[cell][value] - 1 == best and best > 0)
    majority = max(Counter(values).values()) / len(values)
    return (right / recurring if recurring else 0.0), recurring / len(values), majority
