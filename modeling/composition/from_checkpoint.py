"""Reads pretrained checkpoints as models: of one component, of an encoder and a decoder, or of two towers."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedConfig
from transformers.utils import CONFIG_NAME

from ...configuration import PlaitConfig
from ...configuration.hub import select_hub_options
from ...configuration.sentence import pools_sentences
from ..checkpoints.component import Component
from ..checkpoints.dual_encoders import is_dual_encoder, read_dual_encoder
from ..checkpoints.lookup import DUAL_ENCODERS, find_family, find_known_family
from ..checkpoints.reading import read_component, read_components
from ..checkpoints.source import OpenedCheckpoint, open_checkpoint
from ..towers.text import TOKEN_EMBEDDING_WEIGHT
from ..towers.wrapped import find_family_modality
from ..towers.wrapped_decoder import has_causal_lm, is_decoder_of_pair
from .assembly import collect_root_fields, collect_sub_configs
from .components import read_wrapped_decoder, read_wrapped_tower, select_pooler
from .composable import ComposableModel
from .decoder import without_cross_attention
from .hub import find_start_token, read_generation_config, with_family_defaults
from .parameter_names import find_base_prefix
from .sentence import add_sentence_modules


class LoadedCheckpoint(NamedTuple):
    """A checkpoint as `from_pretrained` needs it: unlike in a `Component`, config and names are the whole model's."""

    config: PlaitConfig
    weights: dict[str, Tensor]
    generation: GenerationConfig | None


def from_checkpoint(
    model_class: type[ComposableModel], name: Any, overrides: dict[str, Any], where: dict[str, Any]
) -> LoadedCheckpoint:
    """Reads a pretrained checkpoint with the heads that `model_class` has; `overrides` are fields of its config."""
    source = open_checkpoint(name, **where)
    settings: dict[str, Any] = {}
    if model_class.reads_apart and is_dual_encoder(source):
        components, settings["retrieval_config"] = read_dual_encoder(source)
    else:
        components = read_parts(model_class, source, where)
    if "text" in components and find_base_prefix(model_class):  # a PlaitModel keeps its family's pooler, for export
        components["text"] = select_pooler(components["text"], "text", model_class.reads_pooled)
    heads = {key: head for component in components.values() for key, head in component.heads.items()}
    heads = {key: head for key, head in heads.items() if key.split(".")[0] in model_class.checkpoint_heads}
    fields = {**collect_sub_configs(components), **settings, **collect_task_fields(components, heads), **overrides}
    weights = dict(heads)
    for part, component in components.items():
        path = find_base_prefix(model_class) + ("decoder" if part == "decoder" else f"towers.{part}")
        weights |= {f"{path}.{key}": weight for key, weight in component.weights.items()}
    # copied out of the mapped file: its pages are small and its tensors unaligned, which slows matrix products by 5 %
    weights = {key: weight.clone() for key, weight in weights.items()}
    generation = next((component.generation for component in components.values() if component.generation), None)
    config = PlaitConfig(**fields)
    return LoadedCheckpoint(config, {**model_class.build_start_weights(config), **weights}, generation)


def read_parts(
    model_class: type[ComposableModel], source: OpenedCheckpoint, where: Mapping[str, Any]
) -> dict[str, Component]:
    """Reads the components of a checkpoint that the class uses, by modality or as "decoder": of a known family, or
    wrapped, of any other that transformers loads (a causal language model is a decoder if the class generates).

    A class that classifies uses no decoder: of an encoder with its decoder it takes the encoder.
    """
    generates = model_class.decoder_kind is not None
    # a checkpoint of a two-tower type may hold only one of them
    if source.config.model_type not in DUAL_ENCODERS and find_family(source.config) is None:
        alone = (
            is_decoder_of_pair(source.config)
            and getattr(source.config, "is_decoder", False)
            and not source.config.is_encoder_decoder
        )
        if alone or (generates and has_causal_lm(source.config)):
            return {"decoder": read_wrapped_decoder(source, where)}
        component = read_wrapped_tower(source, None, where)
        modality = find_family_modality(component.config)
        return {modality: add_sentence_modules(component, source.path, where) if modality == "text" else component}
    components = read_components(source)
    if model_class.reads_pooled and not generates:
        components = read_sentence_encoder(components, source, where)
    if len(components) > 1 and model_class.checkpoint_heads and not generates:
        components.pop("decoder")
    if "decoder" in components:
        generation = read_generation_defaults(source, select_hub_options(where))
        components["decoder"] = components["decoder"]._replace(generation=generation)
    if list(components) == ["decoder"]:
        components["decoder"] = without_cross_attention(components["decoder"], model_class)
    return components


def read_sentence_encoder(
    components: dict[str, Component], source: OpenedCheckpoint, where: Mapping[str, Any]
) -> dict[str, Component]:
    """Returns the components with the sentence pooler of the folder, if it is a sentence encoder: of a causal language
    model as a text tower, since it generates nothing."""
    if components.keys() == {"decoder"}:
        if find_known_family(source.config).decoder is not None:  # a decoder of a pair is no text tower
            return components
        tower = add_sentence_modules(read_component(source, "text"), source.path, where)
        return {"text": tower} if pools_sentences(tower.config) else components
    text = components.get("text")
    return components if text is None else {**components, "text": add_sentence_modules(text, source.path, where)}


def read_generation_defaults(source: OpenedCheckpoint, hub: Mapping[str, Any]) -> GenerationConfig:
    """Returns a checkpoint's generation config as transformers reads it: from its generation_config.json or, of old
    checkpoints, from its config.json."""
    found = read_generation_config(source, hub)
    if found is not None:
        return found
    return with_family_defaults(GenerationConfig.from_pretrained(source.path, CONFIG_NAME, **hub), source.config)


def collect_task_fields(components: Mapping[str, Component], heads: Mapping[str, Tensor]) -> dict[str, Any]:
    """Returns the fields of `PlaitConfig` that a checkpoint sets for its task: start token, tied weights, labels."""
    fields: dict[str, Any] = collect_root_fields(
        {"text": components["decoder"]} if "decoder" in components else components
    )
    source: PreTrainedConfig | None = next(iter(components.values())).source_config
    if "decoder" in components:
        decoder = components["decoder"]
        fields["lm_head_bias"] = "lm_head.bias" in heads
        fields["decoder_start_token_id"] = find_start_token(decoder.source_config, decoder.generation)
    if "text" in components and "decoder" in components and fields["tie_word_embeddings"]:
        tables = [components[part].weights[TOKEN_EMBEDDING_WEIGHT] for part in ("text", "decoder")]
        fields["tie_encoder_embeddings"] = torch.equal(*tables)
    if "classifier.weight" in heads and source is not None:
        fields |= {"id2label": source.id2label, "label2id": source.label2id, "problem_type": source.problem_type}
        fields["classifier_bias"] = "classifier.bias" in heads
        fields["distillation_head"] = "distillation_classifier.weight" in heads
    return fields
