"""Published checkpoints as plaits: one strand, or an encoder with its decoder, with neither connector nor fusion."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedConfig
from transformers.utils import CONFIG_NAME

from ...configuration import CONFIG_FIELDS, PlaitConfig
from ..checkpoints.dual_encoders import is_pair, read_pair
from ..checkpoints.lookup import TWO_TOWERS, family_of
from ..checkpoints.reading import read_strands
from ..checkpoints.source import Source, open_source
from ..towers.text import EMBEDDING
from ..towers.wrapped import load_wrapped, modality_of
from ..towers.wrapped_decoder import writes_text
from .components import Strand, without_unused, wrapped_decoder_strand
from .composable import ComposableModel
from .compose import lifted
from .hub import HUB_OPTIONS, generation_of, start_of, with_habits
from .parameter_names import base_prefix


class Published(NamedTuple):
    """A checkpoint as a plait: config, weights by their names in the model, and how it generates."""

    config: PlaitConfig
    weights: dict[str, Tensor]
    generation: GenerationConfig | None


def published(
    model_class: type[ComposableModel], name: Any, overrides: dict[str, Any], where: dict[str, Any]
) -> Published:
    """A published checkpoint, heads of `model_class` included. A class that classifies reads no decoder: of an
    encoder with its decoder it takes the encoder."""
    pair = pair_of(name, where) if model_class.reads_apart else None
    strands, settings = pair or (strands_of(name, where, writes=model_class.decoder_kind is not None), {})
    if len(strands) > 1 and not pair and model_class.published_heads and model_class.decoder_kind is None:
        strands.pop("decoder")
    if "text" in strands and not model_class.reads_pooled:
        strands["text"] = without_unused(strands["text"], "text")
    heads = {key: head for strand in strands.values() for key, head in strand.heads.items()}
    heads = {key: head for key, head in heads.items() if key.split(".")[0] in model_class.published_heads}
    fields = {CONFIG_FIELDS.get(part, "decoder_config"): strand.config for part, strand in strands.items()}
    config = PlaitConfig(**{**fields, **settings, **task_fields(strands, heads), **overrides})
    weights = dict(heads)
    for part, strand in strands.items():
        path = base_prefix(model_class) + ("decoder" if part == "decoder" else f"towers.{part}")
        weights |= {f"{path}.{key}": weight for key, weight in (strand.weights or {}).items()}
    # out of the mapped file: its pages are small and its tensors unaligned, which costs a matrix product 5 %
    weights = {key: weight.clone() for key, weight in weights.items()}
    return Published(
        config, weights, next((strand.generation for strand in strands.values() if strand.generation), None)
    )


def pair_of(name: Any, where: dict[str, Any]) -> tuple[dict[str, Strand], dict[str, Any]] | None:
    """Two towers that were published together, with what joins them, and their space as a field of `PlaitConfig`; None
    for any other checkpoint."""
    source = open_source(name, **where)
    if not is_pair(source):
        return None
    pair = read_pair(source)
    heads = {"image": pair.heads}
    strands = {
        modality: Strand(*tower[:2], heads.get(modality, {}), str(name), source.config)
        for modality, tower in pair.strands.items()
    }
    return strands, {"retrieval_config": pair.settings}


def strands_of(name: Any, where: dict[str, Any], writes: bool = False) -> dict[str, Strand]:
    """The strands of a known family's checkpoint, or of any other that transformers loads (wrapped), by modality, or
    as "decoder" (an unknown causal family: where the class `writes`)."""
    source = open_source(name, **where)
    # a checkpoint of two towers may hold one alone
    if source.config.model_type not in TWO_TOWERS and family_of(source.config) is None:
        if writes and writes_text(source.config):
            return {"decoder": wrapped_decoder_strand(source, where)}
        config, module = load_wrapped(name, None, **where)
        weights = {f"model.{key}": weight for key, weight in module.state_dict().items()}
        return {modality_of(config): Strand(config, weights, {}, str(name), config)}
    hub = {key: where[key] for key in HUB_OPTIONS if key in where}
    towers = read_strands(source)
    generation = habits_of(source, hub) if "decoder" in towers else None
    return {
        part: Strand(*tower, str(name), source.config, generation if part == "decoder" else None)
        for part, tower in towers.items()
    }


def habits_of(source: Source, hub: Mapping[str, Any]) -> GenerationConfig:
    """How a checkpoint generates, as transformers reads it: from its generation_config.json, or (old ones) from what
    its config.json says of it."""
    found = generation_of(source, hub)
    if found is not None:
        return found
    return with_habits(GenerationConfig.from_pretrained(source.path, CONFIG_NAME, **hub), source.config)


def task_fields(strands: Mapping[str, Strand], heads: Mapping[str, Tensor]) -> dict[str, Any]:
    """What a checkpoint's config says of its task, lifted to the root: special tokens, what is tied, labels."""
    fields: dict[str, Any] = lifted({"text": strands["decoder"]} if "decoder" in strands else strands)
    source: PreTrainedConfig | None = next(iter(strands.values())).source_config
    if "decoder" in strands:
        decoder = strands["decoder"]
        fields["lm_head_bias"] = "lm_head.bias" in heads
        fields["decoder_start_token_id"] = start_of(decoder.source_config, decoder.generation)
    if "text" in strands and "decoder" in strands and fields["tie_word_embeddings"]:
        tables = [(strands[part].weights or {})[EMBEDDING] for part in ("text", "decoder")]
        fields["tie_encoder_embeddings"] = torch.equal(*tables)
    if "classifier.weight" in heads and source is not None:
        fields |= {"id2label": source.id2label, "label2id": source.label2id, "problem_type": source.problem_type}
        fields["classifier_bias"] = "classifier.bias" in heads
        fields["distillation_head"] = "distillation_classifier.weight" in heads
    return fields
