"""Groups of rows that belong together, and how they are assigned to folds."""

from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ...configuration.modalities import MEDIA
from ..data.labels import REGRESSION, SINGLE, LabelSpec
from ..data.media import Row, collect_items, find_columns
from ..recipes.errors import RecipeError

if TYPE_CHECKING:
    from datasets import Dataset

TARGET_BINS = 10  # of a regression's targets: each bin is spread evenly over the folds


def assign_groups(data: "Dataset", columns: Sequence[str]) -> np.ndarray:
    """Returns (rows,) group numbers: rows with an equal value in one of the columns, directly or by way of other rows,
    are in one group.

    Texts are equal when they differ only in case and spaces, images when their bytes or paths are equal.

    Raises:
        RecipeError: a column that the data do not have.
    """
    parents = list(range(len(data)))
    for column in columns:
        first: dict[Hashable, int] = {}
        for row, values in enumerate(collect_column_values(data, column)):
            for value in values:
                union_groups(parents, first.setdefault(value, row), row)
    roots = [find_root(parents, row) for row in range(len(parents))]
    return np.unique(roots, return_inverse=True)[1]


def collect_column_values(data: "Dataset", column: str) -> Iterable[list[Hashable]]:
    """Returns for each row the values that identify it in one column ("image": in all image columns, and so on)."""
    names = [name for name in data.column_names if name.partition(".")[0] == column]
    if not names:
        raise RecipeError(f"compare.group_by: there is no column {column!r}, only {', '.join(data.column_names)}")
    if column in MEDIA:
        names = find_columns(data.column_names, column)
        return ([key for key, _ in collect_items(cast("Row", row), column)] for row in data.select_columns(names))
    return ([normalize_value(value)] if value is not None else [] for value in data[names[0]])


def normalize_value(value: Any) -> str:
    """Returns a value as text in which case and spaces do not matter."""
    return " ".join(str(value).casefold().split())


def union_groups(parents: list[int], one: int, other: int) -> None:
    """Merges the groups of two rows."""
    parents[find_root(parents, other)] = find_root(parents, one)


def find_root(parents: list[int], row: int) -> int:
    """Returns the row that represents the group of this row, and shortens the path to it."""
    while parents[row] != row:
        parents[row] = parents[parents[row]]
        row = parents[row]
    return row


def assign_folds(groups: np.ndarray, targets: np.ndarray, labels: LabelSpec, folds: int, seed: int) -> np.ndarray:
    """Returns (rows,) the fold in which each row is tested; groups stay whole, classes (or a regression's range) are
    spread evenly.

    groups: (rows,); targets: (rows,) ids or numbers, or (rows, labels) of 0 and 1, which are not spread.

    Raises:
        RecipeError: fewer than two folds, fewer groups than folds, or a group larger than two folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    sizes = np.bincount(groups)
    if folds < 2 or len(sizes) < folds:
        raise RecipeError(f"compare.folds is {folds}: expected 2 or more, and at most the {len(sizes)} groups of rows")
    if sizes.max() * folds > 2 * len(groups):
        raise RecipeError(
            f"compare.group_by: {sizes.max()} of {len(groups)} rows belong together, more than twice a fold's share: "
            "name the columns whose equal values make rows belong together, such as [image]"
        )
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    numbers = np.zeros(len(groups), dtype=int)
    for fold, (_, test) in enumerate(splitter.split(groups, build_strata(targets, labels), groups)):
        numbers[test] = fold
    return numbers


def build_strata(targets: np.ndarray, labels: LabelSpec) -> np.ndarray:
    """Returns (rows,) the classes, or bins of a regression's targets, that are spread evenly over the folds."""
    if labels.problem_type == SINGLE:
        return targets
    if labels.problem_type == REGRESSION:
        edges = np.unique(np.quantile(targets, np.linspace(0, 1, TARGET_BINS + 1)[1:-1]))
        return np.searchsorted(edges, targets)
    return np.zeros(len(targets), dtype=int)
