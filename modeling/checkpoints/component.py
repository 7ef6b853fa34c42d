"""A tower or a decoder on its own: what checkpoints are read to, composed from and written from."""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor
from transformers import GenerationConfig, PreTrainedConfig

READY_MODEL = "a ready model"


class Component(NamedTuple):
    """A tower or a decoder before composing.

    config: ours, or the own config of a wrapped family; weights: by their names inside the component, none where they
    are to be newly initialized; heads: those of the checkpoint's own heads that have a place here, by their names in
    the task class (a decoder has them, the encoder before it has none); origin: where the weights came from;
    source_config and generation: the config and the generation defaults of the whole checkpoint.
    """

    config: PreTrainedConfig
    weights: Mapping[str, Tensor]
    heads: Mapping[str, Tensor]
    origin: str = READY_MODEL
    source_config: PreTrainedConfig | None = None
    generation: GenerationConfig | None = None
