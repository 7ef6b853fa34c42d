"""Labels of classification and regression: their shapes and values, and which of them are known."""

from typing import Literal

from torch import Tensor

IGNORE_INDEX = -100
LossProblemType = Literal["regression", "single_label_classification", "multi_label_classification"]


def reshape_labels(labels: Tensor, logits: Tensor, problem_type: LossProblemType) -> Tensor:
    """Returns labels on the device of the logits: class ids (batch,), other labels in the shape of the logits.

    Raises ValueError for a number of labels that does not fit logits (batch, num_labels).
    """
    shape = logits.shape[:-1] if problem_type == "single_label_classification" else logits.shape
    if labels.numel() != shape.numel():
        raise ValueError(
            f"labels have the shape {tuple(labels.shape)}, but {problem_type} of logits {tuple(logits.shape)} needs "
            f"{tuple(shape)}: give labels of that shape, or set problem_type"
        )
    return labels.to(logits.device).view(shape)


def find_known_labels(labels: Tensor, problem_type: LossProblemType) -> Tensor:
    """Returns a mask in the shape of the labels, True where one is known: neither NaN nor -100, which in regression is
    a number like any other."""
    known = ~labels.isnan()
    return known if problem_type == "regression" else known & (labels != IGNORE_INDEX)


def check_labels(labels: Tensor, num_labels: int) -> None:
    """Raises ValueError for a label that is neither -100 nor in 0 .. num_labels - 1, with its row."""
    wrong = (labels != IGNORE_INDEX) & ((labels < 0) | (labels >= num_labels))
    if wrong.any():
        row = int(wrong.flatten().nonzero()[0])
        raise ValueError(
            f"label {labels.flatten()[row].item()} of row {row} is not one of the {num_labels} classes "
            f"0 .. {num_labels - 1}: check the labels (-100: unknown), or set num_labels"
        )


def check_label_vectors(labels: Tensor, known: Tensor) -> None:
    """Raises ValueError for a known label outside 0 .. 1, with its row and class. Between them lie soft labels.

    labels, known: (batch, num_labels).
    """
    wrong = known & ((labels < 0) | (labels > 1))
    if wrong.any():
        row, column = (int(number) for number in wrong.nonzero()[0])
        raise ValueError(
            f"the label {labels[row, column].item()} of row {row}, class {column} is neither 0 nor 1: give 1 where the "
            "class applies, 0 where it does not, and -100 or NaN where that is not known"
        )
