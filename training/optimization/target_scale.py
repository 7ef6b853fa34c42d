"""Standardizes the targets of a regression: mean and deviation of the training targets become part of the model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn
from transformers.trainer_utils import unwrap_peft_model
from transformers.utils import logging

from ...modeling.tasks.classification import PlaitForClassification
from ..data.label_columns import collect_labels
from ..data.labels import REGRESSION, read_config_labels

logger = logging.get_logger(__name__)


def fit_target_scale(model: nn.Module, data: Any) -> None:
    """Sets a new regressor's target scale to the mean and standard deviation of the training targets, so that prices of
    5,000 to 475,000 are learned as well as scores of 0 to 1.

    A model that has a scale, or a head that was trained without one, stays as it is; so does a model inside adapters,
    with a warning, because its config is not saved with them.
    """
    inner: Any = unwrap_peft_model(model)
    if not isinstance(inner, PlaitForClassification) or read_config_labels(inner.config).problem_type != REGRESSION:
        return
    targets = collect_targets(data, len(inner.config.id2label or {}))
    if inner.config.target_std is not None or targets is None or not has_new_head(inner):
        return
    mean, std = np.nanmean(targets, axis=0), np.nanstd(targets, axis=0)
    if not (np.isfinite(std).all() and (std > 0).all()):
        return
    if inner is not model:
        logger.warning(
            f"the targets have the mean {mean.tolist()} and the standard deviation {std.tolist()}, but the model is "
            "inside adapters, which do not save its config: call its set_target_scale(mean, std) and save it before"
        )
        return
    single = inner.config.num_labels == 1
    inner.set_target_scale(*(value.item() if single else value.tolist() for value in (mean, std)))


def collect_targets(data: Any, count: int) -> np.ndarray | None:
    """Returns the numbers of all rows, (rows, count), NaN where not known; None if the data have no such labels."""
    readable = hasattr(data, "column_names") or isinstance(data, Sequence)  # other rows may be costly to read
    labels = collect_labels(data) if readable else None
    if labels is None:
        return None
    try:
        targets = np.array([np.nan if label is None else label for label in labels], dtype=float)
    except (TypeError, ValueError):  # labels that only the user's own collator can read
        return None
    return targets.reshape(len(labels), count) if targets.size == len(labels) * count else None


def has_new_head(model: PlaitForClassification) -> bool:
    """Returns whether the classifier is newly initialized: its bias is zero or, without one, the model not loaded."""
    head: Any = model.classifier
    if not isinstance(head, nn.Linear):
        return False
    return not model.name_or_path if head.bias is None else bool(head.bias.numel()) and not bool(head.bias.any())
