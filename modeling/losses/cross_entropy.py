"""Losses, each set explicitly by the class that uses it (transformers would pick one by class name)."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from ...configuration import PlaitConfig

IGNORE_INDEX = -100
LossProblemType = Literal["regression", "single_label_classification", "multi_label_classification"]


def find_problem_type(config: PlaitConfig, labels: Tensor) -> LossProblemType:
    """The config's problem type; where it has none: one output is regression, integer labels are one class a row."""
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
    """logits: (batch, num_labels) against labels: (batch,) class ids, or (batch[, num_labels]) numbers; a scalar.

    The mean over labels, or their sum over `num_items_in_batch`, which counts labels as the Trainer does (one a row, or
    `num_labels` a row): then accumulated micro-batches add up to the whole batch. `class_weights`, (num_labels,),
    multiply each row's loss where a row has one class; the division is by the number of labels all the same.
    Raises ValueError for a label that is not a class.
    """
    if problem_type == "single_label_classification":
        check_labels(labels, logits.shape[-1])
        return cross_entropy(logits, labels, num_items_in_batch, label_smoothing, class_weights)
    labels = labels.to(logits.dtype).view_as(logits)
    criterion = nn.functional.mse_loss if problem_type == "regression" else build_smoothed_bce(label_smoothing)
    total = criterion(logits, labels, reduction="sum")
    return total / (labels.numel() if num_items_in_batch is None else num_items_in_batch)


def count_labels(labels: Tensor, problem_type: LossProblemType) -> Tensor | int:
    """What the mean of `classification_loss` divides by."""
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
    """Mean cross-entropy over the labels that are not -100; zero, not NaN, when all are. logits: (..., classes)."""
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
    wrong = labels[(labels != IGNORE_INDEX) & ((labels < 0) | (labels >= num_labels))]
    if len(wrong):
        raise ValueError(f"label {wrong[0].item()} is not one of the {num_labels} classes 0 .. {num_labels - 1}")


def build_smoothed_bce(label_smoothing: float) -> Callable[..., Tensor]:
    """Binary cross-entropy with smoothed labels, as a criterion of torch's own signature."""

    def criterion(logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        labels = labels * (1 - label_smoothing) + label_smoothing / 2
        return nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction=reduction)

    return criterion


def masked_lm_loss(
    logits: Tensor, labels: Tensor, num_items_in_batch: Tensor | int | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """logits: (batch, length, vocab_size) against labels: (batch, length), -100 where nothing is to be predicted."""
    return cross_entropy(logits, labels.to(torch.long), num_items_in_batch, label_smoothing)
