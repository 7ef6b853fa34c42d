"""Reads the cells of texts and labels as text, in every format alike: 007 stays 007, None is a word, and only an empty
cell is missing."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...configuration import DOCUMENT, NEGATIVE
from ..recipes.errors import RecipeError

if TYPE_CHECKING:
    from datasets import Dataset

TEXT_COLUMNS = ("text", "text_pair", "question", "context", "prompt", "target", DOCUMENT, NEGATIVE)
NESTED_TEXT_COLUMNS = ("answers", "messages")  # of texts beside numbers and roles
NUMBER_COLUMNS = ("sampling_rate", "answer_start")
TEXT_KEYS = ("text", "content")  # of nested cells, whose values are texts


def read_cells(data: "Dataset") -> "Dataset":
    """Returns a split, whose columns are named by their roles, with texts as text and numbers as numbers."""
    names = data.column_names
    for name in names:
        role = name.partition(".")[0]
        if role in (*TEXT_COLUMNS, *NESTED_TEXT_COLUMNS):
            data = read_text_column(data, name)
        elif role in NUMBER_COLUMNS and is_text(data.features[name]):
            numbers = [None if not cell else parse_number(cell, name, row) for row, cell in enumerate(data[name])]
            data = replace_column(data, name, numbers)
    return data.select_columns(names)


def empty_to_none(data: "Dataset") -> "Dataset":
    """Returns rows of texts with None for every empty cell."""
    names = data.column_names
    for name in names:
        data = read_text_column(data, name)
    return data.select_columns(names)


def read_text_column(data: "Dataset", name: str) -> "Dataset":
    """Returns the data with the cells of one column as text; an empty one is None. The column may come last."""
    feature: Any = data.features[name]
    if is_text(feature):
        import pyarrow.compute

        compute: Any = pyarrow.compute  # its functions are made at run time
        table: Any = data.select_columns([name]).with_format("arrow")[:]
        column = table.column(name)
        empty = compute.equal(column, "")
        return replace_column(data, name, compute.if_else(empty, None, column)) if compute.any(empty).as_py() else data
    if is_nested_text(feature):
        return data
    names = feature.names if hasattr(feature, "int2str") else None
    cells = data[name][:]
    if names is not None:
        cells = [None if cell is None or cell < 0 else names[cell] for cell in cells]
    return replace_column(data, name, [format_cell(cell) for cell in cells])


def replace_column(data: "Dataset", name: str, values: Any) -> "Dataset":
    """Returns the data with other values in one column, which comes last."""
    return data.add_column(f"new {name}", values).remove_columns(name).rename_column(f"new {name}", name)


def is_text(feature: Any) -> bool:
    """Returns whether a column has texts."""
    return getattr(feature, "dtype", None) in ("string", "large_string")


def is_nested_text(feature: Any, key: str = "text") -> bool:
    """Returns whether lists and mappings in a column hold texts wherever texts belong (under TEXT_KEYS)."""
    if isinstance(feature, Mapping):
        return all(is_nested_text(value, name) for name, value in feature.items())
    if hasattr(feature, "feature"):
        return is_nested_text(feature.feature, key)
    return key not in TEXT_KEYS or is_text(feature)


def format_cell(cell: Any) -> Any:
    """Returns a cell as text: a number as Python writes it, lists and mappings with the texts in them."""
    if isinstance(cell, Mapping):
        return {name: format_cell(value) if name in TEXT_KEYS else value for name, value in cell.items()}
    if isinstance(cell, (list, tuple)):
        return [format_cell(item) for item in cell]
    return None if cell is None or cell == "" else str(cell)


def parse_number(cell: str, name: str, row: int) -> float | int:
    """Returns the number in a cell; raises RecipeError for another text."""
    try:
        number = float(cell)
    except ValueError as error:
        raise RecipeError(
            f"data.columns.{name}: {cell!r} in row {row} is no number: correct the cell, or map another column"
        ) from error
    return int(number) if number.is_integer() else number


def find_changed_columns(data: "Dataset", texts: Sequence[str], label: str) -> list[str]:
    """Returns the columns of a JSON file whose texts the reader has changed: texts that became numbers, dates or a mix
    of types, and labels that became dates or a mix."""
    features = data.features
    changed = [
        name for name in texts if name in features and not (is_text(features[name]) or is_nested_text(features[name]))
    ]
    inner = getattr(features.get(label), "feature", features.get(label))
    if (
        inner is not None
        and label not in changed
        and getattr(inner, "dtype", "json").startswith(("time", "date", "json"))
    ):
        changed.append(label)
    return changed


def restore_json_columns(data: "Dataset", paths: Sequence[Path], names: Sequence[str]) -> "Dataset":
    """Returns rows that were read from JSON files, with the cells of these columns as they are written in the files.

    Raises RecipeError if the files are neither lists of objects nor one object a line.
    """
    order = data.column_names
    for name in names:
        rows = [row for path in paths for row in read_json_rows(path, spelled=name not in NESTED_TEXT_COLUMNS)]
        if len(rows) != len(data) or not all(isinstance(row, dict) for row in rows):
            raise RecipeError(
                f"data.source: {name} in {', '.join(map(str, paths))} has values that are no strings: write them in "
                "quotes, or the file with one object a line"
            )
        data = replace_column(data, name, [format_json_cell(row.get(name)) for row in rows])
    return data.select_columns(order)


def read_json_rows(path: Path, spelled: bool) -> Iterator[Any]:
    """Yields the rows of a JSON file, a list or one object a line; with `spelled` numbers are texts, as written."""
    options: dict[str, Any] = {"parse_int": str, "parse_float": str} if spelled else {}
    content = path.read_text(encoding="utf-8-sig")
    if content.lstrip().startswith("["):
        yield from json.loads(content, **options)
    else:
        yield from (json.loads(line, **options) for line in content.split("\n") if line.strip())


def format_json_cell(cell: Any) -> Any:
    """Returns a cell as text, truth values as JSON writes them."""
    if isinstance(cell, list):
        return [format_json_cell(item) for item in cell]
    return str(cell).lower() if isinstance(cell, bool) else format_cell(cell)


def read_label_numbers(data: "Dataset", label: str) -> "Dataset":
    """Returns rows of a file without types (CSV), with the labels as numbers if all of them are and one has a decimal
    point; else they stay texts.

    Raises RecipeError if some have a decimal point and others are words: they may be classes, or numbers with a word
    where one is not known.
    """
    if label not in data.column_names:
        return data
    cells = data[label][:]
    numbers = [parse_float(cell) for cell in cells]
    decimal = [row for row, (cell, number) in enumerate(zip(cells, numbers, strict=True)) if is_decimal(cell, number)]
    if not decimal:
        return data
    words = [row for row, (cell, number) in enumerate(zip(cells, numbers, strict=True)) if cell and number is None]
    if words:
        raise RecipeError(
            f"data: the label of row {decimal[0]} is the number {cells[decimal[0]]}, that of row {words[0]} the word "
            f"{cells[words[0]]!r}: for regression set data.regression and leave the cell empty where the number is not "
            "known, for classes list their names in data.labels"
        )
    order = data.column_names
    return replace_column(data, label, numbers).select_columns(order)


def parse_float(cell: str | None) -> float | None:
    """Returns the number in a cell; None for an empty cell or another text."""
    try:
        return float(cell) if cell else None
    except ValueError:
        return None


def is_decimal(cell: str | None, number: float | None) -> bool:
    """Returns whether a cell has a number with a decimal point or an exponent."""
    return number is not None and number == number and not (cell or "").strip().lstrip("+-").isdigit()
