"""The rows to predict for, read part by part in constant memory: what the task reads, beside the columns as given."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from ...configuration.modalities import MEDIA
from ..data.columns import disable_decoding, name_columns
from ..data.files import load_source, resolve_paths
from ..data.loading import choose_split, choose_splits
from ..data.media import Row
from ..data.sources import SOURCES
from ..recipes.errors import RecipeError
from ..recipes.schema import Recipe
from ..tasks.base import Task
from ..tasks.registry import find_task
from .folders import FolderSource, holds_tables
from .tables import find_table_file

if TYPE_CHECKING:
    from datasets import Dataset

PART_ROWS = 500  # rows that are read at a time
UNREAD_ROLES = ("group", "negative", "image_id")  # columns that serve training alone


class SourcePart(NamedTuple):
    """Neighbouring rows. start: the number of the first in the data; rows: what the task reads of each; given: the
    columns of each as they were given; table: the same as a pyarrow table, where they have types of their own."""

    start: int
    rows: list[Row]
    given: list[dict[str, Any]]
    table: Any = None


class RowSource(Protocol):
    """Rows that are read part by part, as often as needed."""

    names: list[str]  # the columns as they were given

    def __len__(self) -> int: ...
    def read_parts(self, first: int = 0, last: int | None = None, rows: bool = True) -> Iterator[SourcePart]:
        """Yields the rows from number `first` up to `last` (not included); without `rows` only the given columns."""
        ...


class OptionSource:
    """Rows that the command line gives (see `build_option_rows`)."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.content = list(rows)
        self.names = list(self.content[0])

    def __len__(self) -> int:
        return len(self.content)

    def read_parts(self, first: int = 0, last: int | None = None, rows: bool = True) -> Iterator[SourcePart]:
        """Yields all rows as one part."""
        chosen = self.content[first:last]
        yield SourcePart(first, chosen, [dict(row) for row in chosen])


class MediaSource(FolderSource):
    """The media files of a folder as rows that are read part by part."""

    def read_parts(self, first: int = 0, last: int | None = None, rows: bool = True) -> Iterator[SourcePart]:
        """Yields the rows from number `first` up to `last` (not included)."""
        for start, read, given in self.iterate(first, len(self) if last is None else last):
            yield SourcePart(start, read, given)


class TableSource:
    """The rows of a recipe's data: of a file, of which a part is in memory at a time, or of what `datasets` loads.

    The target columns, which may be missing, and columns that serve training alone are not read. A role whose column is
    missing is read from a column with the role's own name.

    Raises:
        RecipeError: a source, a split or a column that is missing, or a source without rows.
    """

    def __init__(self, recipe: Recipe, split: str | None = None) -> None:
        self.task, read = find_task(recipe.task), select_read_columns(recipe)
        self.file = find_table_file(read) if split is None else None
        self.data = None if self.file is not None else load_given_rows(read, split)
        self.names = list(self.file.names if self.file is not None else cast("Dataset", self.data).column_names)
        self.recipe = adopt_columns(read, self.names)
        if self.file is not None:
            self.file.choose_columns(self.recipe.data, list_read_roles(self.task))
        if not len(self):
            raise RecipeError(f"data.source: {recipe.data.source} has no rows")

    def __len__(self) -> int:
        return len(self.file) if self.file is not None else len(cast("Dataset", self.data))

    def read_parts(self, first: int = 0, last: int | None = None, rows: bool = True) -> Iterator[SourcePart]:
        """Yields the rows from number `first` up to `last` (not included); without `rows` only the given columns.

        Raises RecipeError for a file that cannot be read, or that has changed since it was counted.
        """
        last = len(self) if last is None else last
        for start, data, given, table in self.read_given(first, last):
            read = self.name_rows(data) if rows else []
            yield SourcePart(start, read, given, table)

    def read_given(self, first: int, last: int) -> Iterator[tuple[int, "Dataset", list[dict[str, Any]], Any]]:
        """Yields the number of a part's first row, and the part as a data set, as plain rows and as a table."""
        if self.file is not None:
            yield from self.file.read_parts(first, last, PART_ROWS)
            return
        data = cast("Dataset", self.data)
        for start in range(first, last, PART_ROWS):
            part = data.select(range(start, min(start + PART_ROWS, last)))
            yield start, part, [dict(row) for row in name_classes(part)], None

    def name_rows(self, data: "Dataset") -> list[Row]:
        """Returns rows under the names of the roles that the task reads."""
        recipe, task = self.recipe.data, self.task
        if self.file is not None:
            data = resolve_paths(data, recipe, self.file.path.parent)
        named = name_columns(data, recipe, "predicted", list_read_roles(task))
        task.check_columns(named.column_names, "predicted", needs_targets=False)
        return [cast("Row", row) for row in named]


def open_data(recipe: Recipe, split: str | None = None) -> RowSource:
    """Opens the rows of a recipe's data to predict for: of a folder without tables its media files.

    Raises RecipeError for data that cannot be found, or that the task does not read.
    """
    source, roles = recipe.data.source, list_read_roles(find_task(recipe.task))
    if isinstance(source, str) and source not in SOURCES and split is None and {*roles} & {*MEDIA}:
        path = Path(source).expanduser()
        if path.is_dir() and not holds_tables(path):
            return MediaSource(path, roles, PART_ROWS)
    return TableSource(recipe, split)


def adopt_columns(recipe: Recipe, names: Sequence[str]) -> Recipe:
    """Returns the recipe with a role's own name as the column of a role whose column is missing."""
    columns: dict[str, str | list[str]] = {
        role: role if isinstance(name, str) and name not in names and role in names else name
        for role, name in recipe.data.columns.items()
    }
    return replace(recipe, data=replace(recipe.data, columns=columns))


def list_read_roles(task: Task) -> list[str]:
    """Returns the columns that a task reads to predict."""
    return [role for role in task.roles if role not in task.target_columns and role not in UNREAD_ROLES]


def select_read_columns(recipe: Recipe) -> Recipe:
    """Returns the recipe with the columns alone that its task reads to predict, and without what changes rows."""
    roles, data = list_read_roles(find_task(recipe.task)), recipe.data
    columns = {role: name for role, name in data.columns.items() if role in roles}
    if data.columns and not columns:
        raise RecipeError(
            f"data.columns maps {', '.join(data.columns)}, which are not read to predict: map a column to one of "
            f"{', '.join(roles)}"
        )
    templates = {role: text for role, text in data.templates.items() if role in columns}
    kept = replace(data, columns=columns, templates=templates, words_per_row=None, leave_out={}, labels=None)
    return replace(recipe, data=kept)


def load_given_rows(recipe: Recipe, split: str | None) -> "Dataset":
    """Loads the rows of a folder, a Hub data set or a registered source, with all their columns; images and clips stay
    closed."""
    splits = choose_splits(load_source(recipe.data, needs_labels=False), recipe.data)
    return disable_decoding(choose_split(splits, split))


def name_classes(data: "Dataset") -> Iterator[Mapping[str, Any]]:
    """Yields the rows with the names of classes in place of their numbers."""
    classes = {name: feature for name, feature in data.features.items() if hasattr(feature, "int2str")}
    for row in data:
        values = cast("dict[str, Any]", row)
        for name, feature in classes.items():
            number = values[name]
            values[name] = feature.names[number] if isinstance(number, int) and number >= 0 else None
        yield values


def load_data_rows(recipe: Recipe, split: str | None = None) -> list[Row]:
    """Loads the rows of the recipe's data at once, without their target columns, which may be missing."""
    return [row for part in open_data(recipe, split).read_parts() for row in part.rows]
