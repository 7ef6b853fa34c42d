"""Finds the names and the kind of labels in the training split, and encodes labels as numbers."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ..recipes.errors import RecipeError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedConfig

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


def read_config_labels(config: "PreTrainedConfig") -> LabelSpec:
    """Returns the labels that the config of a trained model names."""
    if config.problem_type == REGRESSION or (config.problem_type is None and config.num_labels == 1):
        return LabelSpec((), REGRESSION)
    names = {int(number): name for number, name in (config.id2label or {}).items()}
    return LabelSpec(
        tuple(names[number] for number in sorted(names)), MULTI if config.problem_type == MULTI else SINGLE
    )


def find_labels(
    data: "Dataset", names: Sequence[str] | None = None, regression: bool = False, order: Sequence[str] = ()
) -> LabelSpec:
    """Finds the labels of a training split: the recipe's `names`, a ClassLabel's, or the sorted distinct values.

    Numbers with a decimal point are regression targets, lists are several labels per row. `order` are the names of a
    pretrained model: if the data have the same names, its order is kept. Raises RecipeError for a single class.
    """
    values, feature = _get_label_values(data), _get_label_feature(data)
    several = isinstance(values[0], list)
    if regression or (not several and feature.dtype.startswith("float")):
        return LabelSpec((), REGRESSION)
    if names is None:
        names = _find_class_names(feature) or _find_distinct(values, several)
    if sorted(names) == sorted(order):
        names = order
    if len(names) < 2 and not several:
        raise RecipeError(f"data: every label of the training split is {names[0]!r}: at least two classes are needed")
    return LabelSpec(tuple(names), MULTI if several else SINGLE)


def encode_labels(data: "Dataset", labels: LabelSpec, split: str) -> "Dataset":
    """Encodes the label column as ids (floats for regression, lists of ids for several labels per row).

    Raises:
        RecipeError: a label that is missing or does not occur in training; the message has its value and row.
    """
    class_names, values = _find_class_names(_get_label_feature(data)), _get_label_values(data)
    if labels.problem_type == REGRESSION:
        encoded = [_parse_number(value, row, split) for row, value in enumerate(values)]
    else:
        ids = {name: number for number, name in enumerate(labels.names)}
        encoded = [_encode(value, class_names, ids, row, split) for row, value in enumerate(values)]
    return data.remove_columns("label").add_column("label", encoded)


def _get_label_values(data: "Dataset") -> list[Any]:
    if "label" not in data.column_names:
        raise RecipeError(f"data.columns: no column is mapped to label; mapped are {', '.join(data.column_names)}")
    return data["label"][:]


def _get_label_feature(data: "Dataset") -> Any:
    feature = data.features["label"]
    return getattr(feature, "feature", feature)


def _find_class_names(feature: Any) -> list[str] | None:
    from datasets import ClassLabel

    return list(feature.names) if isinstance(feature, ClassLabel) else None


def _find_distinct(values: Sequence[Any], several: bool) -> list[str]:
    flat = {item for value in values for item in (value if several else [value]) if item is not None}
    return [str(value) for value in sorted(flat)]


def _parse_number(value: Any, row: int, split: str) -> float:
    if value is None:
        raise RecipeError(f"data: row {row} of {split!r} has no label: set it, or remove the row")
    try:
        number = float(value)
    except ValueError as error:
        raise RecipeError(
            f"data: the label {value!r} in row {row} of {split!r} is no number: regression needs numeric labels"
        ) from error
    if not math.isfinite(number):
        raise RecipeError(f"data: the label in row {row} of {split!r} is {number}: expected a finite number")
    return number


def _encode(value: Any, class_names: list[str] | None, ids: dict[str, int], row: int, split: str) -> Any:
    if isinstance(value, list):
        return [_encode(item, class_names, ids, row, split) for item in value]
    if value is None:
        raise RecipeError(f"data: row {row} of {split!r} has no label: set it, or remove the row")
    name = class_names[value] if class_names is not None else str(value)
    if name not in ids:
        known = ", ".join(ids) if len(ids) <= 20 else f"{', '.join(list(ids)[:20])}, ..."
        raise RecipeError(f"data: unknown label {name!r} in row {row} of {split!r}; training has {known}")
    return ids[name]
