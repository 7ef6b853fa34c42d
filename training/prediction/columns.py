"""Rows to predict for that are columns in memory."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from ...configuration.modalities import MEDIA
from ..data.columns import map_roles, name_columns
from ..data.files import resolve_paths
from ..data.media import Row
from ..recipes.errors import RecipeError
from ..recipes.schema import Recipe
from ..tasks.registry import find_task
from .sources import SourcePart, adopt_columns, list_read_roles


class ColumnSource:
    """The rows of columns in memory, which have a value for each row.

    The recipe says which columns are read (see `select_read_columns`); a role whose column is missing is read from a
    column with the role's own name. Images, audio and videos may be arrays; paths are relative to `root`.

    Raises, while it is read:
        RecipeError: a column that is missing, or arrays in a column of texts.
    """

    def __init__(self, columns: Mapping[str, Sequence[Any]], recipe: Recipe, root: Path) -> None:
        self.columns, self.names, self.root = columns, list(columns), root
        self.recipe = adopt_columns(recipe, self.names)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def read_parts(self, first: int = 0, last: int | None = None, rows: bool = True) -> Iterator[SourcePart]:
        """Yields the rows from number `first` up to `last` (not included) as one part."""
        chosen = {name: values[first:last] for name, values in self.columns.items()}
        given = [dict(zip(chosen, row, strict=True)) for row in zip(*chosen.values(), strict=True)]
        yield SourcePart(first, self.name_rows(chosen) if rows else [], given)

    def name_rows(self, columns: Mapping[str, Sequence[Any]]) -> list[Row]:
        """Returns rows under the names of the roles that the task reads."""
        from datasets import Dataset

        recipe, task = self.recipe.data, find_task(self.recipe.task)
        known = list_read_roles(task)
        roles = map_roles(recipe, self.names, known)
        arrays = {role: columns[name] for role, name in roles.items() if holds_arrays(columns.get(name, ()))}
        check_arrays(arrays, roles)
        read = {name for role, name in roles.items() if role not in arrays}  # a data set would take arrays apart
        data = Dataset.from_dict(
            {name: values if name in read else [0] * len(values) for name, values in columns.items()}
        )
        named = name_columns(resolve_paths(data, recipe, self.root), recipe, "predicted", known)
        task.check_columns(named.column_names, "predicted", needs_targets=False)
        rows = [cast("dict[str, Any]", row) for row in named]
        return [{**row, **{role: arrays[role][number] for role in arrays}} for number, row in enumerate(rows)]


def check_arrays(arrays: Mapping[str, Any], roles: Mapping[str, str]) -> None:
    """Raises RecipeError for arrays in a column that is not of images, audio or videos."""
    wrong = next((role for role in arrays if role.partition(".")[0] not in MEDIA), None)
    if wrong is not None:
        raise RecipeError(f"data.columns.{wrong}: the column {roles[wrong]} holds arrays: map another column")


def holds_arrays(values: Sequence[Any]) -> bool:
    """Returns whether some of the values are arrays."""
    return any(isinstance(value, np.ndarray) for value in values)


def list_cells(values: Any) -> list[Any]:
    """Returns the values of a column, an array or a list, as plain values; of numbers, each that is an array stays
    one."""
    cells = values.tolist() if isinstance(values, np.ndarray) and values.ndim == 1 else list(values)
    return [make_plain_cell(cell) for cell in cells]


def make_plain_cell(cell: Any) -> Any:
    """Returns a number of numpy as one of Python, and an array of anything but numbers as a list."""
    if isinstance(cell, np.generic):
        return cell.item()
    is_array = isinstance(cell, np.ndarray) and (not cell.ndim or cell.dtype.kind not in "biuf")
    return cell.tolist() if is_array else cell
