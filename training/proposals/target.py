"""Finds out what is to be predicted: classes, several labels, a number, a text or an image."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any, NamedTuple

from ..data.cells import is_text, parse_float
from ..data.label_columns import split_label_names
from ..data.label_vectors import guess_vectors, is_unknown
from ..data.labels import sort_names
from ..recipes.errors import RecipeError
from .columns import CATEGORY_SHARE, ColumnFacts, count_words
from .table import SourceTable, check_column_names

TARGET_NAMES = ("label", "labels", "target", "class", "y")  # of a column that needs no --target
SEPARATED_WORDS = 3  # of a label among several in a text, on average at most
SEPARATORS = (";", "|", ",", "/")
MAX_WHOLE_CLASSES = 20  # whole numbers with more different values are predicted as numbers
MAX_CLASSES = 1000
LABEL_WORDS, TEXT_WORDS = 4, 5  # a label has at most so many words on average; a text to write at least so many
WRITTEN_NAME = re.compile(r"^(captions?|summar(y|ies)|translations?|reply|replies|responses?)$", re.IGNORECASE)
NONE_NAME = re.compile(r"^(none|nothing|neither|no[ _-]?(labels?|tags?)|null|nan|n/?a|-+)$", re.IGNORECASE)
AMOUNT = re.compile(r"[$€£¥]?\s?-?\d[\d.,' ]*\s?(%|[$€£¥]|[a-zA-Z]{1,3})?")


class TargetFacts(NamedTuple):
    """What is to be predicted.

    kind: classes, labels (several a row), number, text (or lists of texts, of which each is right) or image; names: of
    the classes, in order; separator: of several labels in a text; known: rows that have a target; rare: classes of a
    single row; words: of a text on average; notes: what was chosen, and how to change it.
    """

    column: str
    kind: str
    names: tuple[str, ...] = ()
    separator: str | None = None
    known: int = 0
    rare: tuple[str, ...] = ()
    words: float = 0.0
    notes: tuple[str, ...] = ()

    def describe(self) -> str:
        """Returns what the table says of the target."""
        if self.kind in ("classes", "labels"):
            several = "several of " if self.kind == "labels" else ""
            shown = ", ".join(self.names[:4]) + (", ..." if len(self.names) > 4 else "")
            return f"{several}{len(self.names)} {'classes' if self.kind == 'classes' else 'labels'}: {shown}"
        return {"number": "a number", "image": "an image"}.get(self.kind, f"texts of {self.words:.0f} words")


def find_target_column(table: SourceTable, columns: Mapping[str, ColumnFacts], wanted: str | None) -> str | None:
    """Returns the column to predict: the wanted one, or the only one with a name that says so; None for none.

    Raises RecipeError for a wanted column that does not exist, with the nearest.
    """
    if wanted is not None:
        check_column_names([wanted], list(columns), "--target")
        return wanted
    named = [name for name in columns if name.lower() in TARGET_NAMES]
    return named[0] if len(named) == 1 else None


def describe_target(
    table: SourceTable,
    facts: ColumnFacts,
    task: str | None = None,
    regression: bool | None = None,
    separator: str | None = None,
    none_label: str | None = None,
) -> TargetFacts:
    """Finds the kind of a target by all of its cells.

    Args:
        table, facts: the table, and what the column holds.
        task: classification or generation, as the user says; None: found.
        regression: whether it is a number, as the user says; None: found.
        separator: of several labels in a text, as the user says; None: found; "": none.
        none_label: what says that a row has none of several labels, as the user says.

    Raises RecipeError for a target without values, with a single class, or whose kind cannot be told.
    """
    found = find_target_kind(table, facts, task, regression, separator)
    return found if found.kind != "labels" else explain_none_labels(found, facts, none_label)


def find_target_kind(
    table: SourceTable, facts: ColumnFacts, task: str | None, regression: bool | None, separator: str | None
) -> TargetFacts:
    """Finds the kind of a target, as `describe_target` does."""
    if facts.kind in ("image", "audio", "video"):
        return describe_media_target(facts)
    feature: Any = table.rows.features[facts.name]
    cells = [cell for cell in read_target_cells(table, facts.name) if not is_unknown(cell)]
    if not cells:
        raise RecipeError(f"--target {facts.name}: every cell is empty: there is nothing to learn")
    cells = [feature.int2str(cell) for cell in cells] if hasattr(feature, "int2str") else cells
    if task == "generation":
        return describe_written_target(facts, cells)
    if hasattr(feature, "feature") or isinstance(cells[0], list):
        return describe_list_target(facts, cells, feature)
    if hasattr(feature, "int2str"):
        return build_class_target(facts, cells)
    if is_text(feature):
        return describe_text_target(facts, cells, task, regression, separator)
    if isinstance(cells[0], (bool, int, float)):
        return describe_number_target(facts, cells, regression)
    raise RecipeError(
        f"--target {facts.name} holds {type(cells[0]).__name__} values: a target is a class, a list of labels, a "
        "number, a text or an image"
    )


def describe_media_target(facts: ColumnFacts) -> TargetFacts:
    """Returns an image as a target; raises RecipeError for audio and videos."""
    if facts.kind == "image":
        return TargetFacts(facts.name, "image", known=facts.rows - facts.missing)
    raise RecipeError(
        f"--target {facts.name} holds {facts.kind}: no task of plait generates {facts.kind}, only reads it"
    )


def read_target_cells(table: SourceTable, name: str) -> list[Any]:
    """Returns the target of all rows of all splits that have it, the training rows first."""
    splits = [table.rows, *(rows for split, rows in table.splits.items() if split != "train")]
    return [cell for rows in splits if name in rows.column_names for cell in rows[name][:]]


def describe_written_target(facts: ColumnFacts, cells: Sequence[Any]) -> TargetFacts:
    """Returns texts to write, or numbers and classes as such."""
    items = [item for cell in cells for item in (cell if isinstance(cell, list) else [cell])]
    return TargetFacts(facts.name, "text", known=len(cells), words=mean(map(count_words, items)) if items else 0.0)


def describe_list_target(facts: ColumnFacts, cells: Sequence[Any], feature: Any) -> TargetFacts:
    """Returns lists as several labels a row, or as texts of which each is right."""
    items = [item for cell in cells for item in cell if not is_unknown(item)]
    if not items:
        raise RecipeError(f"--target {facts.name}: every list is empty: there is nothing to learn")
    inner: Any = getattr(feature, "feature", None)
    if guess_vectors(cells, feature):
        names = tuple(str(number) for number in range(max(map(len, cells))))
        return TargetFacts(facts.name, "labels", names, known=len(cells))
    names = [inner.int2str(item) if hasattr(inner, "int2str") else str(item) for item in items]
    words = mean(map(count_words, names))
    if isinstance(items[0], str) and (words > LABEL_WORDS or len(set(names)) > CATEGORY_SHARE * len(names)):
        return TargetFacts(facts.name, "text", known=len(cells), words=words)
    return build_label_target(facts, names, len(cells))


def build_label_target(
    facts: ColumnFacts, names: Sequence[str], known: int, separator: str | None = None
) -> TargetFacts:
    """Returns several labels a row; raises RecipeError for more of them than a table can teach."""
    counts = Counter(names)
    check_class_count(facts, counts)
    rare = [name for name, count in counts.items() if count < 2]
    notes = [f"labels of a single row are hard to learn: {shorten_names(rare)}"] if rare else []
    if separator is not None:
        notes.insert(0, f"labels are separated by {separator!r} (--data.label_separator)")
    return TargetFacts(
        facts.name, "labels", tuple(sort_names(set(names))), separator, known, words=0.0, notes=tuple(notes)
    )


def explain_none_labels(target: TargetFacts, facts: ColumnFacts, none_label: str | None) -> TargetFacts:
    """Returns several labels a row without the one that says that none applies, with a note of what an empty cell
    means."""
    names = tuple(name for name in target.names if name != none_label)
    notes = list(target.notes)
    if facts.missing and none_label == "":
        notes.append(f"{facts.missing} of {facts.rows} rows have an empty cell: none of the labels")
    elif facts.missing:
        says = "[]" if none_label is None else f"[] or {none_label}"
        notes.append(
            f"{facts.missing} of {facts.rows} rows have an empty cell: their labels are unknown, and left out; a cell "
            f"says none of the labels with {says} (if empty cells do: --data.none_label '\"\"')"
        )
    wordy = [name for name in names if NONE_NAME.match(name)]
    if wordy:
        notes.append(f"{wordy[0]!r} is a label like the others (--data.none_label {wordy[0]}: none of the labels)")
    return target._replace(names=names, notes=tuple(notes))


def describe_number_target(
    facts: ColumnFacts, cells: Sequence[Any], regression: bool | None, written: Sequence[str] | None = None
) -> TargetFacts:
    """Returns numbers as classes, if they are truth values or few whole numbers, or as numbers; `written`: the same as
    the table writes them, if it holds texts."""
    whole = all(float(cell).is_integer() for cell in cells)
    names = [str(cell) if isinstance(cell, bool) else str(int(cell)) for cell in cells] if whole else []
    names = names if written is None else written
    if regression is not True and whole and (len(set(names)) <= MAX_WHOLE_CLASSES or regression is False):
        notes = []
        if len(set(names)) > 2 and regression is None:
            notes = [
                f"{len(set(names))} different whole numbers are taken as classes (--data.regression true: as numbers)"
            ]
        return build_class_target(facts, names, notes)
    if len(set(cells)) == 1:
        raise RecipeError(f"--target {facts.name}: every value is {cells[0]}: there is nothing to learn")
    notes = (
        ("whole numbers of many values are taken as numbers (--data.regression false: as classes)",) if whole else ()
    )
    return TargetFacts(facts.name, "number", known=len(cells), notes=() if regression else notes)


def describe_text_target(
    facts: ColumnFacts, cells: Sequence[str], task: str | None, regression: bool | None, separator: str | None
) -> TargetFacts:
    """Returns texts as numbers, several labels, classes or texts to write."""
    numbers = [parse_float(cell) for cell in cells]
    known = [number for number in numbers if number is not None]
    if len(known) == len(cells):
        return describe_number_target(facts, known, regression, cells)
    words = [cell for cell, number in zip(cells, numbers, strict=True) if number is None]
    amounts = [cell for cell in words if AMOUNT.fullmatch(cell.strip())]
    decimal = any(not number.is_integer() for number in known)
    if regression or ((decimal or len(set(known)) > MAX_WHOLE_CLASSES) and len(known) > len(words)):
        raise RecipeError(
            f"--target {facts.name}: {len(known)} cells are numbers, {len(words)} are not, such as {words[0]!r}: leave "
            "the cell empty where the number is not known (or list the names in data.labels, if these are classes)"
        )
    if len(amounts) > 0.8 * len(cells) and len(set(cells)) > MAX_WHOLE_CLASSES:
        raise RecipeError(
            f"--target {facts.name}: {amounts[0]!r} is read as text: write plain numbers, such as 12000.5"
        )
    found = find_separator(cells) if separator is None else separator or None
    if found is not None:
        names = [name for cell in cells for name in split_label_names(cell, found) or ()]
        return build_label_target(facts, names, len(cells), found)
    return build_class_target(facts, cells) if task == "classification" else describe_word_target(facts, cells)


def describe_word_target(facts: ColumnFacts, cells: Sequence[str]) -> TargetFacts:
    """Returns texts as classes, if they recur, or as texts to write; raises RecipeError for what may be either."""
    distinct, words = len(set(cells)), mean(map(count_words, cells))
    if WRITTEN_NAME.match(facts.name) and words > 1.5 and distinct > 2:
        note = f"a column called {facts.name} is taken as texts to write (--task classification: as classes)"
        return TargetFacts(facts.name, "text", known=len(cells), words=words, notes=(note,))
    recurs = distinct <= max(2, CATEGORY_SHARE * len(cells)) and (words <= 2 * TEXT_WORDS or distinct <= 20)
    if recurs or (distinct <= min(20, 0.5 * len(cells)) and words <= LABEL_WORDS):
        return build_class_target(facts, cells)
    if words >= TEXT_WORDS or distinct >= 0.9 * len(cells):
        return TargetFacts(facts.name, "text", known=len(cells), words=words)
    raise RecipeError(
        f"--target {facts.name}: {distinct} different texts of {words:.0f} words in {len(cells)} rows may be classes "
        "or texts to write: say which with --task classification or --task generation"
    )


def build_class_target(facts: ColumnFacts, names: Sequence[str], notes: Sequence[str] = ()) -> TargetFacts:
    """Returns one class a row; raises RecipeError for a single class, or more than a table can teach."""
    counts = Counter(names)
    if len(counts) == 1:
        raise RecipeError(
            f"--target {facts.name}: every label is {names[0]!r}: at least two classes are needed to learn something"
        )
    check_class_count(facts, counts)
    rare = tuple(sort_names({name for name, count in counts.items() if count < 2}))
    return TargetFacts(
        facts.name, "classes", tuple(sort_names(set(counts))), known=len(names), rare=rare, notes=tuple(notes)
    )


def check_class_count(facts: ColumnFacts, counts: Mapping[str, int]) -> None:
    """Raises RecipeError for more classes than rows can teach."""
    if len(counts) > MAX_CLASSES or sum(count > 1 for count in counts.values()) < 2:
        raise RecipeError(
            f"--target {facts.name}: {len(counts)} different labels in {sum(counts.values())}, too many to learn from "
            "so few examples of each: is another column meant, or are these texts to write (--task generation)?"
        )


def find_separator(cells: Sequence[str]) -> str | None:
    """Returns what separates several labels in a text, as a twentieth of the rows have it: a sign between short names,
    of which there are no more different ones than there are different cells, and some of which stand in several of
    these (so that "Oslo, Norway" is one name). None if there is no such sign."""
    distinct = set(cells)
    for sign in SEPARATORS:
        if sum(sign in cell for cell in cells) < max(2, 0.05 * len(cells)):
            continue
        items = Counter(name for cell in distinct for name in {part.strip() for part in cell.split(sign)} if name)
        rows = sum(len(cell.split(sign)) for cell in cells)
        is_short = items and mean(map(count_words, items)) <= SEPARATED_WORDS
        recurs = len(items) <= min(len(distinct), CATEGORY_SHARE * rows) and max(items.values()) > 1
        if is_short and recurs:
            return sign
    return None


def shorten_names(names: Sequence[str], count: int = 5) -> str:
    """Returns the first names, and how many more there are."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return f"{', '.join(names[:count])}{more}"
