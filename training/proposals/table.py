"""Reads the table that a recipe is proposed for."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..data.columns import disable_decoding
from ..data.files import FILE_READERS, load_source
from ..data.loading import choose_splits
from ..data.sources import SOURCES
from ..recipes.errors import RecipeError
from ..recipes.schema import DataRecipe

if TYPE_CHECKING:
    from datasets import Dataset

SAMPLE_ROWS = 1000  # of a column of numbers or texts
SAMPLE_FILES = 24  # of a column of images, audio or videos


class SourceTable(NamedTuple):
    """A table as it was read, with files undecoded.

    data: the recipe's section `data`, with its source; splits: by their role (train, validation, test); root: the
    folder of relative paths; name: for messages and the run folder.
    """

    data: DataRecipe
    splits: dict[str, "Dataset"]
    root: Path
    name: str

    @property
    def rows(self) -> "Dataset":
        """The rows to learn from: the training split."""
        return self.splits["train"]


def read_table(data: DataRecipe) -> SourceTable:
    """Reads a file, a folder, a Hub data set or a registered source, as `data.source` says.

    Raises RecipeError for a source that is missing, cannot be read, or has no rows to train on.
    """
    if isinstance(data.source, str):
        data = replace(data, source=find_only_table(data.source))
    splits = choose_splits(load_source(replace(data, columns={}), needs_labels=False), data)
    if "train" not in splits:
        raise RecipeError(
            f"data: there is no training split, only {', '.join(splits)}: name one with --data.splits.train NAME"
        )
    check_cell_separator(splits["train"].column_names, data)
    return SourceTable(
        data,
        {split: disable_decoding(rows) for split, rows in splits.items()},
        find_root_folder(data),
        name_table(data),
    )


def check_cell_separator(names: Sequence[str], data: DataRecipe) -> None:
    """Raises RecipeError for a table whose only column has a name that is a line of another separator."""
    sign = next((sign for sign in (";", "\t", "|") if len(names) == 1 and sign in names[0]), None)
    if sign is not None:
        raise RecipeError(
            f"data.source: {data.source} has a single column {names[0]!r}: its cells are separated by {sign!r}; save "
            "it with commas, or with tabs as .tsv"
        )


def find_only_table(source: str) -> str:
    """Returns the only data file of a folder without files named by split, such as a table beside a folder of images;
    else the source unchanged."""
    folder = Path(source).expanduser()
    if source in SOURCES or not folder.is_dir():
        return source
    files = [file for file in folder.iterdir() if file.suffix in FILE_READERS and file.stem != "metadata"]
    named = any(file.stem.startswith(("train", "test", "val", "dev")) for file in files)
    return str(files[0]) if len(files) == 1 and not named else source


def find_root_folder(data: DataRecipe) -> Path:
    """Returns the folder of relative paths: `data.image_root`, or that of the source's file."""
    if data.image_root is not None:
        return Path(data.image_root).expanduser()
    first = next(iter(data.source.values())) if isinstance(data.source, Mapping) else str(data.source)
    path = Path(first).expanduser()
    return path if path.is_dir() else path.parent


def name_table(data: DataRecipe) -> str:
    """Returns a short name of the source: that of its file without suffix, or of its folder."""
    if isinstance(data.source, Mapping):
        return Path(next(iter(data.source.values()))).parent.absolute().name
    path = Path(str(data.source)).expanduser()
    return path.stem if path.suffix in FILE_READERS else path.absolute().name


def sample_cells(data: "Dataset", name: str, count: int) -> list[Any]:
    """Returns the cells of a column in at most `count` of the rows that have one, at even distances."""
    filled = find_filled_rows(data, name)
    total = len(filled)
    rows = filled if total <= count else filled[np.arange(count) * total // count]
    return data.select_columns([name]).select(rows)[name][:]


def find_filled_rows(data: "Dataset", name: str) -> np.ndarray:
    """Returns the numbers of the rows whose cell is not empty: None, an empty text or an empty list."""
    import pyarrow.compute

    compute: Any = pyarrow.compute  # its functions are made at run time
    column = read_arrow_column(data, name)
    filled, kind = compute.is_valid(column), str(column.type)
    if kind in ("string", "large_string"):
        filled = compute.and_kleene(filled, compute.not_equal(column, ""))
    elif kind.startswith(("list", "large_list")):
        filled = compute.and_kleene(filled, compute.greater(compute.list_value_length(column), 0))
    return np.flatnonzero(np.asarray(compute.fill_null(filled, False)))


def count_missing(data: "Dataset", name: str) -> int:
    """Counts the empty cells of a column: None, NaN or an empty text."""
    column = read_arrow_column(data, name)
    missing = column.null_count
    kind = str(column.type)
    if kind in ("string", "large_string", "double", "float", "halffloat"):
        import pyarrow.compute

        compute: Any = pyarrow.compute  # its functions are made at run time
        empty = compute.equal(column, "") if kind.endswith("string") else compute.is_nan(column)
        missing += compute.sum(empty).as_py() or 0
    return missing


def count_distinct(data: "Dataset", name: str) -> int | None:
    """Counts the different values of a column; None for files, lists and mappings."""
    import pyarrow.compute
    import pyarrow.lib

    compute: Any = pyarrow.compute
    column = read_arrow_column(data, name)
    if pyarrow.types.is_binary(column.type) or pyarrow.types.is_large_binary(column.type):
        return None
    try:
        return compute.count_distinct(column, mode="only_valid").as_py()
    except pyarrow.lib.ArrowNotImplementedError:
        return None


def read_arrow_column(data: "Dataset", name: str) -> Any:
    """Returns a column as Arrow's array, which is not copied."""
    table: Any = data.select_columns([name]).with_format("arrow")[:]
    return table.column(name)


def check_column_names(names: Sequence[str], columns: Sequence[str], what: str) -> None:
    """Raises RecipeError for a name that is no column, with the nearest."""
    from difflib import get_close_matches

    lowered = {column.lower(): column for column in columns}
    for name in names:
        if name not in columns:
            near = get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.5)
            hint = f"; did you mean {lowered[near[0]]!r}?" if near else ""
            raise RecipeError(f"{what}: there is no column {name!r}; the table has {', '.join(columns)}{hint}")
