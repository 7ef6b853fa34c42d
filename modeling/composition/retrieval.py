"""Composing for retrieval: towers from any source, each pooled to one vector, in one space."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedConfig

from ...configuration import (
    DOCUMENT,
    PlaitCNNConfig,
    PlaitRetrievalConfig,
    PlaitTextConfig,
    PlaitTowerConfig,
)
from ...configuration.sentence import pools_sentences
from ..checkpoints.component import Component
from ..checkpoints.lookup import DUAL_ENCODERS
from .assembly import assemble_model
from .components import TowerArgument, build_component, without_family_pooler, without_unused_modules
from .composable import Model
from .hub import pop_checkpoint_options
from .sentence import build_default_retrieval_config

POOLING_CHOICES = ("mean", "first", "last")


def compose_retrieval(
    model_class: type[Model],
    text: TowerArgument = None,
    image: TowerArgument = None,
    audio: TowerArgument = None,
    video: TowerArgument = None,
    *,
    document: TowerArgument = None,
    document_modality: str = "text",
    pooling: str | Mapping[str, str] | None = None,
    retrieval_config: PlaitRetrievalConfig | Mapping[str, Any] | None = None,
    freeze: str | Sequence[str] = (),
    verbose: bool = True,
    dtype: Any = None,
    attn_implementation: str | None = None,
    **options: Any,
) -> Model:
    """Composes towers into a model of `model_class` that compares their vectors in one space: see
    `PlaitForRetrieval.compose`, which documents the other arguments and the errors."""
    where = pop_checkpoint_options(options)
    given = {"text": text, "image": image, "audio": audio, "video": video}
    given[DOCUMENT] = None if document == "shared" else document
    modalities = {side: side if side != DOCUMENT else document_modality for side in given}
    components = {
        side: build_component(modalities[side], tower, where) for side, tower in given.items() if tower is not None
    }
    if not components:
        raise ValueError("compose needs at least one tower: text=..., image=..., audio=... or document=...")
    components = {
        side: set_component_pooling(component, modalities[side], side, pooling)
        for side, component in components.items()
    }
    towers = [component.config for component in components.values()]
    settings = complete_retrieval_config(retrieval_config, None if document is None else document_modality, towers)
    fields: dict[str, Any] = {"retrieval_config": settings}
    return assemble_model(model_class, components, fields | options, freeze, verbose, dtype, attn_implementation)


def complete_retrieval_config(
    given: PlaitRetrievalConfig | Mapping[str, Any] | None, document: str | None, towers: Sequence[PreTrainedConfig]
) -> PlaitRetrievalConfig:
    """Builds the retrieval config from a config or its fields, with the modality of documents."""
    if isinstance(given, PlaitRetrievalConfig):
        given = {**given.to_dict(), "source_config": None, "family": None}
        given = {name: given[name] for name in given if name in PlaitRetrievalConfig.__dataclass_fields__}
    fields: dict[str, Any] = dict(given or {})
    if document is not None:
        fields["document"] = document
    return build_default_retrieval_config(towers, **fields)


def set_component_pooling(
    component: Component, modality: str, side: str, pooling: str | Mapping[str, str] | None
) -> Component:
    """Returns the component with the pooling of its side: `pooling`, else the tower's own if it was trained for
    comparison, else the last token of a causal tower and the mean of any other.

    Raises ValueError for an unknown pooling, or one that the tower does not have.
    """
    choice = pooling if pooling is None or isinstance(pooling, str) else pooling.get(side)
    if choice not in (None, *POOLING_CHOICES):
        raise ValueError(f"there is no pooling {choice!r}: choose from {', '.join(POOLING_CHOICES)}")
    config = component.config
    if isinstance(config, PlaitCNNConfig):
        if choice not in (None, "mean"):
            raise ValueError(f"pooling {choice!r}: a convolutional tower has no such token, choose 'mean'")
        config = copy.deepcopy(config)
        config.pooling = "mean"
        return component._replace(config=config)
    if choice is None and pools_sentences(config):
        return without_family_pooler(component, modality)
    if choice is None and isinstance(config, PlaitTowerConfig) and is_comparable(config):
        return component
    component = without_unused_modules(component, modality)
    if not isinstance(component.config, PlaitTowerConfig):
        if choice not in (None, "mean"):
            raise ValueError(f"pooling {choice!r}: a wrapped {component.config.model_type} tower supports only 'mean'")
        return component
    config = copy.deepcopy(component.config)
    config.pooling = choice or ("last" if isinstance(config, PlaitTextConfig) and config.is_causal else "mean")
    return component._replace(config=config)


def is_comparable(config: PlaitTowerConfig) -> bool:
    """Returns whether the tower's pooling was trained or configured for comparison, unlike a classifier's or BERT's."""
    family = config.family or ""
    return config.pooling != "none" and (not family or family.startswith(DUAL_ENCODERS))
