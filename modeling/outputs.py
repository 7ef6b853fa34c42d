"""The outputs of towers and models."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor
from transformers.cache_utils import Cache
from transformers.modeling_outputs import QuestionAnsweringModelOutput
from transformers.utils.generic import ModelOutput

# transformers requires a default for every field of an output, also for those that are always set
REQUIRED: Any = None

# hidden states to return: all, none, or those with these indices (0: input of the first layer, -1: output of the last)
LayerChoice = bool | Sequence[int]


def select_layers(choice: LayerChoice, count: int) -> Collection[int]:
    """Returns the indices of the hidden states to keep, of `count`; the output has None for each of the others."""
    if isinstance(choice, bool):
        return range(count if choice else 0)
    return {number + count if number < 0 else number for number in choice}


@dataclass
class TowerOutput(ModelOutput):
    """The output of a tower: the tokens of one modality.

    last_hidden_state: (batch, length, width); mask: (batch, length), 1 for a token, 0 for padding; pooler_output:
    (batch, pooled width), None without a pooler; hidden_states, attentions, cross_attentions: one tensor per layer if
    requested; item_length: the number of tokens of one item (image, clip) if a row may have several.
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
    """The context that a decoder cross-attends to: the fused tokens of all towers.

    last_hidden_state: (batch, tokens, width); mask: (batch, tokens), 1 for a token, 0 for padding; hidden_states,
    attentions, cross_attentions: of the fusion (of the tower, if there is only one), one tensor per layer if requested.
    """

    last_hidden_state: Tensor = REQUIRED
    mask: Tensor | None = None
    hidden_states: tuple[Tensor | None, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


@dataclass
class PlaitModelOutput(ModelOutput):
    """The output of a model without a head: the tokens of the decoder, if there is one, else of the fusion or of the
    single tower.

    last_hidden_state: (batch, length, width); mask: (batch, length), 1 for a token; pooler_output: (batch, width);
    hidden_states, attentions: one tensor per layer if requested; cross_attentions: those of a decoder to its context,
    else those of a fusion that crosses, (batch, heads, length, keys) each, None without cross-attention;
    encoder_outputs: a `TowerOutput` for each modality, None without a fusion; context: that of the decoder.
    """

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
    """The classification of one modality alone. rows: (rows,), indices of the rows that have it; logits: (rows,
    num_labels)."""

    rows: Tensor
    logits: Tensor


@dataclass
class PlaitClassifierOutput(ModelOutput):
    """The output of classification. loss: scalar, with labels; logits: (batch, num_labels); alone: the classification
    of each modality alone, if requested; the rest as in `PlaitModelOutput`."""

    loss: Tensor | None = None
    logits: Tensor = REQUIRED
    alone: dict[str, UnimodalOutput] | None = None
    hidden_states: tuple[Tensor | None, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


@dataclass
class PlaitRetrievalOutput(ModelOutput):
    """The output of retrieval.

    loss: scalar, if requested; logits: (rows of the first side, rows of the second), scaled similarities; if the sides
    are text and image, they are logits_per_text and, transposed, logits_per_image; text_embeds, ...: (rows, width), of
    unit length, for each side in the batch; encoder_outputs: a `TowerOutput` for each side, if hidden states or
    attentions were requested.
    """

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
class PlaitImageGenerationOutput(ModelOutput):
    """The output of training image generation. loss: scalar; prediction: (batch, channels, height, width), the image
    (or velocity) that the denoiser predicts."""

    loss: Tensor | None = None
    prediction: Tensor = REQUIRED


@dataclass
class PlaitImageAutoencodingOutput(ModelOutput):
    """The output of an autoencoder. loss: scalar; reconstruction: (batch, channels, height, width); latents: (batch,
    latent channels, height / downsampling, width / downsampling), those that the image is reconstructed from;
    divergence: (batch,), of their distribution from the standard normal."""

    loss: Tensor | None = None
    reconstruction: Tensor = REQUIRED
    latents: Tensor = REQUIRED
    divergence: Tensor = REQUIRED


@dataclass
class PlaitMaskedLMOutput(ModelOutput):
    """The output of masked language modelling. loss: scalar, with labels; logits: (batch, length, vocab_size);
    hidden_states, attentions, cross_attentions as in `PlaitModelOutput`."""

    loss: Tensor | None = None
    logits: Tensor = REQUIRED
    hidden_states: tuple[Tensor | None, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


@dataclass
class PlaitQuestionAnsweringOutput(QuestionAnsweringModelOutput):
    """The output of extractive question answering: transformers' with the `cross_attentions` of `PlaitModelOutput`."""

    cross_attentions: tuple[Tensor, ...] | None = None


@dataclass
class PlaitPreTrainingOutput(ModelOutput):
    """The output of pretraining. loss: scalar, the weighted sum of `losses`, scalars by objective; both with targets.

    matching_logits: (rows, 2), scores of "no" and "yes" for the pairs of the batch and, with losses, for negative pairs
    behind them; matching_labels: (rows,), their classes. embeds: (batch, projection width) by modality, of unit length,
    in the space of the contrastive objective. Without losses the rest is as in `PlaitModelOutput`.
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
    cross_attentions: tuple[Tensor, ...] | None = None


@dataclass
class PlaitCausalLMOutput(ModelOutput):
    """The output of a causal language model. loss: scalar, with labels; logits: (batch, length, vocab_size), of the
    last `logits_to_keep` positions, None in training with labels (the loss is computed without them); past_key_values:
    the KV cache; hidden_states, attentions as in `PlaitModelOutput`."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor | None, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class PlaitSeq2SeqLMOutput(ModelOutput):
    """The output of conditional generation. loss, logits, past_key_values as in `PlaitCausalLMOutput`, of the decoder's
    tokens; encoder_last_hidden_state: (batch, tokens, width), the decoder's context, with encoder_hidden_states,
    encoder_attentions and encoder_cross_attentions of the fusion (of the tower, if there is only one)."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    decoder_hidden_states: tuple[Tensor | None, ...] | None = None
    decoder_attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: tuple[Tensor | None, ...] | None = None
    encoder_attentions: tuple[Tensor, ...] | None = None
    encoder_cross_attentions: tuple[Tensor, ...] | None = None
