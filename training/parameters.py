"""Builds optimizer groups by part of a model (towers, fusion, decoder, head)."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..modeling.backbone.parts import freeze, group_parameters_by_part, select_parts


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
