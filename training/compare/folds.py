"""Groups of rows that belong together, and how they are assigned to folds."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...configuration.modalities import MEDIA
from ..data.groups import Values, collect_media_values, join_rows
from ..data.labels import REGRESSION, SINGLE, LabelSpec
from ..recipes.errors import RecipeError

if TYPE_CHECKING:
    from datasets import Dataset

TARGET_BINS = 10  # of a regression's targets: each bin is spread evenly over the folds


def assign_groups(data: "Dataset", columns: Sequence[str]) -> np.ndarray:
    """Returns (rows,) group numbers: rows with an equal value in one of the columns, directly or by way of other rows,
    are in one group.

    Texts are equal when they differ only in case and spaces, images when their content (or `image_id`) is equal.

    Raises:
        RecipeError: a column that the data do not have.
    """
    values = [found for column in columns for found in collect_column_values(data, column)]
    return np.unique(join_rows(len(data), values), return_inverse=True)[1]


def collect_column_values(data: "Dataset", column: str) -> list[Values]:
    """Returns the values that identify each row in one column ("image": in all image columns, and so on)."""
    names = [name for name in data.column_names if name.partition(".")[0] == column]
    if not names:
        raise RecipeError(f"compare.group_by: there is no column {column!r}, only {', '.join(data.column_names)}")
    if column in MEDIA:
        return collect_media_values(data, column)
    return [[[normalize_value(value)] if value is not None else [] for value in data[names[0]]]]


def normalize_value(value: Any) -> str:
    """Returns a value as text in which case and spaces do not matter."""
    return " ".join(str(value).casefold().split())


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
        edges = np.unique(np.nanquantile(targets, np.linspace(0, 1, TARGET_BINS + 1)[1:-1]))
        return np.searchsorted(edges, targets)
    return np.zeros(len(targets), dtype=int)
