"""What a run settles once its data and its model are known: settings of a shipped recipe that fit neither give way, and
the metric that chooses the best model follows the kind of the targets."""

from collections.abc import Collection
from typing import Any

import torch
from transformers.utils.import_utils import is_torch_bf16_gpu_available, is_torch_xla_available

from ...modeling.backbone.parts import group_parameters_by_part
from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ..data.labels import MULTI, REGRESSION, SINGLE, LabelSpec
from ..metrics.direction import is_greater_better
from ..optimization.arguments import PlaitTrainingArguments
from ..recipes.schema import Recipe

AUTO = "auto"  # as training.metric_for_best_model
BEST_METRICS = {SINGLE: "f1_macro", MULTI: "f1_macro", REGRESSION: "mae"}  # if the recipe names no metrics
OF_ONE_CLASS = {"label_smoothing_factor": 0.0, "class_weights": None}  # arguments of one class a row, and their absence


def settle_precision(recipe: Recipe) -> None:
    """Makes the bfloat16 of a shipped recipe fit the device: a CPU trains with it if it has bfloat16 products; a device
    without them trains in float32."""
    training = recipe.training
    if "training.bf16" not in recipe.shipped or not training["bf16"] or training.get("use_cpu"):
        return
    if is_torch_bf16_gpu_available() or is_torch_xla_available():
        return
    products = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if products and not torch.accelerator.is_available():
        training["use_cpu"] = True  # without it transformers refuses bf16 here
    else:
        training["bf16"] = False


def settle_loss(args: PlaitTrainingArguments, labels: LabelSpec | None, shipped: Collection[str]) -> None:
    """Takes the smoothing and the weights of classes that a shipped recipe sets out of the arguments, if the targets
    are numbers or several labels, which have none. (The user's own are an error of the trainer.)"""
    if labels is not None and labels.problem_type != SINGLE:
        for name, absent in OF_ONE_CLASS.items():
            if f"training.{name}" in shipped:
                setattr(args, name, absent)


def settle_best_metric(
    args: PlaitTrainingArguments, recipe: Recipe, metrics: Any, labels: LabelSpec | None = None
) -> None:
    """Sets `metric_for_best_model: auto` to the first of the metrics that the recipe names or, if it names none, to
    that of the kind of the targets: the macro F1 of classes, the mean absolute error of numbers, of other tasks the
    first that they measure."""
    if args.metric_for_best_model != AUTO:
        return
    names = metrics.names or ["loss"]
    usual = BEST_METRICS.get(labels.problem_type) if labels is not None and not recipe.metrics else None
    chosen = usual if usual is not None and usual in names else names[0]
    args.metric_for_best_model = chosen
    if recipe.training.get("greater_is_better") is None:
        args.greater_is_better = is_greater_better(chosen)


def settle_parts(args: PlaitTrainingArguments, model: PlaitPreTrainedModel, shipped: Collection[str]) -> None:
    """Takes the learning rates, the freezing and the caches that a shipped recipe names for parts that the model lacks
    out of the arguments. (The user's own are an error of the trainer.)"""
    parts = group_parameters_by_part(model)
    rates = args.learning_rates if isinstance(args.learning_rates, dict) else {}
    kept = {
        part: rate for part, rate in rates.items() if part in parts or f"training.learning_rates.{part}" not in shipped
    }
    args.learning_rates = kept or None
    for name in ("frozen", "cache_features"):
        if f"training.{name}" in shipped:
            setattr(args, name, [part for part in getattr(args, name) if part in parts])


def select_frozen(recipe: Recipe, model: PlaitPreTrainedModel) -> list[str]:
    """Returns the parts that the recipe freezes; of a shipped recipe's those that the model has."""
    if "model.freeze" not in recipe.shipped:
        return recipe.model.freeze
    parts = group_parameters_by_part(model)
    return [part for part in recipe.model.freeze if part in parts]
