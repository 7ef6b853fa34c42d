"""The language-model head: the projection to the vocabulary, its logits and loss, and the shift of labels."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from ...configuration import PlaitConfig, PlaitTextConfig, width_of
from ..graphs import is_recording_graph
from ..kernels.layers import compute_linear
from ..kernels.plain import is_exact_linear
from ..losses.cross_entropy import IGNORE_INDEX, cross_entropy
from ..losses.language_model import check_token_labels, language_model_loss, share_weight
from ..outputs import PlaitModelOutput
from .masked_lm import MaskedLMHead


class TokenPrediction(NamedTuple):
    """The output of a model with a language-model head: the loss, None without targets; the logits, None if they were
    not computed; the output of the model without its head."""

    loss: Tensor | None
    logits: Tensor | None
    outputs: PlaitModelOutput


class LanguageModelHead:
    """A mixin of the classes that generate text: `lm_head` over the tokens of `model`'s decoder (see `add_lm_head`)."""

    checkpoint_heads = ("lm_head", "lm_transform")
    reads_pooled = False
    smooths_labels = True
    training: bool
    model: Any
    lm_head: Any
    lm_transform: Any

    def get_output_embeddings(self) -> nn.Module:
        """Returns the projection to the vocabulary."""
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replaces the projection to the vocabulary."""
        self.lm_head = new_embeddings

    def predict_tokens(
        self,
        inputs: Mapping[str, Any],
        targets: Tensor | None,
        logits_to_keep: int | Tensor,
        num_items_in_batch: Tensor | int | None,
        label_smoothing: float,
    ) -> TokenPrediction:
        """Calls the model and its head. `targets`: (batch, length), at each position the token that is predicted there;
        without them the logits are those of `logits_to_keep` (see `select_positions`). In training with targets the
        logits are None: the loss is computed in chunks, since all logits would take more memory than the rest of the
        step.

        Raises ValueError as `language_model_loss` does.
        """
        training = targets is not None and self.training
        with share_projection_weight(self) if training else nullcontext() as weight:
            outputs = self.model(**inputs)
        if targets is None:
            x = self.lm_transform(select_positions(outputs.last_hidden_state, logits_to_keep))
            return TokenPrediction(None, compute_linear(self.lm_head, x), outputs)
        x = self.lm_transform(outputs.last_hidden_state)
        items = (num_items_in_batch, label_smoothing)
        if training:
            return TokenPrediction(compute_token_loss(self.lm_head, x, targets, *items, weight=weight), None, outputs)
        logits = compute_linear(self.lm_head, x)
        check_token_labels(targets, x, logits.shape[-1])
        return TokenPrediction(cross_entropy(logits, targets, *items), logits, outputs)


def check_decoder_config(config: PlaitConfig, name: str, reads_context: bool) -> None:
    """Raises ValueError, with the class to use instead, if the class `name` cannot be built from this config: its
    decoder must cross-attend to a context or not, as `reads_context` says."""
    if config.decoder_config is None:
        raise ValueError(f"{name} needs a decoder, but this config has none: compose it with decoder=...")
    if config.is_encoder_decoder != reads_context:
        other = "PlaitForCausalLM" if reads_context else "PlaitForConditionalGeneration"
        kind = "has no cross-attention" if reads_context else "cross-attends to the context of its towers"
        raise ValueError(f"the decoder of this config {kind}: load it with {other}, not {name}")


def add_lm_head(model: PreTrainedModel) -> None:
    """Adds `lm_head` to the model, from the decoder's width to its vocabulary; its weight may be tied to the embedding.
    Before it stands `lm_transform`, which changes nothing unless the decoder's config sets it.

    Raises ValueError if `tie_word_embeddings` is set and the embedding has another width than the decoder.
    """
    config: Any = model.config
    embedding, decoder = model.get_input_embeddings(), config.decoder_config
    transformed = isinstance(decoder, PlaitTextConfig) and decoder.lm_transform
    model.lm_transform = MaskedLMHead(decoder, decoder.hidden_size) if transformed else nn.Identity()
    width = decoder.embedding_size if transformed else width_of(decoder)
    embedded = embedding.get_parameter("weight").shape[1]
    if config.tie_word_embeddings and embedded != width:
        raise ValueError(
            f"tie_word_embeddings is set, but the decoder's tokens are {width} wide and its embeddings {embedded}: "
            "set it to False"
        )
    model.lm_head = nn.Linear(width, decoder.vocab_size, bias=config.lm_head_bias)
    path = next(f"{name}.weight" for name, module in model.named_modules() if module is embedding)
    model._tied_weights_keys = {**(model._tied_weights_keys or {}), "lm_head.weight": path}


def reads_weight(head: nn.Module) -> bool:
    """Returns whether the loss can be computed from the head's weight without a call of the head: it is a plain linear
    layer (no adapter, no hook), and the call is not compiled."""
    return not is_recording_graph() and is_exact_linear(head)


def share_projection_weight(model: Any) -> AbstractContextManager[Tensor | None]:
    """Returns a context, in which the model is called, that yields the weight of `lm_head` for the loss (see
    `share_weight`); it yields None if `reads_weight` does not allow that."""
    head = model.lm_head
    return share_weight(model.get_input_embeddings(), head) if reads_weight(head) else nullcontext()


def compute_token_loss(
    head: nn.Module,
    x: Tensor,
    targets: Tensor,
    num_items_in_batch: Tensor | int | None = None,
    label_smoothing: float = 0.0,
    weight: Tensor | None = None,
) -> Tensor:
    """Computes the mean cross-entropy of the head's logits over the targets that are not -100, in chunks if
    `reads_weight` allows it. x: (batch, length, width); targets: (batch, length); `weight` replaces the head's.

    Raises ValueError as `language_model_loss` does.
    """
    items = (num_items_in_batch, label_smoothing)
    if reads_weight(head):
        own: Any = head
        return language_model_loss(x, own.weight if weight is None else weight, own.bias, targets, *items)
    logits = head(x)
    check_token_labels(targets, x, logits.shape[-1])
    return cross_entropy(logits, targets, *items)


def select_positions(x: Tensor, kept: int | Tensor) -> Tensor:
    """Selects the last `kept` positions (0: all), or those that a tensor lists, from x: (batch, length, width)."""
    return x[:, kept] if isinstance(kept, Tensor) else x[:, -kept:]


def shift_labels_left(labels: Tensor) -> Tensor:
    """Moves each label to the position before it, which predicts it: (batch, length), -100 at the last position."""
    return F.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)


def shift_labels_right(labels: Tensor, config: PlaitConfig) -> Tensor:
    """Builds the decoder's input ids from labels, (batch, length): the start token, then all labels but the last.

    Raises ValueError if the config has no `decoder_start_token_id`, or no `pad_token_id` for labels that are -100.
    """
    start, pad = config.decoder_start_token_id, config.pad_token_id
    if start is None:
        raise ValueError("config.decoder_start_token_id is None: set it to the id of the decoder's first token")
    if pad is None and bool((labels == IGNORE_INDEX).any()):
        raise ValueError("config.pad_token_id is None, but labels are padded: set it to the decoder's padding token id")
    shifted = torch.cat((labels.new_full((labels.shape[0], 1), start), labels[:, :-1]), dim=1)
    return shifted if pad is None else shifted.masked_fill(shifted == IGNORE_INDEX, pad)


def mask_until_last_label(labels: Tensor) -> Tensor:
    """Builds the decoder's attention mask from labels, (batch, length): 1 up to a row's last label and at the start, so
    that padding is not computed."""
    left = (labels != IGNORE_INDEX).flip(1).cumsum(1).flip(1) > 0
    return torch.cat((left.new_ones(left.shape[0], 1), left[:, 1:]), dim=1).long()
