"""Tables in files that are read part by part: csv, tsv, jsonl, ndjson, json, txt and parquet."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.cells import NESTED_TEXT_COLUMNS, TEXT_COLUMNS, find_changed_columns, format_json_cell, replace_column
from ..data.files import FILE_READERS, find_source_columns
from ..data.sources import SOURCES
from ..data.squad import is_squad
from ..recipes.errors import RecipeError
from ..recipes.schema import DataRecipe, Recipe

if TYPE_CHECKING:
    from datasets import Dataset

RawPart = tuple[int, "Dataset", list[dict[str, Any]], Any]
BINARY_ROWS = 64  # of a parquet file that are read at a time: they may hold images


def find_table_file(recipe: Recipe) -> "TableFile | None":
    """Returns the file of the recipe's data, if it is one that is read part by part."""
    source = recipe.data.source
    if not isinstance(source, str) or source in SOURCES:
        return None
    path = Path(source).expanduser()
    if not path.is_file() or path.suffix not in FILE_READERS or not path.stat().st_size:
        return None
    return None if is_squad(path) else TableFile(path)


class TableFile:
    """A table in a file. Counting its rows and finding its columns reads it once, without keeping it.

    Raises:
        RecipeError: a file that cannot be read; the message names it.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.kind = path, FILE_READERS[path.suffix]
        self.mapped: list[str] = []
        self.texts: list[str] = []
        self.nested: list[str] = []
        self.count, self.names = self.measure()

    def choose_columns(self, recipe: DataRecipe, roles: Sequence[str]) -> None:
        """Chooses the columns to read: those that the recipe maps, else those with the name of a role."""
        self.mapped = find_source_columns(recipe, list(recipe.columns) or roles)
        self.texts = find_source_columns(recipe, TEXT_COLUMNS)
        self.nested = find_source_columns(recipe, NESTED_TEXT_COLUMNS)

    def __len__(self) -> int:
        return self.count

    def measure(self) -> tuple[int, list[str]]:
        """Returns the number of rows and the names of the columns, of JSON lines all that occur."""
        if self.kind == "parquet":
            import pyarrow.parquet

            file = self.call(lambda: pyarrow.parquet.ParquetFile(self.path))
            return file.metadata.num_rows, list(file.schema_arrow.names)
        if self.kind == "csv":
            names = [str(name) for name in self.call(lambda: self.open_csv(nrows=0)).columns]
            return sum(len(part) for part in self.iterate(self.open_csv(usecols=[0], chunksize=10_000))), names
        found: dict[str, None] = {}
        count = 0
        for row in self.iterate(self.read_objects()):
            found |= dict.fromkeys(row)
            count += 1
        return count, list(found)

    def read_parts(self, first: int, last: int, size: int) -> Iterator[RawPart]:
        """Yields the rows from `first` up to `last` in parts of at most `size`: the number of the first, the rows with
        texts as texts as a data set, as plain rows, and as a table if the file has types."""
        if self.kind == "parquet":
            yield from self.read_parquet(first, last, min(size, BINARY_ROWS))
            return
        start, kept = first, []
        for number, row in enumerate(self.iterate(self.read_rows())):
            if number >= last:
                break
            if number >= first:
                kept.append(row)
            if len(kept) == size:
                yield start, self.build_data(kept), [row for _, row in kept], None
                start, kept = number + 1, []
        if kept:
            yield start, self.build_data(kept), [row for _, row in kept], None
        if start + len(kept) < last:
            raise RecipeError(f"data.source: {self.path} has become shorter while it was read: leave it as it is")

    def read_parquet(self, first: int, last: int, size: int) -> Iterator[RawPart]:
        """Yields the parts of a parquet file."""
        import pyarrow
        import pyarrow.parquet
        from datasets import Dataset

        file, start = pyarrow.parquet.ParquetFile(self.path), 0
        for batch in self.iterate(file.iter_batches(size)):
            begin, end = max(first - start, 0), min(last - start, len(batch))
            if begin < end:
                table = pyarrow.Table.from_batches([batch.slice(begin, end - begin)])
                yield start + begin, Dataset(table), table.to_pylist(), table
            start += len(batch)
            if start >= last:
                break

    def read_rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields each row as it is written (of JSON lines) and as a mapping."""
        if self.kind == "csv":
            for part in self.open_csv(chunksize=1000):
                yield from (("", fill_texts(row)) for row in part.to_dict("records"))
        elif self.kind == "text":
            yield from (("", row) for row in self.read_objects())
        else:
            yield from self.read_json()

    def open_csv(self, **options: Any) -> Any:
        """Opens a .csv or .tsv file with every cell as text, as it is written."""
        import pandas

        separator = "\t" if self.path.suffix == ".tsv" else ","
        return pandas.read_csv(self.path, sep=separator, dtype=str, keep_default_na=False, na_filter=False, **options)

    def read_objects(self) -> Iterator[dict[str, Any]]:
        """Yields the rows of JSON or of lines of text (without empty ones)."""
        if self.kind == "text":
            with self.path.open(encoding="utf-8-sig") as file:
                yield from ({"text": line.rstrip("\n")} for line in file if line.strip())
        else:
            yield from (row for _, row in self.read_json())

    def read_json(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields the rows of JSON, one object a line or a list, which is read whole."""
        with self.path.open(encoding="utf-8-sig") as file:
            start = next((line for line in file if line.strip()), "")
            file.seek(0)
            listed = start.lstrip().startswith("[")
            lines = map(json.dumps, json.load(file)) if listed else (line for line in file if line.strip())
            for number, line in enumerate(lines):
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError(f"row {number} is no object of columns: {line.strip()[:60]}")
                yield line, row

    def build_data(self, rows: list[tuple[str, dict[str, Any]]]) -> "Dataset":
        """Builds a data set of the columns that are mapped, with texts as texts; the others are empty."""
        from datasets import Dataset

        read = [name for name in self.names if name in self.mapped]
        columns: dict[str, list[Any]] = {name: [None] * len(rows) for name in self.names}
        columns |= {name: [self.read_cell(name, line, row) for line, row in rows] for name in read}
        data = self.call(lambda: Dataset.from_dict(columns))
        for name in find_changed_columns(data, [name for name in self.nested if name in data.column_names], ""):
            data = replace_column(data, name, [format_json_cell(cell) for cell in columns[name]])
        return data

    def read_cell(self, name: str, line: str, row: Mapping[str, Any]) -> Any:
        """Returns a cell; of a column of texts the text, of a number as it is written in the line."""
        cell = row.get(name)
        if name not in self.texts or cell is None or isinstance(cell, str):
            return None if cell == "" and self.kind == "csv" else cell
        return format_json_cell(json.loads(line, parse_int=str, parse_float=str)[name])

    def iterate(self, rows: Any) -> Iterator[Any]:
        """Yields from an iterator over the file; raises RecipeError for what cannot be read."""
        try:
            yield from rows
        except (OSError, ValueError) as error:
            raise self.describe(error) from error

    def call(self, read: Any) -> Any:
        """Returns what a function reads; raises RecipeError for what cannot be read."""
        try:
            return read()
        except (OSError, TypeError, ValueError) as error:
            raise self.describe(error) from error

    def describe(self, error: Exception) -> RecipeError:
        """Returns the error about this file."""
        return (
            error
            if isinstance(error, RecipeError)
            else RecipeError(f"data.source: {self.path} cannot be read: {' '.join(str(error).split())}")
        )


def fill_texts(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Returns the cells of a row of text, with empty ones where the row is short."""
    return {str(name): cell if isinstance(cell, str) else "" for name, cell in row.items()}
