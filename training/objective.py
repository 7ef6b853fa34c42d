"""The loss of models that choose a class, where the training arguments change it: smoothed labels, weighted classes."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.trainer_utils import unwrap_peft_model

from ..modeling.classification import PlaitForClassification
from ..modeling.losses import classification_loss, masked_lm_loss, problem_type_of
from ..modeling.masked_lm import PlaitForMaskedLM
from .arguments import PlaitTrainingArguments
from .labels import labels_of
from .metrics import MULTI, REGRESSION

Loss = Callable[..., Tensor]


def objective(model: nn.Module, args: PlaitTrainingArguments, data: Any) -> Loss | None:
    """The model's own loss as these arguments want it, a Trainer's `compute_loss_func`; None where it stays as it is.

    data: the training rows, whose labels make "balanced" weights.

    Raises:
        ValueError: a model or a problem that does not choose one of several classes; weights that do not fit.
    """
    inner: Any = unwrap_peft_model(model)
    epsilon = 0.0 if getattr(inner, "smooths_labels", False) else args.label_smoothing_factor
    if args.class_weights is not None:
        check_one_class(inner, "class_weights", args.class_weights, PlaitForClassification)
        return weighted(inner, epsilon, class_weights(inner, args.class_weights, data))
    if not epsilon:
        return None
    check_one_class(inner, "label_smoothing_factor", epsilon, PlaitForClassification, PlaitForMaskedLM)
    if isinstance(inner, PlaitForMaskedLM):
        return lambda outputs, labels, num_items_in_batch=None: masked_lm_loss(
            outputs["logits"], labels, num_items_in_batch, epsilon
        )
    return weighted(inner, epsilon, None)


def check_one_class(model: Any, name: str, value: Any, *kinds: type) -> None:
    """Raises ValueError for an argument of a loss that this model does not have."""
    if not isinstance(model, kinds) or model.config.problem_type in (REGRESSION, MULTI):
        raise ValueError(f"{name} is {value}, but {type(model).__name__} does not choose one class")


def weighted(model: PlaitForClassification, epsilon: float, weights: Tensor | None) -> Loss:
    """A classification's loss with labels smoothed by epsilon and rows weighted by class."""

    def loss(outputs: dict[str, Tensor], labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        problem_type = problem_type_of(model.config, labels)
        return classification_loss(outputs["logits"], labels, problem_type, num_items_in_batch, epsilon, weights)

    return loss


def class_weights(model: PlaitForClassification, given: Mapping[str, float] | str, data: Any) -> Tensor:
    """(classes,) the weights by class.

    Raises:
        ValueError: a name that is no class of the model, or no labels to balance.
    """
    names = labels_of(model.config).names
    if isinstance(given, Mapping):
        unknown = sorted(set(given) - set(names))
        if unknown:
            raise ValueError(f"class_weights: there is no class {unknown[0]!r}, only {', '.join(names)}")
        return torch.tensor([float(given.get(name, 1.0)) for name in names])
    if data is None or "label" not in data.column_names:
        raise ValueError("class_weights 'balanced' are counted in train_dataset, which has no column 'label'")
    counts = Counter(data["label"])
    return torch.tensor([len(data) / (len(names) * max(1, counts[number])) for number in range(len(names))])
