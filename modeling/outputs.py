"""What towers and models return."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor
from transformers.cache_utils import Cache
from transformers.utils.generic import ModelOutput

# every field of an output needs this default in transformers, also those that are always there
REQUIRED: Any = None

# hidden states to return: all, none, or those of these numbers (0 enters the first layer, -1 leaves the last)
LayerChoice = bool | Sequence[int]


def select_layers(asked: LayerChoice, count: int) -> Collection[int]:
    """The numbers of the hidden states to keep, of `count`; in the place of the others the output has None."""
    if isinstance(asked, bool):
        return range(count if asked else 0)
    return {number + count if number < 0 else number for number in asked}


@dataclass
class TowerOutput(ModelOutput):
    """One modality's stream.

    last_hidden_state: (batch, length, width); mask: (batch, length), 1 where there is a token, else 0; pooler_output:
    (batch, pooled width) where the tower pools; hidden_states, attentions: a tuple a layer where asked for;
    item_length: tokens of one item (image, clip) in a row that may have several.
    """

    last_hidden_state: Tensor = REQUIRED
    mask: Tensor = REQUIRED
    pooler_output: Tensor | None = None
    hidden_states: tuple[Tensor | None, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    past_key_values: Cache | None = None
    item_length: int | None = None


@dataclass
class ContextOutput(ModelOutput):
    """What a decoder's cross-attention reads: the fused tokens of all towers.

    last_hidden_state: (batch, tokens, width); mask: (batch, tokens), 1 where there is a token; hidden_states,
    attentions: of the fusion (of the tower, for a single one), a tensor a layer where asked for.
    """

    last_hidden_state: Tensor = REQUIRED
    mask: Tensor | None = None
    hidden_states: tuple[Tensor | None, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class PlaitModelOutput(ModelOutput):
    """last_hidden_state: (batch, length, width) and mask: (batch, length) of the fused tokens (of the tower, for one
    strand; of the decoder, where there is one); pooler_output: (batch, width); hidden_states, attentions likewise;
    cross_attentions of a decoder over its context; encoder_outputs: a `TowerOutput` for each modality, None for one
    strand; context: what a decoder read."""

    last_hidden_state: Tensor = REQUIRED
    pooler_output: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor | None, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    mask: Tensor = REQUIRED
    cross_attentions: tuple[Tensor, ...] | None = None
    encoder_outputs: dict[str, TowerOutput] | None = None
    context: ContextOutput | None = None


class UnimodalOutput(NamedTuple):
    """What one modality alone answers: numbers of the rows that have it, (rows,), and their logits, (rows,
    num_labels)."""

    rows: Tensor
    logits: Tensor


@dataclass
class PlaitClassifierOutput(ModelOutput):
    """loss: scalar, where labels were given; logits: (batch, num_labels); alone: by modality, where that was asked for;
    the rest as in `PlaitModelOutput`."""

    loss: Tensor | None = None
    logits: Tensor = REQUIRED
    alone: dict[str, UnimodalOutput] | None = None
    hidden_states: tuple[Tensor | None, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class PlaitRetrievalOutput(ModelOutput):
    """loss: scalar, where it was asked for, and then no logits; logits: (rows of the first side, rows of the second),
    scaled similarities; logits_per_text and, transposed, logits_per_image where these are text and image; embeds of
    each side that the batch holds: (rows, width), of unit length; encoder_outputs: a `TowerOutput` for each, where
    hidden states or attentions were asked for."""

    loss: Tensor | None = None
    logits_per_image: Tensor | None = None
    logits_per_text: Tensor | None = None
    text_embeds: Tensor | None = None
    image_embeds: Tensor | None = None
    audio_embeds: Tensor | None = None
    video_embeds: Tensor | None = None
    document_embeds: Tensor | None = None
    logits: Tensor | None = None
    encoder_outputs: dict[str, TowerOutput] | None = None


@dataclass
class PlaitMaskedLMOutput(ModelOutput):
    """loss: scalar, where labels were given; logits: (batch, length, vocab_size)."""

    loss: Tensor | None = None
    logits: Tensor = REQUIRED
    hidden_states: tuple[Tensor | None, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class PlaitPreTrainingOutput(ModelOutput):
    """loss: scalar, the weighted sum of `losses`, scalars by objective; both where targets were given.

    matching_logits: (rows, 2), no and yes, of the pairs of the batch, and with losses of their negatives behind them;
    matching_labels: (rows,) what they should say. embeds: by modality (batch, projection width), of length 1, in the
    space of the contrastive objective. Without losses the rest is as in `PlaitModelOutput`.
    """

    loss: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    embeds: dict[str, Tensor] | None = None
    matching_logits: Tensor | None = None
    matching_labels: Tensor | None = None
    hidden_states: tuple[Tensor | None, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    mask: Tensor | None = None


@dataclass
class PlaitCausalLMOutput(ModelOutput):
    """loss: scalar, where labels were given; logits: (batch, length, vocab_size), of the last `logits_to_keep`
    positions, None in training with labels (the loss is computed without them)."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor | None, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class PlaitSeq2SeqLMOutput(ModelOutput):
    """loss and logits as in `PlaitCausalLMOutput`, of the decoder's tokens; encoder_last_hidden_state: (batch, tokens,
    width), what the decoder read, with encoder_hidden_states and encoder_attentions of the fusion (of the tower, for a
    single one)."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    decoder_hidden_states: tuple[Tensor | None, ...] | None = None
    decoder_attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: tuple[Tensor | None, ...] | None = None
    encoder_attentions: tuple[Tensor, ...] | None = None
