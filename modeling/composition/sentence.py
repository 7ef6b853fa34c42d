"""Sentence encoders (sentence-transformers) as towers: with the pooling and the layers of their folder."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from transformers import PreTrainedConfig

from ...configuration import PlaitRetrievalConfig
from ...configuration.sentence import pools_sentences
from ..checkpoints.component import Component
from ..checkpoints.sentence_modules import read_sentence_modules

WEIGHTS_PREFIX = "sentence."


def add_sentence_modules(component: Component, path: str, where: Mapping[str, Any]) -> Component:
    """Returns a text tower's component with the sentence pooler of its folder; unchanged if that has no modules.json.

    Raises ValueError for a module that plait does not have.
    """
    modules = read_sentence_modules(path, where)
    if modules is None:
        return component
    config: Any = copy.deepcopy(component.config)
    config.sentence_pooling, config.sentence_layers = modules.pooling, modules.layers
    return component._replace(config=config, weights={**component.weights, **modules.weights})


def drop_sentence_modules(component: Component) -> Component:
    """Returns the component without its sentence pooler; unchanged if it has none."""
    if not pools_sentences(component.config):
        return component
    config: Any = copy.deepcopy(component.config)
    config.sentence_pooling = config.sentence_layers = None
    kept = {name: weight for name, weight in component.weights.items() if not name.startswith(WEIGHTS_PREFIX)}
    return component._replace(config=config, weights=kept)


def keep_sentence_modules(component: Component, other: Component) -> Component:
    """Returns `other`, the component without its pooler, with the sentence pooler that `component` has."""
    config: Any = copy.deepcopy(other.config)
    source: Any = component.config
    config.sentence_pooling, config.sentence_layers = source.sentence_pooling, source.sentence_layers
    own = {name: weight for name, weight in component.weights.items() if name.startswith(WEIGHTS_PREFIX)}
    return other._replace(config=config, weights={**other.weights, **own})


def build_default_retrieval_config(towers: Iterable[PreTrainedConfig], **fields: Any) -> PlaitRetrievalConfig:
    """Builds the retrieval config of towers: without a projection if the only tower is a sentence encoder, whose
    vectors are compared as they are."""
    configs = list(towers)
    if len(configs) == 1 and pools_sentences(configs[0]):
        fields = {"projection_dim": None, **fields}
    return PlaitRetrievalConfig(**fields)
