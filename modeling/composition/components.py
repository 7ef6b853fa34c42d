"""One tower before it is braided, and how a plait's own tower or decoder becomes one."""

import copy
import tempfile
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from ...configuration import (
    OWN_CONFIGS,
    PlaitConfig,
    PlaitDecoderConfig,
    PlaitRNNConfig,
    PlaitTextConfig,
    PlaitTowerConfig,
    PlaitVideoConfig,
    PlaitVisionConfig,
    PlaitWaveformConfig,
)
from ...configuration.hub import HUB_OPTIONS
from ..checkpoints.families.registry import FAMILIES
from ..checkpoints.lookup import build_component_config, find_family
from ..checkpoints.reading import read_component
from ..checkpoints.source import OpenedCheckpoint, open_checkpoint, read_config
from ..towers.wrapped import load_wrapped, without_pooler
from ..towers.wrapped_decoder import load_wrapped_decoder
from ..towers.wrapped_inputs import is_video_family
from .composable import ComposableModel
from .hub import read_generation_config, read_model_type

TowerArgument = Any  # a Hub id, a folder, a config (fresh weights) or a ready model


class Component(NamedTuple):
    """One tower before it is braided: its config, its weights by name inside the tower (None: fresh ones), the heads
    that came with them, and where all of it came from."""

    config: PreTrainedConfig
    weights: Mapping[str, Tensor] | None
    heads: Mapping[str, Tensor]
    origin: str
    source_config: PreTrainedConfig | None = None
    generation: GenerationConfig | None = None


def select_model_class(config: PlaitConfig, modality: str) -> Any:
    """The Auto class that reads a plait's folder for this part: a decoder's with its head."""
    if modality != "decoder" or config.decoder_config is None:
        return AutoModel
    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


def build_plait_component(modality: str, model: ComposableModel) -> Component:
    """A plait's tower; of its decoder with the head, the special tokens and the generation config."""
    config = find_component_config(modality, model.config)
    weights = next(part for part in model.parts.values() if part.config is config).state_dict()
    origin = model.name_or_path or "a ready model"
    if modality != "decoder":
        return Component(as_tower_config(config), weights, {}, origin)
    if not model.can_generate():
        return Component(config, weights, {}, origin, model.config)
    head: Any = model.get_output_embeddings()
    heads = {f"lm_head.{name}": weight for name, weight in head.state_dict().items()}
    return Component(config, weights, heads, origin, model.config, model.generation_config)


def find_component_config(modality: str, config: PlaitConfig) -> PreTrainedConfig:
    """The config of a plait's tower of this modality; its decoder and its text tower may stand for each other."""
    parts = config.encoders | ({} if config.decoder_config is None else {"decoder": config.decoder_config})
    other = {"text": "decoder", "decoder": "text"}.get(modality, modality)
    found = parts.get(modality) or parts.get(other)
    if found is None:
        raise ValueError(f"that plait has no {modality} tower, only {', '.join(config.encoders) or 'a decoder'}")
    return found


def as_tower_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """A decoder's config as that of a causal text tower, which reads no context; any other as it is."""
    if not isinstance(config, PlaitDecoderConfig):
        return config
    fields: dict[str, Any] = {**config.to_dict(), "cross_attention": False}
    return PlaitTextConfig(**{key: fields[key] for key in fields if key in PlaitTextConfig.__dataclass_fields__})


def build_component(modality: str, tower: TowerArgument, where: Mapping[str, Any]) -> Component:
    """Resolve one tower argument."""
    if isinstance(tower, Component):
        return tower
    if isinstance(tower, PreTrainedConfig):
        config = find_component_config(modality, tower) if isinstance(tower, PlaitConfig) else tower
        foreign = type(config) not in OWN_CONFIGS.values() and find_family(config, modality) is not None
        return Component(build_component_config(config, modality) if foreign else config, None, {}, "fresh")
    if isinstance(tower, ComposableModel):
        return build_plait_component(modality, tower)
    if isinstance(tower, PreTrainedModel):
        with tempfile.TemporaryDirectory() as folder:  # names on disk are the ones that the tables know
            tower.save_pretrained(folder)
            strand = read_folder_component(modality, folder, {})
            weights = {name: weight.clone() for name, weight in (strand.weights or {}).items()}
        return strand._replace(weights=weights, origin=tower.name_or_path or "a ready model")
    return read_folder_component(modality, tower, where)


