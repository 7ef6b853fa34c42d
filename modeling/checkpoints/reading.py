"""Checkpoints read: the components of a file, with the heads that came with them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..towers.registry import TOWERS
from ..towers.text import EMBEDDING
from .conversion.convert import Format, convert
from .conversion.family import HEAD_MODULES, heads_of, listed, module_of
from .lookup import PLACES, TWO_TOWERS, configs_of, known_family_of
from .source import Source

# what joins the two: no part of a tower
JOINTS = ("logit_scale", "logit_bias", "text_projection.weight", "visual_projection.weight")
OUTPUT = "lm_head.weight"


class Tower(NamedTuple):
    """A strand. config: ours; weights: by their names inside the tower; heads: those of the checkpoint's own heads that
    have a place here, by their names in the task class (beside an encoder there are none)."""

    config: Any
    weights: dict[str, Tensor]
    heads: dict[str, Tensor]


def read_strands(source: Source, modality: str | None = None) -> dict[str, Tower]:
    """All strands of an opened checkpoint (of two towers, that of one modality) by modality, or as "decoder"; tensors
    stay memory-mapped where they can.

    Raises:
        ValueError: an unknown family, setting or name; a tensor that is missing or of another size.
    """
    tensors: Mapping[str, Tensor] = source.tensors
    if source.config.model_type in TWO_TOWERS:
        modality = "text" if modality == "decoder" else modality or only_tower(tensors)
        tensors = tensors_of_tower(tensors, modality)
    try:
        family = known_family_of(source.config, modality)
        configs = configs_of(source.config, modality, family.names(tensors))
        layout = Format(family, next(iter(configs.values())), family.task_of(source.config.architectures or ()))
        ours = convert(tensors, layout)
        heads = {name: tensor for name, tensor in ours.items() if module_of(name) in HEAD_MODULES}
        strands = {name: Tower(config, inside(ours, name, config, layout), {}) for name, config in configs.items()}
    except ValueError as error:
        raise ValueError(f"{source.path}: {error}") from error
    name, last = list(strands.items())[-1]
    if "lm_head" in heads_of(layout.head) and last.config.tie_word_embeddings:
        heads.setdefault(OUTPUT, last.weights[EMBEDDING])
    strands[name] = last._replace(heads=heads)
    if source.config.model_type not in TWO_TOWERS:
        for strand in strands.values():
            strand.config.source_config = source.config_dict
    return strands


def read_tower(source: Source, modality: str | None = None) -> Tower:
    """One strand of an opened checkpoint: of that modality (or "decoder"); the first where none is named."""
    strands = read_strands(source, modality)
    return strands.get(modality or "", next(iter(strands.values())))


def only_tower(tensors: Mapping[str, Tensor]) -> str | None:
    """The modality of the tower in a file that could hold two, None where it holds both."""
    held = [modality for modality, (_, prefix) in PLACES.items() if any(name.startswith(prefix) for name in tensors)]
    return held[0] if len(held) == 1 else None


def tensors_of_tower(tensors: Mapping[str, Tensor], modality: str | None) -> dict[str, Tensor]:
    """The tensors of one of two towers, without its prefix, and of a head over it."""
    if modality not in PLACES:
        return dict(tensors)
    prefix = PLACES[modality][1]
    others = tuple(other for _, other in PLACES.values() if other != prefix) + JOINTS
    return {name.removeprefix(prefix): tensors[name] for name in tensors if not name.startswith(others)}


def inside(ours: Mapping[str, Tensor], strand: str, config: Any, layout: Format) -> dict[str, Tensor]:
    """The weights of one strand by their names inside it, those that the format leaves out as zeros filled in.

    Raises ValueError, with their names, where weights are missing or have another shape.
    """
    with torch.device("meta"):
        tower = TOWERS[type(config)](config)
    prefix = layout.family.prefix(strand)
    expected = {prefix + name: tuple(tensor.shape) for name, tensor in tower.state_dict().items()}
    given = {name: ours[name] for name in ours if name.startswith(prefix) and module_of(name) not in HEAD_MODULES}
    theirs = {name: move.theirs for move in layout.write({**expected, **given}) for name in move.ours}
    dtype = next((tensor.dtype for tensor in given.values()), None)
    zeros = [name for name in expected if name not in given and layout.family.is_zero(name)]
    given |= {name: torch.zeros(expected[name], dtype=dtype) for name in zeros}
    if missing := [theirs.get(name, name) for name in expected if name not in given]:
        raise ValueError(f"the file lacks {listed(missing)}")
    if surplus := [theirs.get(name, name) for name in given if name not in expected]:
        raise ValueError(f"a tower of this config has no place for {listed(surplus)}")
    for name, shape in expected.items():
        if given[name].shape != shape:
            found = tuple(given[name].shape)
            raise ValueError(f"{theirs[name]} (here {name}) has shape {found}, but by the config it is {shape}")
    return {name.removeprefix(prefix): tensor for name, tensor in given.items()}
