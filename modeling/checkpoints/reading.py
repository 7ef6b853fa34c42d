"""Reads checkpoints as components with their heads."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..towers.registry import TOWERS
from ..towers.text import TOKEN_EMBEDDING_WEIGHT
from .component import Component
from .conversion.convert import CheckpointFormat, convert
from .conversion.family import HEAD_MODULES, find_head_modules, find_top_module, format_names
from .lookup import DUAL_ENCODER_TOWERS, DUAL_ENCODERS, build_component_configs, find_known_family
from .source import OpenedCheckpoint

# the parameters that join two towers and belong to neither
JOINT_SPACE_NAMES = ("logit_scale", "logit_bias", "text_projection.weight", "visual_projection.weight")
LM_HEAD_WEIGHT = "lm_head.weight"


def read_components(source: OpenedCheckpoint, modality: str | None = None) -> dict[str, Component]:
    """Reads all components of an opened checkpoint, by modality or as "decoder"; of two towers only that of `modality`.

    Tensors that need no conversion stay memory-mapped.

    Raises:
        ValueError: an unknown family, setting or name; a tensor that is missing or has another shape.
    """
    tensors: Mapping[str, Tensor] = source.tensors
    if source.config.model_type in DUAL_ENCODERS:
        modality = "text" if modality == "decoder" else modality or find_only_tower(tensors)
        tensors = select_tower_tensors(tensors, modality)
    try:
        family = find_known_family(source.config, modality)
        configs = build_component_configs(source.config, modality, family.collect_names(tensors))
        layout = CheckpointFormat(
            family, next(iter(configs.values())), family.find_task_by_class(source.config.architectures or ())
        )
        ours = convert(tensors, layout)
        heads = {name: tensor for name, tensor in ours.items() if find_top_module(name) in HEAD_MODULES}
        weights = {name: select_component_weights(ours, name, config, layout) for name, config in configs.items()}
    except ValueError as error:
        raise ValueError(f"{source.path}: {error}") from error
    last = list(configs)[-1]
    if "lm_head" in find_head_modules(layout.head) and configs[last].tie_word_embeddings:
        heads.setdefault(LM_HEAD_WEIGHT, weights[last][TOKEN_EMBEDDING_WEIGHT])
    if source.config.model_type not in DUAL_ENCODERS:
        for config in configs.values():
            config.source_config = source.config_dict
    return {
        name: Component(config, weights[name], heads if name == last else {}, source.path, source.config)
        for name, config in configs.items()
    }


def read_component(source: OpenedCheckpoint, modality: str | None = None) -> Component:
    """Reads one component of an opened checkpoint: that of `modality` (or "decoder"), else the first."""
    components = read_components(source, modality)
    return components.get(modality or "", next(iter(components.values())))


def find_only_tower(tensors: Mapping[str, Tensor]) -> str | None:
    """Returns the modality of the only tower in the file of a two-tower type, None if it holds both or neither."""
    held = [
        modality
        for modality, (_, prefix) in DUAL_ENCODER_TOWERS.items()
        if any(name.startswith(prefix) for name in tensors)
    ]
    return held[0] if len(held) == 1 else None


def select_tower_tensors(tensors: Mapping[str, Tensor], modality: str | None) -> dict[str, Tensor]:
    """Returns the tensors of one of two towers, without its prefix, and those of a head on it."""
    if modality not in DUAL_ENCODER_TOWERS:
        return dict(tensors)
    prefix = DUAL_ENCODER_TOWERS[modality][1]
    others = tuple(other for _, other in DUAL_ENCODER_TOWERS.values() if other != prefix) + JOINT_SPACE_NAMES
    return {name.removeprefix(prefix): tensors[name] for name in tensors if not name.startswith(others)}


def select_component_weights(
    ours: Mapping[str, Tensor], component: str, config: Any, layout: CheckpointFormat
) -> dict[str, Tensor]:
    """Returns the weights of one component by their names inside it, and zeros for those that the format leaves out.

    Raises ValueError, with the names, if weights are missing, are not expected or have another shape.
    """
    with torch.device("meta"):
        tower = TOWERS[type(config)](config)
    prefix = layout.family.find_prefix(component)
    expected = {prefix + name: tuple(tensor.shape) for name, tensor in tower.state_dict().items()}
    given = {name: ours[name] for name in ours if name.startswith(prefix) and find_top_module(name) not in HEAD_MODULES}
    theirs = {name: move.theirs for move in layout.plan_writing({**expected, **given}) for name in move.ours}
    dtype = next((tensor.dtype for tensor in given.values()), None)
    zeros = [name for name in expected if name not in given and layout.family.is_zero(name)]
    given |= {name: torch.zeros(expected[name], dtype=dtype) for name in zeros}
    if missing := [theirs.get(name, name) for name in expected if name not in given]:
        raise ValueError(f"the file lacks {format_names(missing)}: is it complete, and does config.json match it?")
    if surplus := [theirs.get(name, name) for name in given if name not in expected]:
        raise ValueError(
            f"a tower of this config has no place for {format_names(surplus)}: does config.json match the file?"
        )
    for name, shape in expected.items():
        if given[name].shape != shape:
            found = tuple(given[name].shape)
            raise ValueError(f"{theirs[name]} (in plait {name}) has shape {found}, but config.json implies {shape}")
    return {name.removeprefix(prefix): tensor for name, tensor in given.items()}
