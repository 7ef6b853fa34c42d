"""Builds optimizer groups by part of a model (towers, fusion, decoder, head)."""

from collections.abc import Mapping
from typing import Any, cast

from torch import nn

from ..configuration import DOCUMENT
from ..configuration.modalities import MODALITIES
from ..modeling.backbone.parts import freeze, group_parameters_by_part, select_parts

LAYERED_PARTS = (*MODALITIES, DOCUMENT, "decoder")  # those with layers, in which `layer_decay` tells depths


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
    layer_decay: float | None = None,
) -> list[dict[str, Any]]:
    """Builds groups for a torch optimizer: one or two per part, with its learning rate; norms and biases do not decay.

    With `layer_decay` the rate of a tower's or decoder's layer is that of its part, times `layer_decay` to the number
    of layers above it, and once more (Clark et al. 2020, https://arxiv.org/abs/2003.10555, appendix B): the embeddings
    of n layers get layer_decay^(n + 1), what stands above the last layer the whole rate.

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
        rate = rates.get(part, learning_rate)
        if layer_decay is None or part not in LAYERED_PARTS:
            groups += _build_groups(part, trainable, rate, weight_decay)
            continue
        if rate is None:
            raise ValueError(f"layer_decay is {layer_decay}, but {part!r} has no learning rate: pass learning_rate")
        scales = find_layer_scales(model, parameters, layer_decay)
        for scale in sorted({scales[name] for name in trainable}):
            own = {name: parameter for name, parameter in trainable.items() if scales[name] == scale}
            groups += _build_groups(part, own, rate * scale, weight_decay)
    if not groups:
        raise ValueError("nothing to train: every parameter is frozen or has a learning rate of 0; unfreeze a part")
    return groups


def find_layer_scales(model: nn.Module, parameters: Mapping[str, nn.Parameter], decay: float) -> dict[str, float]:
    """Returns the factor of each parameter's learning rate in a part, by its depth among the part's layers: the list of
    modules that holds most of the part's numbers. parameters: all of the part, by their names in the model."""
    places = {name: find_layer_place(model, name) for name in parameters}
    sizes: dict[str, int] = {}
    for name, place in places.items():
        if place is not None:
            sizes[place[0]] = sizes.get(place[0], 0) + parameters[name].numel()
    if not sizes:
        return dict.fromkeys(parameters, 1.0)
    layers = max(sizes, key=lambda path: sizes[path])
    count: int = len(cast("Any", model.get_submodule(layers)))
    depths, below = {}, True
    for name, place in places.items():
        inside = place is not None and place[0] == layers
        below = below and not inside
        depths[name] = place[1] + 1 if place is not None and inside else 0 if below else count + 1
    return {name: decay ** (count + 1 - depth) for name, depth in depths.items()}


def find_layer_place(model: nn.Module, name: str) -> tuple[str, int] | None:
    """Returns the path of the outermost list of modules that holds a parameter, and the index in it; None without."""
    segments = name.split(".")
    for number, segment in enumerate(segments):
        path = ".".join(segments[:number])
        if segment.isdigit() and isinstance(model.get_submodule(path), nn.ModuleList):
            return path, int(segment)
    return None


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
