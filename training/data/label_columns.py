"""Reads the column of labels of training rows, whatever holds the rows: several labels of a row in one text, and what
says that a row has none of them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..recipes.errors import RecipeError
from .cells import replace_column

if TYPE_CHECKING:
    from datasets import Dataset

LABEL_COLUMNS = ("label", "labels")
LABEL_SEPARATORS = (";", ",", "|")  # what may separate the names of several labels in one text
EMPTY_LIST = "[]"  # as a text: none of the labels


def collect_labels(data: Any) -> list[Any] | None:
    """Returns the labels of all rows, from the column `label` or `labels` of a data set or of a sequence of mappings;
    None if there are none to read: no rows, rows of another kind, or a stream, which has no end before training."""
    names = getattr(data, "column_names", None)
    if not hasattr(data, "__len__") or not hasattr(data, "__getitem__") or not len(data):
        return None
    if names is not None:
        name = next((name for name in LABEL_COLUMNS if name in names), None)
        return None if name is None else list(data[name])
    if not isinstance(data[0], Mapping):
        return None
    name = next((name for name in LABEL_COLUMNS if name in data[0]), None)
    rows: Sequence[Mapping[str, Any]] = data
    return None if name is None else [rows[number].get(name) for number in range(len(rows))]


def check_label_column(data: "Dataset") -> None:
    """Raises RecipeError for data without labels."""
    if "label" not in data.column_names:
        raise RecipeError(f"data.columns: no column is mapped to label; mapped are {', '.join(data.column_names)}")


def get_label_values(data: "Dataset") -> list[Any]:
    """Returns the labels of all rows; raises RecipeError for data without labels."""
    check_label_column(data)
    return data["label"][:]


def split_label_texts(data: "Dataset", separator: str) -> "Dataset":
    """Splits labels such as "red;warm" at the separator into lists of names; a text of separators alone and EMPTY_LIST
    are an empty list, none of the labels, and an empty text is not known."""
    values = get_label_values(data)
    lists = [split_label_names(value, separator) if isinstance(value, str) else value for value in values]
    return replace_column(data, "label", lists)


def split_label_names(text: str, separator: str) -> list[str] | None:
    """Returns the names in a text, an empty list for none of the labels; None for an empty text."""
    if not text or text.strip() == EMPTY_LIST:
        return [] if text else None
    return [name.strip() for name in text.split(separator) if name.strip()]


def read_none_labels(data: "Dataset", none_label: str, split: str) -> "Dataset":
    """Returns the data with an empty list for each label that says that none applies: `none_label` alone, or if this is
    "" an empty cell.

    Raises RecipeError for labels that are no lists, or where `none_label` stands beside others.
    """
    values = get_label_values(data)
    single = next((value for value in values if value is not None and not isinstance(value, list)), None)
    if single is not None:
        raise RecipeError(
            f"data.none_label is {none_label!r}, but the labels of {split!r}, such as {single!r}, are one a row: name "
            "data.label_separator if a row may have several, or leave none_label out"
        )
    for row, value in enumerate(values):
        if value is not None and none_label in value and set(value) != {none_label}:
            raise RecipeError(
                f"data: row {row} of {split!r} has {none_label!r}, which is data.none_label, beside other labels "
                f"({', '.join(map(str, value))}): correct it"
            )
    is_none = [not value if none_label == "" else value is not None and none_label in value for value in values]
    lists = [[] if none else value for none, value in zip(is_none, values, strict=True)]
    return replace_column(data, "label", lists)


def check_separator(data: "Dataset", separator: str) -> None:
    """Raises RecipeError if none of the labels has the separator, but some have another one."""
    texts = [value for value in get_label_values(data) if isinstance(value, str)]
    if any(separator in text for text in texts):
        return
    for other in LABEL_SEPARATORS:
        count = sum(other in text for text in texts)
        if count:
            raise RecipeError(
                f"data.label_separator is {separator!r}, which no label has, but {count} of {len(texts)} have "
                f"{other!r}: set it to {other!r}, or leave it out if each text is one label"
            )
