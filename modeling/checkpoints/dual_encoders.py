"""Checkpoints of two towers in one space: CLIP, SigLIP (also SigLIP 2 at fixed resolution), VisionTextDualEncoder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import save_torch_state_dict
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.utils import CONFIG_NAME

from ...configuration import PlaitRetrievalConfig
from .component import Component
from .conversion.convert import CheckpointFormat, invert
from .lookup import DUAL_ENCODER_TOWERS, DUAL_ENCODERS, find_known_family, find_tower_config
from .reading import read_component
from .source import OpenedCheckpoint, build_hub_config
from .writing import check_config, collect_changed_fields

# the parameters that join the towers: their names on disk, and in PlaitForRetrieval
JOINT_SPACE_TABLE = {
    "text_projection.weight": "projections.text.weight",
    "visual_projection.weight": "projections.image.weight",
    "logit_scale": "similarity.logit_scale",
    "logit_bias": "similarity.logit_bias",
}
SIGLIP = "siglip"


class DualEncoder(NamedTuple):
    """Both towers of a checkpoint and their joint space.

    components: the towers by modality; the last holds, as its heads, the parameters that join them, by their names in
    PlaitForRetrieval. settings: the config of the joint space.
    """

    components: dict[str, Component]
    settings: PlaitRetrievalConfig


def is_dual_encoder(source: OpenedCheckpoint) -> bool:
    """Returns whether a checkpoint holds two towers and the parameters that join them."""
    return source.config.model_type in DUAL_ENCODERS and "logit_scale" in source.tensors


def read_dual_encoder(source: OpenedCheckpoint) -> DualEncoder:
    """Reads both towers of an opened checkpoint.

    Raises ValueError for an unknown family, setting or name, or a missing tensor.
    """
    components = {modality: read_component(source, modality) for modality in DUAL_ENCODER_TOWERS}
    settings = build_retrieval_config(source.config, source.config_dict)
    missing = [name for name in select_joint_space_table(settings) if name not in source.tensors]
    if missing:
        raise ValueError(f"{source.path}: the file lacks {', '.join(missing)}: download or save it again")
    # on disk a scale or bias is a scalar or has shape (1,)
    heads = {ours: source.tensors[theirs].squeeze() for theirs, ours in select_joint_space_table(settings).items()}
    last = list(components)[-1]
    components[last] = components[last]._replace(heads=heads)
    return DualEncoder(components, settings)


def build_retrieval_config(config: PreTrainedConfig, config_dict: Mapping[str, Any]) -> PlaitRetrievalConfig:
    """Builds the retrieval config of a checkpoint. SigLIP has no projection, an initial scale of 10 and bias of -10."""
    origin: dict[str, Any] = {"family": config.model_type, "source_config": dict(config_dict)}
    if config.model_type == SIGLIP:
        start = {"logit_scale_init_value": 2.302585092994046, "logit_bias_init_value": -10.0}
        return PlaitRetrievalConfig(projection_dim=None, loss="sigmoid", **start, **origin)
    scale = float(config.logit_scale_init_value)
    return PlaitRetrievalConfig(projection_dim=config.projection_dim, logit_scale_init_value=scale, **origin)


def select_joint_space_table(settings: PlaitRetrievalConfig) -> dict[str, str]:
    """Returns the names on disk, and ours, of the parameters that join the towers of this family."""
    left_out = ("text_projection.weight", "visual_projection.weight") if settings.family == SIGLIP else ("logit_bias",)
    return {theirs: ours for theirs, ours in JOINT_SPACE_TABLE.items() if theirs not in left_out}


def export_dual_encoder(model: Any, folder: str | Path) -> None:
    """Saves both towers and their joint space as transformers reads them: the exact inverse of `read_dual_encoder`.

    Raises:
        ValueError: towers that did not come from one checkpoint, or whose config the format cannot express.
    """
    settings, parts = model.config.retrieval_config, model.parts
    if settings is None or settings.family is None or set(parts) != set(DUAL_ENCODER_TOWERS):
        raise ValueError("these towers did not come from one checkpoint: export each alone, with modality=...")
    named = model.state_dict()
    tensors = {theirs: named[ours] for theirs, ours in select_joint_space_table(settings).items()}
    shape = (1,) if settings.family == SIGLIP else ()
    tensors |= {name: tensors[name].view(shape) for name in ("logit_scale", "logit_bias") if name in tensors}
    content = dict(settings.source_config)
    for modality, (field, prefix) in DUAL_ENCODER_TOWERS.items():
        component = Component(parts[modality].config, parts[modality].state_dict(), {})
        inner, its_config = convert_component(component, modality, content)
        tensors |= {prefix + name: tensor for name, tensor in inner.items()}
        content[field] = {**content.get(field, {}), **its_config}
    content |= {"dtype": str(next(iter(tensors.values())).dtype).removeprefix("torch.")}
    Path(folder).mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=2, sort_keys=True)
    Path(folder, CONFIG_NAME).write_text(text + "\n", encoding="utf-8")
    kept = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_torch_state_dict(kept, folder, filename_pattern="model{suffix}.safetensors", max_shard_size="50GB")


def convert_component(
    component: Component, modality: str, content: dict[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns one tower's tensors under its family's names, and the fields of its config that may have changed since it
    was read."""
    config = find_tower_config(build_hub_config(content), modality)
    family = find_known_family(config)
    layout = CheckpointFormat(family, component.config)
    tensors = invert(component.weights, layout)
    names = family.collect_names(tensors)
    changes = collect_changed_fields(
        family, component.config, {**config.to_dict(), "model_type": config.model_type}, names
    )
    for name, value in changes.items():
        setattr(config, name, value)
    check_config(layout, component.config, family.config_class(**family.config(config, names)))
    return tensors, changes
