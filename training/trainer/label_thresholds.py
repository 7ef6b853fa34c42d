"""Chooses the thresholds of several labels a row by a trained model's probabilities on a split."""

from typing import Any

import numpy as np
from torch import Tensor

from ..data.labels import MULTI, LabelSpec
from ..metrics.thresholds import choose_thresholds
from .trainer import PlaitTrainer


def has_thresholds(labels: LabelSpec | None) -> bool:
    """Returns whether rows have several labels, each with a threshold."""
    return labels is not None and labels.problem_type == MULTI


def tune_thresholds(trainer: PlaitTrainer, rows: Any, labels: LabelSpec, split: str) -> dict[str, Any]:
    """Chooses the threshold of each label on a split (see `choose_thresholds`); returns the content of the file.

    Every process of several takes part.
    """
    references, probabilities = measure_probabilities(trainer, rows)
    chosen = choose_thresholds(references, probabilities)
    return {
        "split": split,
        "rows": len(references),
        "chosen_for": "F1 of each label",
        "thresholds": {name: one.threshold for name, one in zip(labels.names, chosen, strict=True)},
        "f1": {name: one.score for name, one in zip(labels.names, chosen, strict=True)},
        "f1_at_0.5": {name: one.default_score for name, one in zip(labels.names, chosen, strict=True)},
    }


def measure_probabilities(trainer: PlaitTrainer, rows: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns the labels of rows, (rows, labels) of 0, 1 and -100 (not known), and their probabilities."""
    kept = trainer.preprocess_logits_for_metrics, trainer.compute_metrics
    trainer.preprocess_logits_for_metrics, trainer.compute_metrics = apply_sigmoid, None
    try:
        found: Any = trainer.predict(rows, metric_key_prefix="thresholds")
    finally:
        trainer.preprocess_logits_for_metrics, trainer.compute_metrics = kept
    return np.asarray(found.label_ids), np.asarray(found.predictions)


def apply_sigmoid(logits: Any, labels: Tensor) -> Tensor:
    """Returns the probabilities of several labels."""
    return logits.float().sigmoid()
