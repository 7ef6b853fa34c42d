"""Published checkpoints as plaits: one strand, or an encoder with its decoder, with neither connector nor fusion."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedConfig
from transformers.utils import CONFIG_NAME

from ...configuration import CONFIG_FIELDS, PlaitConfig
from ...configuration.hub import HUB_OPTIONS
from ..checkpoints.dual_encoders import is_dual_encoder, read_dual_encoder
from ..checkpoints.lookup import DUAL_ENCODERS, find_family
from ..checkpoints.reading import read_components
from ..checkpoints.source import OpenedCheckpoint, open_checkpoint
from ..towers.text import TOKEN_EMBEDDING_WEIGHT
from ..towers.wrapped import find_family_modality, load_wrapped
from ..towers.wrapped_decoder import has_causal_lm
from .components import Component, read_wrapped_decoder, without_unused_modules
from .composable import ComposableModel
from .compose import collect_root_fields
from .hub import find_start_token, read_generation_config, with_family_defaults
from .parameter_names import find_base_prefix


class LoadedCheckpoint(NamedTuple):
    """A checkpoint as a plait: config, weights by their names in the model, and how it generates."""

    config: PlaitConfig
    weights: dict[str, Tensor]
    generation: GenerationConfig | None


def from_checkpoint(
    model_class: type[ComposableModel], name: Any, overrides: dict[str, Any], where: dict[str, Any]
) -> LoadedCheckpoint:
    """A published checkpoint, heads of `model_class` included. A class that classifies reads no decoder: of an
    encoder with its decoder it takes the encoder."""
    pair = read_dual_encoder_components(name, where) if model_class.reads_apart else None
    strands, settings = pair or (
        read_checkpoint_components(name, where, writes=model_class.decoder_kind is not None),
        {},
    )
    if len(strands) > 1 and not pair and model_class.checkpoint_heads and model_class.decoder_kind is None:
        strands.pop("decoder")
    if "text" in strands and not model_class.reads_pooled:
        strands["text"] = without_unused_modules(strands["text"], "text")
    heads = {key: head for strand in strands.values() for key, head in strand.heads.items()}
    heads = {key: head for key, head in heads.items() if key.split(".")[0] in model_class.checkpoint_heads}
    fields = {CONFIG_FIELDS.get(part, "decoder_config"): strand.config for part, strand in strands.items()}
    config = PlaitConfig(**{**fields, **settings, **collect_task_fields(strands, heads), **overrides})
    weights = dict(heads)
    for part, strand in strands.items():
        path = find_base_prefix(model_class) + ("decoder" if part == "decoder" else f"towers.{part}")
        weights |= {f"{path}.{key}": weight for key, weight in (strand.weights or {}).items()}
    # out of the mapped file: its pages are small and its tensors unaligned, which costs a matrix product 5 %
    weights = {key: weight.clone() for key, weight in weights.items()}
    return LoadedCheckpoint(
        config, weights, next((strand.generation for strand in strands.values() if strand.generation), None)
    )


def read_dual_encoder_components(
    name: Any, where: dict[str, Any]
) -> tuple[dict[str, Component], dict[str, Any]] | None:
    """Two towers that were published together, with what joins them, and their space as a field of `PlaitConfig`; None
    for any other checkpoint."""
    source = open_checkpoint(name, **where)
    if not is_dual_encoder(source):
        return None
    pair = read_dual_encoder(source)
    heads = {"image": pair.heads}
    strands = {
        modality: Component(*tower[:2], heads.get(modality, {}), str(name), source.config)
        for modality, tower in pair.components.items()
    }
    return strands, {"retrieval_config": pair.settings}


def read_checkpoint_components(name: Any, where: dict[str, Any], writes: bool = False) -> dict[str, Component]:
    """The strands of a known family's checkpoint, or of any other that transformers loads (wrapped), by modality, or
    as "decoder" (an unknown causal family: where the class `writes`)."""
    source = open_checkpoint(name, **where)
    # a checkpoint of two towers may hold one alone
    if source.config.model_type not in DUAL_ENCODERS and find_family(source.config) is None:
        if writes and has_causal_lm(source.config):
            return {"decoder": read_wrapped_decoder(source, where)}
        config, module = load_wrapped(name, None, **where)
        weights = {f"model.{key}": weight for key, weight in module.state_dict().items()}
        return {find_family_modality(config): Component(config, weights, {}, str(name), config)}
    hub = {key: where[key] for key in HUB_OPTIONS if key in where}
    towers = read_components(source)
    generation = read_generation_defaults(source, hub) if "decoder" in towers else None
    return {
        part: Component(*tower, str(name), source.config, generation if part == "decoder" else None)
        for part, tower in towers.items()
    }


def read_generation_defaults(source: OpenedCheckpoint, hub: Mapping[str, Any]) -> GenerationConfig:
    """How a checkpoint generates, as transformers reads it: from its generation_config.json, or (old ones) from what
    its config.json says of it."""
    found = read_generation_config(source, hub)
    if found is not None:
        return found
    return with_family_defaults(GenerationConfig.from_pretrained(source.path, CONFIG_NAME, **hub), source.config)


def collect_task_fields(components: Mapping[str, Component], heads: Mapping[str, Tensor]) -> dict[str, Any]:
    """What a checkpoint's config says of its task, lifted to the root: special tokens, what is tied, labels."""
    fields: dict[str, Any] = collect_root_fields(
        {"text": components["decoder"]} if "decoder" in components else components
    )
    source: PreTrainedConfig | None = next(iter(components.values())).source_config
    if "decoder" in components:
        decoder = components["decoder"]
        fields["lm_head_bias"] = "lm_head.bias" in heads
        fields["decoder_start_token_id"] = find_start_token(decoder.source_config, decoder.generation)
    if "text" in components and "decoder" in components and fields["tie_word_embeddings"]:
        tables = [(components[part].weights or {})[TOKEN_EMBEDDING_WEIGHT] for part in ("text", "decoder")]
        fields["tie_encoder_embeddings"] = torch.equal(*tables)
    if "classifier.weight" in heads and source is not None:
        fields |= {"id2label": source.id2label, "label2id": source.label2id, "problem_type": source.problem_type}
        fields["classifier_bias"] = "classifier.bias" in heads
        fields["distillation_head"] = "distillation_classifier.weight" in heads
    return fields
