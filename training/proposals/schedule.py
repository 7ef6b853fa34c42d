"""Chooses batches, learning rates and the length of training by the number of rows and by what is trained."""

from collections.abc import Mapping
from math import ceil
from typing import Any, NamedTuple

HEAD_STEPS, FUSION_STEPS, FRESH_STEPS = 2500, 600, 1200  # of a head or a fusion on frozen towers, of small new towers
FINE_TUNING_EPOCHS = ((1000, 10), (10_000, 5))  # rows below which so many epochs are made; 3 above
MAX_EVALUATIONS = 15
FEW_VALIDATION_ROWS = 200  # of the validation split: a metric of fewer jumps by chance
CACHEABLE_ROWS = {"text": 100_000, "image": 20_000, "audio": 20_000, "video": 20_000}  # whose tokens fit on a disk


class TrainingPlan(NamedTuple):
    """The recipe's `training`, and why."""

    arguments: dict[str, Any]
    reasons: dict[str, str]


def plan_training(
    rows: int,
    frozen: list[str],
    trained: list[str],
    fresh: list[str],
    measured: int,
    metric: str,
    given: Mapping[str, Any],
) -> TrainingPlan:
    """Plans a training on so many rows.

    Args:
        rows: of the training split.
        frozen, trained, fresh: towers that stay as they are, pretrained ones that are trained, and new ones.
        measured: rows of the validation split, 0 for none.
        metric: by which the best checkpoint is chosen, if there are enough of these rows.
        given: arguments that are decided, by which the others are planned.
    """
    if trained:
        arguments, why = plan_fine_tuning(rows, trained)
    elif fresh:
        arguments, why = plan_fresh_training(rows)
    else:
        arguments, why = plan_fusion_training(rows) if len(frozen) > 1 else plan_head_training(rows)
    arguments["per_device_train_batch_size"] = min(arguments["per_device_train_batch_size"], max(2, rows))
    batch, epochs = (given.get(key, arguments[key]) for key in ("per_device_train_batch_size", "num_train_epochs"))
    steps = ceil(rows / max(1, batch))
    arguments |= {"logging_steps": max(1, steps // 4), "save_total_limit": 1}
    reasons = {"num_train_epochs": why}
    cached = [part for part in frozen if rows <= CACHEABLE_ROWS[part]]
    if cached:
        arguments["cache_features"] = cached
        reasons["cache_features"] = "a frozen tower runs once for each input, and its outputs are kept on disk"
    if not measured:
        return TrainingPlan(arguments | {"save_strategy": "epoch"}, reasons)
    best = {"load_best_model_at_end": True, "metric_for_best_model": metric, "early_stopping_patience": 4}
    reasons["metric_for_best_model"] = "the best checkpoint on the validation rows is kept"
    if measured < FEW_VALIDATION_ROWS:
        best = {"load_best_model_at_end": True, "metric_for_best_model": "loss"}
        reasons["metric_for_best_model"] = "of few validation rows the loss says more than a metric"
    return TrainingPlan(arguments | plan_evaluation(steps, epochs) | best, reasons)


def plan_head_training(rows: int) -> tuple[dict[str, Any], str]:
    """Plans training of a head on the outputs of a frozen tower."""
    batch = 64 if rows >= 5000 else 32
    epochs = clamp(HEAD_STEPS / ceil(rows / batch), 5, 60)
    return build_arguments_of(
        batch, epochs, 1e-3, 0.01
    ), f"about {HEAD_STEPS} steps: towers are frozen, so a step is cheap"


def plan_fusion_training(rows: int) -> tuple[dict[str, Any], str]:
    """Plans training of a fusion on the outputs of frozen towers: it overfits sooner than a head."""
    epochs = clamp(FUSION_STEPS / ceil(rows / 32), 4, MAX_EVALUATIONS)
    return build_arguments_of(32, epochs, 1e-3, 0.05), f"about {FUSION_STEPS} steps of the fusion: towers are frozen"


def plan_fresh_training(rows: int) -> tuple[dict[str, Any], str]:
    """Plans training of small new towers, from nothing."""
    epochs = clamp(FRESH_STEPS / ceil(rows / 32), 10, 60)
    return build_arguments_of(32, epochs, 1.5e-3, 0.05), f"about {FRESH_STEPS} steps, as new towers need"


def plan_fine_tuning(rows: int, trained: list[str]) -> tuple[dict[str, Any], str]:
    """Plans fine-tuning of pretrained towers, at a low rate."""
    epochs = next((epochs for limit, epochs in FINE_TUNING_EPOCHS if rows < limit), 3)
    arguments = build_arguments_of(16 if rows < 2000 else 32, epochs, 3e-4, 0.01)
    rates = {"text": 3e-5, "image": 2e-5, "audio": 3e-5, "video": 2e-5, "decoder": 1e-4}
    arguments["learning_rates"] = {part: rates[part] for part in trained}
    return arguments, "pretrained weights are fine-tuned: a few epochs, at low rates"


def build_arguments_of(batch: int, epochs: int, rate: float, decay: float) -> dict[str, Any]:
    """Returns the arguments that every plan has."""
    return {
        "num_train_epochs": epochs,
        "per_device_train_batch_size": batch,
        "per_device_eval_batch_size": 64,
        "learning_rate": rate,
        "weight_decay": decay,
        "warmup_steps": 0.1,
        "lr_scheduler_type": "cosine",
    }


def plan_evaluation(steps: int, epochs: float) -> dict[str, Any]:
    """Returns when the model is evaluated and saved: after each epoch, but not much more often than MAX_EVALUATIONS."""
    if epochs <= MAX_EVALUATIONS:
        return {"eval_strategy": "epoch", "save_strategy": "epoch"}
    every = ceil(steps * epochs / MAX_EVALUATIONS)
    return {"eval_strategy": "steps", "eval_steps": every, "save_strategy": "steps", "save_steps": every}


def clamp(value: float, lowest: int, highest: int) -> int:
    """Returns the nearest whole number within these limits."""
    return max(lowest, min(highest, round(value)))
