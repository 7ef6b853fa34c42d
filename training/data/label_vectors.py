"""Labels of several classes as vectors of 0 and 1 (multi-hot), and labels that are not known."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...modeling.losses.labels import IGNORE_INDEX
from ..recipes.errors import RecipeError

if TYPE_CHECKING:
    from datasets import Dataset

NOT_KNOWN = (None, "", str(IGNORE_INDEX))


def is_unknown(value: Any, class_names: Sequence[str] | None = None) -> bool:
    """Returns whether a label is not known: None, an empty text, NaN or -100; of a feature with `class_names`, any
    number below 0."""
    if isinstance(value, (list, np.ndarray)):
        return False
    if isinstance(value, float):
        return value != value or value == IGNORE_INDEX
    if class_names is not None and isinstance(value, int):
        return value < 0
    return value is None or str(value) in NOT_KNOWN


def has_label_vectors(splits: Iterable["Dataset"]) -> bool:
    """Returns whether the lists in the label columns of all splits are vectors of 0 and 1, one number a class, rather
    than lists of names or of class numbers (see `guess_vectors`).

    Raises RecipeError if every row of every split is [0, 1], which may be both.
    """
    guesses = [guess_vectors(data["label"][:], data.features["label"]) for data in splits]
    if None in guesses and not {True, False} & set(guesses):
        raise RecipeError(
            "data: every label is [0, 1], which may be the classes 0 and 1, or the vector of a class that does not "
            "apply and one that does: give class names, or vectors of floats or booleans"
        )
    return True in guesses


def guess_vectors(values: Sequence[Any], feature: Any) -> bool | None:
    """Guesses whether labels are vectors of 0 and 1; None if they may also be lists of class numbers.

    Lists of floats or booleans are. Lists of integers are if one has an unknown item or a number twice, which a list of
    classes does not, or if all have the same length, two or more, and hold nothing but 0 and 1.
    """
    inner = getattr(feature, "feature", feature)
    dtype, rows = getattr(inner, "dtype", ""), [row for row in values if not is_unknown(row)]
    if hasattr(inner, "names") or not rows or not isinstance(rows[0], list):
        return False
    if not dtype.startswith(("int", "uint")):
        return dtype == "bool" or dtype.startswith("float")
    if any(len(set(row)) < len(row) or any(map(is_unknown, row)) for row in rows):
        return True
    if all(row == [0, 1] for row in rows):
        return None
    return {len(row) for row in rows} == {2} and {item for row in rows for item in row} == {0, 1}


def code_vector(value: Sequence[Any] | None, count: int, row: int, split: str) -> list[int]:
    """Codes a vector of 0 and 1 as a list of the classes that apply, and -1 - n for each class n that is not known.

    value: `count` numbers of any type, None or -100 or NaN where not known; None: no class is known.

    Raises RecipeError for another length or value; the message has its value and row.
    """
    if value is None or is_unknown(value):
        return [-1 - number for number in range(count)]
    if len(value) != count:
        raise RecipeError(
            f"data: the label of row {row} of {split!r} has {len(value)} numbers, but there are {count} classes: give "
            "one for each"
        )
    wrong = [item for item in value if not is_unknown(item) and item not in (0, 1)]
    if wrong:
        raise RecipeError(
            f"data: the label of row {row} of {split!r} has {wrong[0]!r}, neither 0 nor 1: a vector has 1 for a class "
            "that applies, 0 for one that does not, and None, NaN or -100 where it is not known"
        )
    coded = [-1 - number if is_unknown(item) else number for number, item in enumerate(value)]
    return [number for number, item in zip(coded, value, strict=True) if number < 0 or item == 1]


def build_vectors(rows: Sequence[Sequence[int]], count: int) -> Tensor:
    """Builds (rows, count) of 0 and 1, -100 where not known, from the lists of `code_vector`."""
    hot = torch.zeros(len(rows), count)
    for row, numbers in enumerate(rows):
        hot[row, [number for number in numbers if number >= 0]] = 1.0
        hot[row, [-1 - number for number in numbers if number < 0]] = IGNORE_INDEX
    return hot
