"""What towers and models return."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache
from transformers.utils.generic import ModelOutput

# every field of an output needs this default in transformers, also those that are always there
REQUIRED: Any = None

# hidden states to return: all, none, or those of these numbers (0 enters the first layer, -1 leaves the last)
LayerChoice = bool | Sequence[int]


def chosen(asked: LayerChoice, count: int) -> Collection[int]:
    """The numbers of the hidden states to keep, of `count`; in the place of the others the output has None."""
    if isinstance(asked, bool):
        return range(count if asked else 0)
    return {number + count if number < 0 else number for number in asked}


@dataclass
class TowerOutput(ModelOutput):
    """One modality's stream.

    last_hidden_state: (batch, length, width); mask: (batch, length), 1 where there is a token, else 0; pooler_output:
    (batch, pooled width) where the tower pools; hidden_states, attentions: a tuple a layer where asked for.
    """

    last_hidden_state: Tensor = REQUIRED
    mask: Tensor = REQUIRED
    pooler_output: Tensor | None = None
    hidden_states: tuple[Tensor | None, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    past_key_values: Cache | None = None


@dataclass
class PlaitModelOutput(ModelOutput):
    """last_hidden_state: (batch, length, width) and mask: (batch, length) of the fused tokens (of the tower, for one
    strand); pooler_output: (batch, width); hidden_states, attentions of the fusion (of the tower, for one strand);
    encoder_outputs: a `TowerOutput` for each modality, None for one strand."""

    last_hidden_state: Tensor = REQUIRED
    pooler_output: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor | None, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    mask: Tensor = REQUIRED
    encoder_outputs: dict[str, TowerOutput] | None = None


@dataclass
class PlaitClassifierOutput(ModelOutput):
    """loss: scalar, where labels were given; logits: (batch, num_labels); the rest as in `PlaitModelOutput`."""

    loss: Tensor | None = None
    logits: Tensor = REQUIRED
    hidden_states: tuple[Tensor | None, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class PlaitMaskedLMOutput(ModelOutput):
    """loss: scalar, where labels were given; logits: (batch, length, vocab_size)."""

    loss: Tensor | None = None
    logits: Tensor = REQUIRED
    hidden_states: tuple[Tensor | None, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
