"""Checkpoints of two towers in one space: CLIP, SigLIP (SigLIP 2 of fixed resolution) and VisionTextDualEncoder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import save_torch_state_dict
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.utils import CONFIG_NAME

from ...configuration import PlaitRetrievalConfig
from .conversion.convert import Format, invert
from .lookup import PLACES, TWO_TOWERS, known_family_of, tower_config_of
from .reading import Tower, read_tower
from .source import Source, config_from
from .writing import changed_fields, check_config

# what joins the towers, and where it is in PlaitForRetrieval
JOINTS = {
    "text_projection.weight": "projections.text.weight",
    "visual_projection.weight": "projections.image.weight",
    "logit_scale": "similarity.logit_scale",
    "logit_bias": "similarity.logit_bias",
}
SIGLIP = "siglip"


class Pair(NamedTuple):
    """strands: the towers by modality; heads: what joins them, by its names in PlaitForRetrieval; settings: of their
    space."""

    strands: dict[str, Tower]
    heads: dict[str, Tensor]
    settings: PlaitRetrievalConfig


def is_pair(source: Source) -> bool:
    """Whether a checkpoint holds two towers and what joins them."""
    return source.config.model_type in TWO_TOWERS and "logit_scale" in source.tensors


def read_pair(source: Source) -> Pair:
    """Both towers of an opened checkpoint.

    Raises ValueError for a family, a setting or a name that plait does not know, or a tensor that is missing.
    """
    strands = {modality: read_tower(source, modality) for modality in PLACES}
    settings = settings_of(source.config, source.config_dict)
    missing = [name for name in joints_of(settings) if name not in source.tensors]
    if missing:
        raise ValueError(f"{source.path}: the file lacks {', '.join(missing)}")
    # theirs is a number, or a list of one
    heads = {ours: source.tensors[theirs].squeeze() for theirs, ours in joints_of(settings).items()}
    return Pair(strands, heads, settings)


def settings_of(config: PreTrainedConfig, config_dict: Mapping[str, Any]) -> PlaitRetrievalConfig:
    """The space of a checkpoint's towers. SigLIP's has no projection; its scale starts at 10 and its bias at -10."""
    said: dict[str, Any] = {"family": config.model_type, "source_config": dict(config_dict)}
    if config.model_type == SIGLIP:
        start = {"logit_scale_init_value": 2.302585092994046, "logit_bias_init_value": -10.0}
        return PlaitRetrievalConfig(projection_dim=None, loss="sigmoid", **start, **said)
    scale = float(config.logit_scale_init_value)
    return PlaitRetrievalConfig(projection_dim=config.projection_dim, logit_scale_init_value=scale, **said)


def joints_of(settings: PlaitRetrievalConfig) -> dict[str, str]:
    """Their names, and ours, of what joins the towers of this family."""
    left_out = ("text_projection.weight", "visual_projection.weight") if settings.family == SIGLIP else ("logit_bias",)
    return {theirs: ours for theirs, ours in JOINTS.items() if theirs not in left_out}


def export_pair(model: Any, folder: str | Path) -> None:
    """Save both towers and what joins them as transformers reads them: the inverse of `read_pair`, bit for bit.

    Raises:
        ValueError: towers that were not published together, or that no longer are what the format can say.
    """
    settings, parts = model.config.retrieval_config, model.parts
    if settings is None or settings.family is None or set(parts) != set(PLACES):
        raise ValueError("these towers were not published together: export them one by one, naming the modality")
    named = model.state_dict()
    tensors = {theirs: named[ours] for theirs, ours in joints_of(settings).items()}
    if settings.family == SIGLIP:
        tensors |= {name: tensors[name].view(1) for name in ("logit_scale", "logit_bias")}
    content = dict(settings.source_config)
    for modality, (field, prefix) in PLACES.items():
        tower = Tower(parts[modality].config, dict(parts[modality].state_dict()), {})
        inner, its_config = tower_tensors(tower, modality, content)
        tensors |= {prefix + name: tensor for name, tensor in inner.items()}
        content[field] = {**content.get(field, {}), **its_config}
    content |= {"dtype": str(next(iter(tensors.values())).dtype).removeprefix("torch.")}
    Path(folder).mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=2, sort_keys=True)
    Path(folder, CONFIG_NAME).write_text(text + "\n", encoding="utf-8")
    kept = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_torch_state_dict(kept, folder, filename_pattern="model{suffix}.safetensors", max_shard_size="50GB")


def tower_tensors(tower: Tower, modality: str, content: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """One tower under its family's names, and what of its config may have changed since it was read."""
    config = tower_config_of(config_from(content), modality)
    family = known_family_of(config)
    layout = Format(family, tower.config)
    tensors = invert(tower.weights, layout)
    names = family.names(tensors)
    changes = changed_fields(family, tower.config, {**config.to_dict(), "model_type": config.model_type}, names)
    for name, value in changes.items():
        setattr(config, name, value)
    check_config(layout, tower.config, family.config_class(**family.config(config, names)))
    return tensors, changes
