"""Finds the names and the kind of labels in the training split, and encodes labels as numbers."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from transformers.utils import logging

from ...modeling.losses.labels import IGNORE_INDEX
from ..recipes.errors import RecipeError
from .cells import replace_column
from .label_columns import get_label_values
from .label_vectors import code_vector, is_unknown

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedConfig

logger = logging.get_logger(__name__)

MetricProblemType = Literal["single_label_classification", "multi_label_classification", "regression", "masked_lm"]
SINGLE, MULTI, REGRESSION, MASKED_LM_PROBLEM = (
    "single_label_classification",
    "multi_label_classification",
    "regression",
    "masked_lm",
)


class LabelSpec(NamedTuple):
    """The class names by id (empty for regression) and the problem type."""

    names: tuple[str, ...]
    problem_type: MetricProblemType

    @property
    def count(self) -> int:
        """The number of outputs of the model per row."""
        return max(1, len(self.names))


Labels = LabelSpec  # its earlier name


def read_config_labels(config: "PreTrainedConfig") -> LabelSpec:
    """Returns the labels that the config of a trained model names."""
    if config.problem_type == REGRESSION or (config.problem_type is None and config.num_labels == 1):
        return LabelSpec((), REGRESSION)
    names = {int(number): name for number, name in (config.id2label or {}).items()}
    return LabelSpec(
        tuple(names[number] for number in sorted(names)), MULTI if config.problem_type == MULTI else SINGLE
    )


def find_labels(
    data: "Dataset",
    names: Sequence[str] | None = None,
    regression: bool = False,
    order: Sequence[str] = (),
    vectors: bool = False,
) -> LabelSpec:
    """Finds the labels of a training split: the recipe's `names`, a ClassLabel's, or the sorted distinct values.

    Numbers with a decimal point are regression targets (unless `names` are given), lists are several labels per row: of
    names, of class numbers, or with `vectors` of 0 and 1 for each class (see `has_label_vectors`). `order` are the
    names of a pretrained model: if the data have the same names, its order is kept. Raises RecipeError for a single
    class, or no known label.
    """
    values, feature = get_label_values(data), _get_label_feature(data)
    first = next((value for value in values if not is_unknown(value)), None)
    if first is None:
        raise RecipeError("data: no row of the training split has a label: fill the column that is mapped to label")
    several = isinstance(first, list)
    if regression or (names is None and not several and feature.dtype.startswith("float")):
        return LabelSpec((), REGRESSION)
    if names is None:
        names = _find_class_names(feature) or _find_distinct(values, several, vectors)
    if sorted(names) == sorted(order):
        names = order
    if len(names) < 2 and not several:
        raise RecipeError(f"data: every label of the training split is {names[0]!r}: at least two classes are needed")
    return LabelSpec(tuple(names), MULTI if several else SINGLE)


def encode_labels(data: "Dataset", labels: LabelSpec, split: str, vectors: bool = False) -> "Dataset":
    """Encodes the label column as class ids, floats for regression, or lists for several labels per row (see
    `code_vector`), which are given as names or, with `vectors`, as 0 and 1 for each class. A label that is not known
    (None, NaN, and of classes -100) becomes -100, or NaN in regression; a warning counts them.

    Raises:
        RecipeError: a label that does not occur in training; the message has its value and row.
    """
    values = get_label_values(data)
    if labels.problem_type == REGRESSION:
        encoded: list[Any] = [_parse_number(value, row, split) for row, value in enumerate(values)]
    else:
        encoded = _encode_classes(values, _find_class_names(_get_label_feature(data)), labels, split, vectors)
    report_unknown(encoded, labels, split)
    return replace_column(data, "label", encoded)


def report_unknown(encoded: Sequence[Any], labels: LabelSpec, split: str) -> None:
    """Warns of encoded labels that are not known, with their number; raises RecipeError if none of a split is known."""
    if labels.problem_type == MULTI:
        counts = [sum(number < 0 for number in numbers) for numbers in encoded]
    elif labels.problem_type == REGRESSION:
        counts = [int(math.isnan(number)) for number in encoded]
    else:
        counts = [int(number == IGNORE_INDEX) for number in encoded]
    total = len(counts) * (labels.count if labels.problem_type == MULTI else 1)
    if sum(counts) == total:
        raise RecipeError(
            f"data: no row of {split!r} has a known label: correct the column that is mapped to label, or set "
            f"data.splits.{split} to null"
        )
    if sum(counts):
        rows = sum(map(bool, counts))
        logger.warning(
            f"data: {sum(counts)} of {total} labels of {split!r} are not known, in {rows} of {len(counts)} rows: they "
            "are left out of the loss and the metrics"
        )


def _get_label_feature(data: "Dataset") -> Any:
    feature = data.features["label"]
    return getattr(feature, "feature", feature)


def _find_class_names(feature: Any) -> list[str] | None:
    from datasets import ClassLabel

    return list(feature.names) if isinstance(feature, ClassLabel) else None


def _find_distinct(values: Sequence[Any], several: bool, vectors: bool) -> list[str]:
    rows = [value for value in values if not is_unknown(value)]
    if vectors:
        return [str(number) for number in range(max(map(len, rows)))]
    flat = {item for value in rows for item in (value if several else [value])}
    return sort_names({str(item) for item in flat if not is_unknown(item)})


def sort_names(names: set[str]) -> list[str]:
    """Sorts class names: by number if all are whole numbers, else by letters."""
    try:
        return sorted(names, key=lambda name: (int(name), name))
    except ValueError:
        return sorted(names)


def _parse_number(value: Any, row: int, split: str) -> float:
    if value is None:
        return float("nan")
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise RecipeError(
            f"data: the label {value!r} in row {row} of {split!r} is no number: regression needs numeric labels"
        ) from error
    if math.isinf(number):
        raise RecipeError(f"data: the label in row {row} of {split!r} is {number}: expected a finite number")
    return number


def _encode_classes(
    values: Sequence[Any], class_names: list[str] | None, labels: LabelSpec, split: str, vectors: bool
) -> list[Any]:
    ids = {name: number for number, name in enumerate(labels.names)}
    if labels.problem_type == SINGLE:
        return [
            IGNORE_INDEX if is_unknown(value, class_names) else _encode(value, class_names, ids, row, split)
            for row, value in enumerate(values)
        ]
    return [
        code_vector(value, labels.count, row, split)
        if vectors or is_unknown(value)
        else [_encode(item, class_names, ids, row, split) for item in (value if isinstance(value, list) else [value])]
        for row, value in enumerate(values)
    ]


def _encode(value: Any, class_names: list[str] | None, ids: dict[str, int], row: int, split: str) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # whole numbers in a column with an empty cell
    name = class_names[value] if class_names is not None and isinstance(value, int) and value >= 0 else str(value)
    if name not in ids:
        known = ", ".join(ids) if len(ids) <= 20 else f"{', '.join(list(ids)[:20])}, ..."
        raise RecipeError(
            f"data: unknown label {name!r} in row {row} of {split!r}; training has {known}: correct it, or name all "
            "classes in data.labels"
        )
    return ids[name]
