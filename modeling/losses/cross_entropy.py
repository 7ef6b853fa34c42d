"""Cross-entropy and classification losses, which each class calls by name (transformers would choose one by the name of
the class)."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from ...configuration import PlaitConfig

IGNORE_INDEX = -100
LossProblemType = Literal["regression", "single_label_classification", "multi_label_classification"]


def find_problem_type(config: PlaitConfig, labels: Tensor) -> LossProblemType:
    """Returns the config's problem type. If that is None: regression for one output, else multi-label classification
    for floating-point labels and single-label classification for integers."""
    if config.problem_type is not None:
        return config.problem_type
    if config.num_labels == 1:
        return "regression"
    return "multi_label_classification" if labels.is_floating_point() else "single_label_classification"


def classification_loss(
    logits: Tensor,
    labels: Tensor,
    problem_type: LossProblemType,
    num_items_in_batch: Tensor | int | None = None,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Computes the loss of logits: (batch, num_labels) against labels: (batch,) class ids, or (batch[, num_labels])
    numbers; a scalar.

    It is the mean over labels, or their sum divided by `num_items_in_batch`, which counts labels as the Trainer does
    (one per row, or `num_labels` per row), so that accumulated micro-batches add up to the whole batch.
    `class_weights`, (num_labels,), multiply each row's loss in single-label classification; they do not change the
    divisor. Raises ValueError for a label that is not a class.
    """
    if problem_type == "single_label_classification":
        check_labels(labels, logits.shape[-1])
        return cross_entropy(logits, labels, num_items_in_batch, label_smoothing, class_weights)
    labels = labels.to(logits.dtype).view_as(logits)
    criterion = nn.functional.mse_loss if problem_type == "regression" else build_smoothed_bce(label_smoothing)
    total = criterion(logits, labels, reduction="sum")
    return total / (labels.numel() if num_items_in_batch is None else num_items_in_batch)


def count_labels(labels: Tensor, problem_type: LossProblemType) -> Tensor | int:
    """Counts the labels over which `classification_loss` takes the mean."""
    if problem_type == "single_label_classification":
        return (labels != IGNORE_INDEX).sum().clamp(min=1)
    return labels.numel()


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    num_items_in_batch: Tensor | int | None = None,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Computes the mean cross-entropy over the labels that are not -100; zero, not NaN, if all are.

    logits: (..., classes); labels: (...); `num_items_in_batch` replaces the number of labels as the divisor.
    """
    logits, labels = logits.flatten(0, -2).float(), labels.flatten().to(logits.device)
    count = (labels != IGNORE_INDEX).sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
    if isinstance(count, Tensor):
        count = count.to(logits.device)
    weights = None if class_weights is None else class_weights.to(logits)
    total = nn.functional.cross_entropy(
        logits, labels, weights, ignore_index=IGNORE_INDEX, reduction="sum", label_smoothing=label_smoothing
    )
    return total / count


def check_labels(labels: Tensor, num_labels: int) -> None:
    """Raises ValueError for a label that is neither -100 nor in 0 .. num_labels - 1."""
    wrong = labels[(labels != IGNORE_INDEX) & ((labels < 0) | (labels >= num_labels))]
    if len(wrong):
        raise ValueError(
            f"label {wrong[0].item()} is not one of the {num_labels} classes 0 .. {num_labels - 1}: "
            "check the labels, or set num_labels"
        )


def build_smoothed_bce(label_smoothing: float) -> Callable[..., Tensor]:
    """Builds a binary cross-entropy with smoothed labels that is called like torch's own."""

    def criterion(logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        labels = labels * (1 - label_smoothing) + label_smoothing / 2
        return nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction=reduction)

    return criterion


def masked_lm_loss(
    logits: Tensor, labels: Tensor, num_items_in_batch: Tensor | int | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Computes the loss of logits: (batch, length, vocab_size) against labels: (batch, length), -100 for tokens that
    are not predicted; the mean as in `cross_entropy`."""
    return cross_entropy(logits, labels.to(torch.long), num_items_in_batch, label_smoothing)
