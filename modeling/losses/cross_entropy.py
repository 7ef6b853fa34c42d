"""Cross-entropy and classification losses, which each class calls by name (transformers would choose one by the name of
the class)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ...configuration import PlaitConfig
from .labels import (
    IGNORE_INDEX,
    LossProblemType,
    check_label_vectors,
    check_labels,
    find_known_labels,
    reshape_labels,
)


def find_problem_type(config: PlaitConfig, labels: Tensor) -> LossProblemType:
    """Returns the config's problem type. If that is None: regression for one output, else multi-label classification
    for floating-point labels and for vectors (batch, num_labels) of any type, and single-label classification for
    other integers."""
    if config.problem_type is not None:
        return config.problem_type
    if config.num_labels == 1:
        return "regression"
    hot = labels.ndim == 2 and labels.shape[-1] == config.num_labels
    return "multi_label_classification" if hot or labels.is_floating_point() else "single_label_classification"


def classification_loss(
    logits: Tensor,
    labels: Tensor,
    problem_type: LossProblemType,
    num_items_in_batch: Tensor | int | None = None,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
    target_std: float | Sequence[float] | None = None,
) -> Tensor:
    """Computes the loss of logits: (batch, num_labels) against labels; a scalar.

    Labels are (batch,) class ids, -100 where unknown; for several classes (batch, num_labels) of 0 and 1 in any number
    type, -100 or NaN where unknown; for regression (batch[, num_labels]) numbers, NaN where unknown, whose errors are
    divided by `target_std` if the model standardizes its targets. An unknown label has no part in the loss.

    It is the mean over known labels, or their sum divided by `num_items_in_batch`, which counts labels as the Trainer
    does (one per row, or `num_labels` per row), so that accumulated micro-batches add up to the whole batch.
    `class_weights`, (num_labels,), multiply each row's loss in single-label classification; they do not change the
    divisor. Raises ValueError for a label of another value or shape, with its row.
    """
    labels = reshape_labels(labels, logits, problem_type)
    if problem_type == "single_label_classification":
        check_labels(labels, logits.shape[-1])
        return cross_entropy(logits, labels, num_items_in_batch, label_smoothing, class_weights)
    known = find_known_labels(labels, problem_type)
    if problem_type == "regression":
        if target_std is not None:
            scale = logits.new_tensor(target_std)
            logits, labels = logits / scale, labels.to(logits.dtype) / scale
        criterion: Callable[..., Tensor] = nn.functional.mse_loss
    else:
        check_label_vectors(labels, known)
        criterion = build_smoothed_bce(label_smoothing)
    values = labels.to(logits.dtype).masked_fill(~known, 0.0)
    total = criterion(logits, values, reduction="none").masked_fill(~known, 0.0).sum()
    return total / (known.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch)


def count_labels(labels: Tensor, problem_type: LossProblemType) -> Tensor | int:
    """Counts the labels over which `classification_loss` takes the mean."""
    return find_known_labels(labels, problem_type).sum().clamp(min=1)


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
