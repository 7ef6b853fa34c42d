"""Writes rows with their answers to a file, part by part: csv, tsv, jsonl, ndjson or parquet."""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ..recipes.errors import RecipeError
from ..runs.image_output import GRID_SUFFIXES, is_image_output
from .answers import flatten_answer, format_json, format_text_cell, make_plain, name_answer_columns

JSON_LINES = (".jsonl", ".ndjson")
TEXT_TABLES = {".csv": ",", ".tsv": "\t"}
PARQUET = ".parquet"
OUTPUT_SUFFIXES = (*JSON_LINES, *TEXT_TABLES, PARQUET)


class AnsweredPart(NamedTuple):
    """Neighbouring rows with their answers. given: the columns of each as they were given; answers: of each; table: the
    columns as a pyarrow table, where they have types of their own."""

    given: Sequence[Mapping[str, Any]]
    answers: Sequence[Mapping[str, Any]]
    table: Any = None


ReadParts = Callable[[], Iterator[AnsweredPart]]


def check_suffix(output: Path, task: str) -> None:
    """Raises RecipeError for a file that predictions are not written to."""
    if output.suffix not in OUTPUT_SUFFIXES:
        images = f", and of the task image_generation alone {', '.join(GRID_SUFFIXES)} or a folder"
        kinds = f"{', '.join(OUTPUT_SUFFIXES)}{images if is_image_output(output) else ''}"
        raise RecipeError(f"--output {output}: the task {task} writes tables: the suffix must be one of {kinds}")


def write_answers(path: Path, read: ReadParts, names: Sequence[str], answers: Sequence[str], separator: str) -> None:
    """Writes the parts that `read` yields, each time it is called.

    Args:
        names: the columns of the data, which come first.
        answers: the parts of the answers.
        separator: of several names in a cell of text.
    """
    if path.suffix in JSON_LINES:
        write_json_lines(path, read, name_answer_columns(answers, names))
        return
    flat = dict.fromkeys(
        name
        for part in read()
        for answer in part.answers
        for name in flatten_answer({key: answer[key] for key in answers if key in answer})
    )
    columns = name_answer_columns(flat, names)
    if path.suffix == PARQUET:
        write_parquet(path, read, names, columns)
    else:
        write_text_table(path, read, names, columns, separator)


def write_json_lines(path: Path, read: ReadParts, columns: Mapping[str, str]) -> None:
    """Writes an object a line."""
    with path.open("w", encoding="utf-8", newline="") as file:
        for part in read():
            for row, answer in zip(part.given, part.answers, strict=True):
                file.write(f"{format_json(join_row(row, answer, columns))}\n")


def join_row(row: Mapping[str, Any], answer: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """Returns a row with its answer, under the names of its columns."""
    return {**make_plain(row), **{columns[name]: value for name, value in answer.items()}}


def write_text_table(
    path: Path, read: ReadParts, names: Sequence[str], columns: Mapping[str, str], separator: str
) -> None:
    """Writes a .csv or .tsv file."""
    show = partial(format_text_cell, separator=separator)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=TEXT_TABLES[path.suffix], lineterminator="\n")
        writer.writerow([*names, *columns.values()])
        for part in read():
            for row, answer in zip(part.given, part.answers, strict=True):
                flat = flatten_answer(answer)
                cells = [*(make_plain(row.get(name)) for name in names), *(flat.get(name) for name in columns)]
                writer.writerow(map(show, cells))


def write_parquet(path: Path, read: ReadParts, names: Sequence[str], columns: Mapping[str, str]) -> None:
    """Writes a parquet file; columns that had types keep them, others have those of all their values."""
    import pyarrow.parquet

    types: dict[str, Any] = {}
    for cells, _ in read_columns(read, names, columns):
        types = {name: merge_types(types.get(name), values) for name, values in cells.items()}
    with ExitStack() as opened:
        writer = None
        for cells, table in read_columns(read, names, columns):
            arrays = {name: fill_column(values, types[name]) for name, values in cells.items()}
            part = pyarrow.table(arrays) if table is None else append_columns(table, arrays)
            writer = writer or opened.enter_context(pyarrow.parquet.ParquetWriter(path, part.schema))
            writer.write_table(part)


def append_columns(table: Any, columns: Mapping[str, Any]) -> Any:
    """Returns a table with further columns."""
    for name, values in columns.items():
        table = table.append_column(name, values)
    return table


def read_columns(
    read: ReadParts, names: Sequence[str], columns: Mapping[str, str]
) -> Iterator[tuple[dict[str, list[Any]], Any]]:
    """Yields the columns of each part that have no types yet, and the table of the others."""
    for part in read():
        flat = [flatten_answer(answer) for answer in part.answers]
        own = (
            {}
            if part.table is not None
            else {name: [make_plain(row.get(name)) for row in part.given] for name in names}
        )
        yield {**own, **{place: [row.get(name) for row in flat] for name, place in columns.items()}}, part.table


def merge_types(known: Any, values: Sequence[Any]) -> Any:
    """Returns the pyarrow type of values that also holds those of the known type: text where there is no other."""
    import pyarrow

    try:
        fields = [pyarrow.field("x", kind) for kind in (known, pyarrow.array(values).type) if kind is not None]
        schemas = [pyarrow.schema([field]) for field in fields]
        return pyarrow.unify_schemas(schemas, promote_options="permissive").field("x").type
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError):
        return pyarrow.string()


def fill_column(values: Sequence[Any], kind: Any) -> Any:
    """Returns values as a column of this type; in one of texts all else is JSON."""
    import pyarrow

    if kind == pyarrow.string():
        values = [value if value is None or isinstance(value, str) else format_json(value) for value in values]
    return pyarrow.array(values, kind)