def as_video_component(tower: TowerArgument, fields: dict[str, Any], where: Mapping[str, Any]) -> TowerArgument:
    """A video tower as it is; an image tower as what reads the frames of one.

    Raises ValueError for `fields` without an image tower.
    """
    if tower is None or reads_videos(tower, where):
        if fields:
            raise ValueError(f"video_config {fields} is for an image tower that reads frames: pass it as video=...")
        return tower
    strand = without_unused_modules(build_component("image", tower, where), "image")
    config = PlaitVideoConfig(image_config=strand.config, **fields)
    weights = {f"frames.{name}": weight for name, weight in (strand.weights or {}).items()}
    return strand._replace(config=config, weights=None if strand.weights is None else weights, heads={})


def reads_videos(tower: TowerArgument, where: Mapping[str, Any]) -> bool:
    """Whether a tower argument is a video tower, or a plait that has one."""
    hub = {key: where[key] for key in HUB_OPTIONS if key in where}
    if isinstance(tower, PreTrainedModel):
        config: PreTrainedConfig = tower.config
    elif isinstance(tower, PreTrainedConfig):
        config = tower
    elif read_model_type(tower, hub) == PlaitConfig.model_type:
        config = PlaitConfig.from_pretrained(tower, **hub)
    else:
        config, _ = read_config(str(tower), **hub)
    if isinstance(config, PlaitConfig):
        return config.video_config is not None
    family = FAMILIES.get(config.model_type)
    own = family.config_class if family else type(config)
    return own.base_config_key == "video_config" or is_video_family(config)


def read_folder_component(modality: str, name: Any, where: Mapping[str, Any]) -> Component:
    """A tower (or "decoder") from a folder or Hub id: a plait's, a known family's, or any other that transformers loads
    (wrapped)."""
    hub = {key: where[key] for key in HUB_OPTIONS if key in where}
    if read_model_type(name, hub) == PlaitConfig.model_type:
        reader = select_model_class(PlaitConfig.from_pretrained(name, **hub), modality)
        return build_plait_component(modality, reader.from_pretrained(name, **where))
    source = open_checkpoint(name, **where)
    if find_family(source.config, modality) is not None:
        tower = read_component(source, modality)
        generation = read_generation_config(source, hub) if modality in ("text", "decoder") else None
        return Component(tower.config, tower.weights, tower.heads, str(name), source.config, generation)
    if modality == "decoder":
        return read_wrapped_decoder(source, where)
    config, module = load_wrapped(name, modality, **where)
    weights = {f"model.{key}": weight for key, weight in module.state_dict().items()}
    return Component(config, weights, {}, str(name), config)


def read_wrapped_decoder(source: OpenedCheckpoint, where: Mapping[str, Any]) -> Component:
    """A causal language model of a family that plait does not know, with its head."""
    config, model, head = load_wrapped_decoder(source.path, **where)
    weights = {f"model.{key}": weight for key, weight in model.state_dict().items()}
    heads = {f"lm_head.{key}": weight for key, weight in head.state_dict().items()}
    hub = {key: where[key] for key in HUB_OPTIONS if key in where}
    return Component(config, weights, heads, source.path, config, read_generation_config(source, hub))


def without_unused_modules(component: Component, modality: str) -> Component:
    """The strand without what a fusion or a masked language model does not read, its pooler and its mask token: they
    would never be trained."""
    if type(component.config) not in OWN_CONFIGS.values():
        config, weights = without_pooler(component.config, component.weights, modality)
        return component._replace(config=config, weights=weights)
    if not isinstance(component.config, (PlaitTowerConfig, PlaitRNNConfig)):
        return component
    config = copy.deepcopy(component.config)
    config.pooling, config.pooler_size, config.pooler_act = "none", None, None
    if isinstance(config, PlaitTowerConfig):
        config.packing = True  # a pooler may have needed the padding computed
        config.pooler_norm = False
    if isinstance(config, (PlaitVisionConfig, PlaitWaveformConfig)):
        config.mask_token = False
    unused = ("pooler.", "embeddings.mask_token.")
    kept = {name: weight for name, weight in (component.weights or {}).items() if not name.startswith(unused)}
    return component._replace(config=config, weights=None if component.weights is None else kept)
