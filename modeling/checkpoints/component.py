"""The component, a tower or decoder by itself: checkpoints are read to components and written from them."""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor
from transformers import GenerationConfig, PreTrainedConfig

READY_MODEL = "a ready model"


class Component(NamedTuple):
    """A tower or a decoder before composing.

    config: ours, or transformers' config of a wrapped family; weights: by their names inside the component, empty if
    they are to be newly initialized; heads: those of the checkpoint's heads that plait has, by their names in the task
    class (of an encoder-decoder the decoder holds them); origin: where the weights came from; source_config and
    generation: the config and the generation config of the whole checkpoint.
    """

    config: PreTrainedConfig
    weights: Mapping[str, Tensor]
    heads: Mapping[str, Tensor]
    origin: str = READY_MODEL
    source_config: PreTrainedConfig | None = None
    generation: GenerationConfig | None = None
