"""The parts of a model (towers, fusion, decoder and head): groups their parameters, and freezes them."""

from collections.abc import Iterable

from torch import nn

from ...configuration import DOCUMENT
from ...configuration.messages import suggest_nearest
from ...configuration.modalities import MODALITIES
from ..composition.parameter_names import part_of

PARTS = (*MODALITIES, DOCUMENT, "fusion", "decoder", "denoiser", "autoencoder", "head")


def check_parts(names: Iterable[str]) -> None:
    """Raises ValueError, with the nearest and the valid names, if a name is no part."""
    unknown = sorted(set(names) - set(PARTS))
    if unknown:
        near = suggest_nearest(unknown[0], PARTS)
        raise ValueError(f"unknown part {', '.join(map(repr, unknown))}: the parts are {', '.join(PARTS)}{near}")


def group_parameters_by_part(model: nn.Module) -> dict[str, dict[str, nn.Parameter]]:
    """Returns `{part: {name: parameter}}` in the order of PARTS, without the parts that the model does not have."""
    found: dict[str, dict[str, nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        found.setdefault(part_of(name), {})[name] = parameter
    return {part: found[part] for part in PARTS if part in found}


def select_parts(model: nn.Module, names: Iterable[str]) -> dict[str, dict[str, nn.Parameter]]:
    """Returns the parameters of these parts, as `group_parameters_by_part` does.

    Raises:
        ValueError: an unknown part, or one that this model does not have.
    """
    names = set(names)
    check_parts(names)
    present = group_parameters_by_part(model)
    absent = sorted(names - present.keys())
    if absent:
        raise ValueError(f"the model has no part {', '.join(map(repr, absent))}: it has {', '.join(present)}")
    return {part: parameters for part, parameters in present.items() if part in names}


def freeze(model: nn.Module, parts: Iterable[str]) -> int:
    """Freezes whole parts; returns the number of frozen parameters (single numbers, not tensors).

    Raises:
        ValueError: an unknown part, or one that this model does not have.
    """
    selected = select_parts(model, parts).values()
    frozen = [parameter for parameters in selected for parameter in parameters.values()]
    for parameter in frozen:
        parameter.requires_grad_(False)
    return sum(parameter.numel() for parameter in frozen)
