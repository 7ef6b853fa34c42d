"""Lists the newly initialized modules of a model, which are trained and saved whole beside adapters."""

from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.trainer_utils import unwrap_peft_model

from ..composition.composable import ComposableModel
from ..composition.parameter_names import part_of


def unwrap_plait(model: nn.Module) -> Any:
    """Returns the PlaitModel inside a task model or PEFT model, or the model itself if it is one."""
    return unwrap_peft_model(model).base_model


def fresh_modules(model: ComposableModel) -> list[str]:
    """Returns the names of newly initialized modules (outside pretrained weights), for PEFT's `modules_to_save`.

    With an adapter alone, connectors, fusion, head, new towers and the new layers of a pretrained tower or decoder (its
    cross-attention, for example) would stay random and not be saved. Call this on the composed model, before PEFT wraps
    it. An output layer that is tied to pretrained embeddings is left out.
    """
    plait = unwrap_plait(model)
    base = find_base_path(model)
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


def select_whole_modules(model: ComposableModel) -> list[str]:
    """Returns the names of the modules that are trained whole beside adapters: all that is new, and the connectors and
    the fusion, which earlier training may have made."""
    plait = unwrap_plait(model)
    base = find_base_path(model)
    found = [f"{base}connectors.{name}" for name in dict(plait.connectors.named_children())]
    found += [] if plait.fusion is None else [f"{base}fusion"]
    found = [name for name in found if any(True for _ in model.get_submodule(name).parameters())]
    fresh = [name for name in fresh_modules(model) if not f"{name}.".startswith(tuple(f"{path}." for path in found))]
    return found + fresh


def find_base_path(model: ComposableModel) -> str:
    """Returns what the names of the base model's modules begin with in this model."""
    return f"{model.base_model_prefix}." if unwrap_plait(model) is not model else ""


def _find_fresh_weights(model: ComposableModel) -> set[int]:
    """Returns the ids of the newly initialized parameters: those of connectors, fusion and heads, of new towers, and
    those that a tower's checkpoint does not hold."""
    fresh = {row.part for row in model.composition().rows if row.origin == "fresh"} | {"fusion", "head"}
    named = model.named_parameters()
    return {id(parameter) for name, parameter in named if part_of(name) in fresh or name in model.fresh_names}


def _find_whole_modules(path: str, module: nn.Module, fresh: set[int]) -> list[str]:
    """Returns the paths of the largest modules, from this one down, of which every parameter is fresh. (Lists and
    dictionaries of modules are never called, and the models of several tasks share a body: PEFT cannot wrap them.)"""
    own = [id(parameter) in fresh for parameter in module.parameters()]
    if not any(own):
        return []
    if all(own) and not isinstance(module, nn.ModuleDict | nn.ModuleList | PreTrainedModel):
        return [path]
    children = module.named_children()
    return [found for name, child in children for found in _find_whole_modules(f"{path}.{name}", child, fresh)]
