"""The classification and masked language modeling losses as the training arguments change them: smoothed labels,
weighted classes, single modalities."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.trainer_utils import unwrap_peft_model

from ...modeling.losses.cross_entropy import classification_loss, count_labels, find_problem_type, masked_lm_loss
from ...modeling.losses.labels import IGNORE_INDEX
from ...modeling.tasks.classification import PlaitForClassification
from ...modeling.tasks.masked_lm import PlaitForMaskedLM
from ..data.label_columns import collect_labels
from ..data.labels import MULTI, REGRESSION, read_config_labels
from .arguments import PlaitTrainingArguments

LossFunction = Callable[..., Tensor]


def build_loss(
    model: nn.Module, args: PlaitTrainingArguments, data: Any, given: LossFunction | None = None
) -> LossFunction | None:
    """Builds the loss that the arguments ask for, as a Trainer's `compute_loss_func`; None if the model's own loss
    needs no change.

    data: the training rows, whose labels determine "balanced" weights; given: a user's loss, which replaces the
    model's.

    Raises:
        ValueError: a model or problem type that does not choose one of several classes; class weights that do not fit
            the model; a given loss together with single_modality_weight.
    """
    if given is not None:
        if args.single_modality_weight:
            raise ValueError(
                f"single_modality_weight is {args.single_modality_weight}, a term of the model's loss, but "
                "compute_loss_func is another loss: use one of the two"
            )
        return given
    inner: Any = unwrap_peft_model(model)
    epsilon = 0.0 if getattr(inner, "smooths_labels", False) else args.label_smoothing_factor
    if args.single_modality_weight:
        check_several_modalities(inner, args.single_modality_weight)
    weights = None
    if args.class_weights is not None:
        check_one_class(inner, "class_weights", args.class_weights, PlaitForClassification)
        weights = compute_class_weights(inner, args.class_weights, data)
    if weights is None and not epsilon and not args.single_modality_weight:
        return None
    if epsilon:
        check_one_class(inner, "label_smoothing_factor", epsilon, PlaitForClassification, PlaitForMaskedLM)
    if isinstance(inner, PlaitForMaskedLM):
        return lambda outputs, labels, num_items_in_batch=None: masked_lm_loss(
            outputs["logits"], labels, num_items_in_batch, epsilon
        )
    return build_weighted_loss(inner, epsilon, weights, args.single_modality_weight)


def check_one_class(model: Any, name: str, value: Any, *kinds: type) -> None:
    """Raises ValueError if a model is none of `kinds`, or its problem type does not choose one of several classes.

    name, value: the training argument that needs such a model.
    """
    if not isinstance(model, kinds) or model.config.problem_type in (REGRESSION, MULTI):
        raise ValueError(
            f"{name} is {value}, but {type(model).__name__} does not choose one class (or not in this problem_type): "
            "leave this argument out"
        )


def check_several_modalities(model: Any, weight: float) -> None:
    """Raises ValueError for a model that is not a classifier of several modalities."""
    if not isinstance(model, PlaitForClassification) or len(model.config.encoders) < 2:
        kind = f"{type(model).__name__} of {', '.join(model.config.encoders) or 'none'}"
        raise ValueError(
            f"single_modality_weight is {weight}, but this {kind} is not a classifier of several modalities: set the "
            "weight to 0"
        )


def build_weighted_loss(
    model: PlaitForClassification, epsilon: float, weights: Tensor | None, single: float = 0.0
) -> LossFunction:
    """Builds a classification loss with labels smoothed by epsilon and rows weighted by class. If the outputs also hold
    the logits of each of the model's M modalities alone, it is

        loss = L + single / M * sum over modalities m of L_m

    with L_m over the rows that have m, divided by the same number of labels as L. Losses are blended as in Wang et al.
    2020, https://arxiv.org/abs/1905.12681, section 3, but there each modality has its own head; here the logits of one
    modality come from the fusion with the others absent.
    """

    def loss(outputs: dict[str, Any], labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        problem_type = find_problem_type(model.config, labels)

        def of(logits: Tensor, labels: Tensor, count: Tensor | int | None) -> Tensor:
            std = model.config.target_std
            return classification_loss(logits, labels, problem_type, count, epsilon, weights, std)

        whole, alone = of(outputs["logits"], labels, num_items_in_batch), outputs.get("alone")
        if not alone:
            return whole
        count = count_labels(labels, problem_type) if num_items_in_batch is None else num_items_in_batch
        parts = [of(logits, labels[rows], count) for rows, logits in alone.values()]
        return whole + single / len(model.config.encoders) * torch.stack(parts).sum()

    return loss


def compute_class_weights(model: PlaitForClassification, given: Mapping[str, float] | str, data: Any) -> Tensor:
    """Computes the weight of each class, (classes,).

    given: weights by class name (others: 1), or "balanced": rows / (classes * rows of the class).

    Raises:
        ValueError: a name that is no class of the model, or "balanced" without a label column in `data`.
    """
    names = read_config_labels(model.config).names
    if isinstance(given, Mapping):
        unknown = sorted(set(given) - set(names))
        if unknown:
            raise ValueError(f"class_weights: there is no class {unknown[0]!r}, only {', '.join(names)}")
        return torch.tensor([float(given.get(name, 1.0)) for name in names])
    labels = collect_labels(data)
    if labels is None:
        raise ValueError(
            "class_weights is 'balanced', but train_dataset has no labels to count before training (a column 'label' "
            "or 'labels', and no stream): give the weights by class, or a train_dataset with labels"
        )
    counts = Counter(int(label) for label in labels if label is not None and int(label) != IGNORE_INDEX)
    if not counts or min(counts) < 0 or max(counts) >= len(names):
        raise ValueError(
            f"class_weights is 'balanced', but the labels of train_dataset are {sorted(counts)}, and the model has the "
            f"classes 0 .. {len(names) - 1}: encode the labels as class numbers, or give the weights by class"
        )
    rows = sum(counts.values())
    return torch.tensor([rows / (len(names) * max(1, counts[number])) for number in range(len(names))])
