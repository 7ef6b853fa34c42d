"""Builds components for composing from a folder, a Hub id, a config or a ready model."""

import copy
import tempfile
from collections.abc import Mapping
from typing import Any

from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
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
from ...configuration.hub import select_hub_options
from ...configuration.sentence import pools_sentences
from ..checkpoints.component import READY_MODEL, Component
from ..checkpoints.conversion.family import find_top_module
from ..checkpoints.families.registry import FAMILIES
from ..checkpoints.lookup import build_component_config, find_family
from ..checkpoints.reading import read_component
from ..checkpoints.source import OpenedCheckpoint, open_checkpoint, read_config
from ..towers.wrapped import load_wrapped, without_pooler
from ..towers.wrapped_decoder import load_wrapped_decoder
from ..towers.wrapped_inputs import is_video_family
from .composable import ComposableModel
from .hub import read_generation_config, read_model_type
from .sentence import add_sentence_modules, drop_sentence_modules, keep_sentence_modules

DECODER_HEADS = ("lm_head", "lm_transform")
TowerArgument = Any  # a Hub id, a folder, a config (newly initialized weights) or a ready model


def select_model_class(config: PlaitConfig, modality: str) -> Any:
    """Returns the Auto class that loads a saved plait model to take a part from; for a decoder, one with its head."""
    if modality != "decoder" or config.decoder_config is None:
        return AutoModel
    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


def build_plait_component(modality: str, model: ComposableModel) -> Component:
    """Returns a plait model's tower, or its decoder with head, special tokens and generation config, as a component."""
    config = find_component_config(modality, model.config)
    weights = next(part for part in model.parts.values() if part.config is config).state_dict()
    origin = model.name_or_path or READY_MODEL
    if modality != "decoder":
        return Component(as_tower_config(config), weights, {}, origin)
    if not model.can_generate():
        return Component(config, weights, {}, origin, model.config)
    heads = {name: weight for name, weight in model.state_dict().items() if find_top_module(name) in DECODER_HEADS}
    return Component(config, weights, heads, origin, model.config, model.generation_config)


def find_component_config(modality: str, config: PlaitConfig) -> PreTrainedConfig:
    """Returns the config of a plait model's tower; decoder and text tower may replace each other.

    Raises ValueError if the model has neither.
    """
    parts = config.encoders | ({} if config.decoder_config is None else {"decoder": config.decoder_config})
    other = {"text": "decoder", "decoder": "text"}.get(modality, modality)
    found = parts.get(modality) or parts.get(other)
    if found is None:
        raise ValueError(f"the plait model has no {modality} tower; it has {', '.join(config.encoders) or 'a decoder'}")
    return found


def as_tower_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """Turns a decoder's config into that of a causal text tower without cross-attention; leaves others unchanged."""
    if not isinstance(config, PlaitDecoderConfig):
        return config
    fields: dict[str, Any] = {**config.to_dict(), "cross_attention": False}
    return PlaitTextConfig(**{key: fields[key] for key in fields if key in PlaitTextConfig.__dataclass_fields__})


def build_component(modality: str, tower: TowerArgument, where: Mapping[str, Any]) -> Component:
    """Builds a component from a tower argument of `compose`."""
    if isinstance(tower, Component):
        return tower
    if isinstance(tower, PreTrainedConfig):
        config = find_component_config(modality, tower) if isinstance(tower, PlaitConfig) else tower
        foreign = type(config) not in OWN_CONFIGS.values() and find_family(config, modality) is not None
        return Component(build_component_config(config, modality) if foreign else config, {}, {}, "fresh")
    if isinstance(tower, ComposableModel):
        return build_plait_component(modality, tower)
    if isinstance(tower, PreTrainedModel):
        with tempfile.TemporaryDirectory() as folder:  # the conversion tables hold names on disk, not in memory
            tower.save_pretrained(folder)
            component = read_folder_component(modality, folder, {})
            weights = {name: weight.clone() for name, weight in component.weights.items()}
        return component._replace(weights=weights, origin=tower.name_or_path or READY_MODEL)
    return read_folder_component(modality, tower, where)


