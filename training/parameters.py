"""Builds optimizer groups by part of a model (towers, fusion, decoder, head), and lists modules for PEFT to train."""

from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers.trainer_utils import unwrap_peft_model

from ..modeling.backbone.model import PlaitModel
from ..modeling.backbone.parts import freeze, group_parameters_by_part, select_parts
from ..modeling.backbone.pretrained import PlaitPreTrainedModel
from ..modeling.composition.parameter_names import part_of


def check_rate(part: str, rate: float, trainable: bool) -> None:
    """Raises ValueError for a learning rate below 0, or above 0 for a frozen part."""
    if rate < 0:
        raise ValueError(f"the learning rate of {part!r} is {rate}: pass 0 or more")
    if rate and not trainable:
        raise ValueError(
            f"{part!r} has a learning rate of {rate} but is frozen: unfreeze it, or leave its learning rate out"
        )


def parameter_groups(
    model: nn.Module,
    learning_rates: Mapping[str, float] | None = None,
    weight_decay: float = 0.0,
    learning_rate: float | None = None,
) -> list[dict[str, Any]]:
    """Builds groups for a torch optimizer: one or two per part, with its learning rate; norms and biases do not decay.

    Each group has the key `part`. A part that is not in `learning_rates` gets `learning_rate`, or (None) the
    optimizer's default. A rate of 0 freezes the part. With a plain Trainer:
    `Trainer(..., optimizer_cls_and_kwargs=(AdamW, {"params": parameter_groups(model, {"text": 1e-5}), "lr": 1e-4}))`.

    Raises:
        ValueError: an unknown part, a negative rate, a part that the model does not have, a rate above 0 for a frozen
            part, or nothing left to train.
    """
    rates = dict(learning_rates or {})
    for part, parameters in select_parts(model, rates).items():
        check_rate(part, rates[part], any(parameter.requires_grad for parameter in parameters.values()))
    freeze(model, [part for part, rate in rates.items() if rate == 0])
    groups = []
    for part, parameters in group_parameters_by_part(model).items():
        trainable = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
        groups += _build_groups(part, trainable, rates.get(part, learning_rate), weight_decay)
    if not groups:
        raise ValueError("nothing to train: every parameter is frozen or has a learning rate of 0; unfreeze a part")
    return groups


def unwrap_plait(model: nn.Module) -> PlaitModel:
    """Returns the PlaitModel inside a task model or PEFT model, or the model itself if it is one."""
    return unwrap_peft_model(model).base_model


def fresh_modules(model: PlaitPreTrainedModel) -> list[str]:
    """Returns the names of newly initialized modules (outside pretrained weights), for PEFT's `modules_to_save`.

    With an adapter alone, connectors, fusion, head, new towers and the new layers of a pretrained tower or decoder (its
    cross-attention, for example) would stay random and not be saved. Call this on the composed model, before PEFT wraps
    it. An output layer that is tied to pretrained embeddings is left out.
    """
    plait = unwrap_plait(model)
    base = f"{model.base_model_prefix}." if plait is not model else ""
    roots: dict[str, nn.Module | None] = {f"{base}connectors": plait.connectors, f"{base}fusion": plait.fusion}
    for part, tower in model.parts.items():
        path = "decoder" if part == "decoder" else f"towers.{part}"
        roots |= {f"{base}{path}.{name}": child for name, child in tower.named_children()}
    roots |= {name: child for name, child in model.named_children() if plait not in (model, child)}
    fresh = _find_fresh_weights(model)
    return [
        name
        for path, module in roots.items()
        if module is not None
        for name in _find_whole_modules(path, module, fresh)
    ]


def _find_fresh_weights(model: PlaitPreTrainedModel) -> set[int]:
    """Returns the ids of the newly initialized parameters: those of connectors, fusion and heads, of new towers, and
    those that a tower's checkpoint does not hold."""
    fresh = {row.part for row in model.composition().rows if row.origin == "fresh"} | {"fusion", "head"}
    named = model.named_parameters()
    return {id(parameter) for name, parameter in named if part_of(name) in fresh or name in model.fresh_names}


def _find_whole_modules(path: str, module: nn.Module, fresh: set[int]) -> list[str]:
    """Returns the paths of the largest modules, from this one down, of which every parameter is fresh. (Lists and
    dictionaries of modules are never called: PEFT cannot wrap them.)"""
    own = [id(parameter) in fresh for parameter in module.parameters()]
    if not any(own):
        return []
    if all(own) and not isinstance(module, nn.ModuleDict | nn.ModuleList):
        return [path]
    children = module.named_children()
    return [found for name, child in children for found in _find_whole_modules(f"{path}.{name}", child, fresh)]


def _build_groups(
    part: str, parameters: Mapping[str, nn.Parameter], rate: float | None, weight_decay: float
) -> list[dict[str, Any]]:
    decaying = [parameter for name, parameter in parameters.items() if _has_decay(name, parameter)]
    others = [parameter for name, parameter in parameters.items() if not _has_decay(name, parameter)]
    lr = {} if rate is None else {"lr": float(rate)}
    pairs = ((decaying, weight_decay), (others, 0.0))
    return [{"params": params, "part": part, "weight_decay": decay, **lr} for params, decay in pairs if params]


def _has_decay(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim >= 2 and "bias" not in name.rpartition(".")[2]