def as_video_component(tower: TowerArgument, fields: dict[str, Any], where: Mapping[str, Any]) -> TowerArgument:
    """Returns a video tower unchanged, and for an image tower the component of a video tower that runs it per frame.

    fields: further fields of its `PlaitVideoConfig`. Raises ValueError for `fields` without an image tower.
    """
    if tower is None or reads_videos(tower, where):
        if fields:
            raise ValueError(f"video_config {fields} is for an image tower that reads frames: pass one as video=...")
        return tower
    component = without_unused_modules(build_component("image", tower, where), "image")
    config = PlaitVideoConfig(image_config=component.config, **fields)
    weights = {f"frames.{name}": weight for name, weight in component.weights.items()}
    return component._replace(config=config, weights=weights, heads={})


def reads_videos(tower: TowerArgument, where: Mapping[str, Any]) -> bool:
    """Returns whether a tower argument is a video tower or a plait model that has one."""
    hub = select_hub_options(where)
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
    """Reads a tower (or "decoder") from a folder or Hub id: of a plait model, of a known family or, wrapped, of any
    other model that transformers loads."""
    hub = select_hub_options(where)
    if read_model_type(name, hub) == PlaitConfig.model_type:
        reader = select_model_class(PlaitConfig.from_pretrained(name, **hub), modality)
        return build_plait_component(modality, reader.from_pretrained(name, **where))
    source = open_checkpoint(name, **where)
    if find_family(source.config, modality) is not None:
        component = read_component(source, modality)
        if modality == "text":
            component = add_sentence_modules(component, source.path, where)
        generation = read_generation_config(source, hub) if modality == "decoder" else None
        return component._replace(generation=generation)
    if modality == "decoder":
        return read_wrapped_decoder(source, where)
    component = read_wrapped_tower(source, modality, where)
    return add_sentence_modules(component, source.path, where) if modality == "text" else component


def read_wrapped_tower(source: OpenedCheckpoint, modality: str | None, where: Mapping[str, Any]) -> Component:
    """Reads a tower of a family that plait does not know; without `modality` the model's inputs decide it."""
    config, model = load_wrapped(source.path, modality, **where)
    weights = {f"model.{key}": weight for key, weight in model.state_dict().items()}
    return Component(config, weights, {}, source.path, config)


def read_wrapped_decoder(source: OpenedCheckpoint, where: Mapping[str, Any]) -> Component:
    """Reads a causal language model of a family that plait does not know, with its head."""
    config, model, head = load_wrapped_decoder(source.path, **where)
    weights = {f"model.{key}": weight for key, weight in model.state_dict().items()}
    heads = {f"lm_head.{key}": weight for key, weight in head.state_dict().items()}
    generation = read_generation_config(source, select_hub_options(where))
    return Component(config, weights, heads, source.path, config, generation)


def select_pooler(component: Component, modality: str, pooled: bool) -> Component:
    """Returns the component with the pooler that a model uses: none unless it reads pooled vectors, else that of a
    sentence encoder, else the family's."""
    if not pooled:
        return without_unused_modules(component, modality)
    return without_family_pooler(component, modality) if pools_sentences(component.config) else component


def without_family_pooler(component: Component, modality: str) -> Component:
    """Returns the component of a sentence encoder without the pooler of its family, which it does not use."""
    return keep_sentence_modules(component, without_unused_modules(component, modality))


def without_unused_modules(component: Component, modality: str) -> Component:
    """Returns the component without its poolers and mask token: fusions and masked language models do not use them, so
    they would never be trained."""
    component = drop_sentence_modules(component)
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
    kept = {name: weight for name, weight in component.weights.items() if not name.startswith(unused)}
    return component._replace(config=config, weights=kept)
