"""The language-model head: which embedding it shares, the loss and the logits, and the shift of the labels."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...configuration import PlaitConfig, width_of
from ..losses.cross_entropy import IGNORE_INDEX, cross_entropy
from ..losses.language_model import check_token_labels, language_model_loss, share_weight


def check_decoder_config(config: PlaitConfig, name: str, reads_context: bool) -> None:
    """Raise ValueError, naming the class to use, where a generating class cannot be made from this config."""
    if config.decoder_config is None:
        raise ValueError(f"{name} needs a decoder, and this config has none: compose it with decoder=...")
    if config.is_encoder_decoder != reads_context:
        other = "PlaitForCausalLM" if reads_context else "PlaitForConditionalGeneration"
        kind = "reads no context" if reads_context else "reads the context of its towers"
        raise ValueError(f"the decoder of this config {kind}: load it with {other}, not {name}")


def build_vocabulary_head(config: PlaitConfig, embeddings: nn.Module) -> nn.Linear:
    """The projection from the decoder's width to its vocabulary."""
    decoder: Any = config.decoder_config
    width, embedding = width_of(decoder), embeddings.get_parameter("weight").shape[1]
    if config.tie_word_embeddings and embedding != width:
        raise ValueError(f"tie_word_embeddings: the decoder's tokens are {width} wide, its embeddings {embedding}")
    return nn.Linear(width, decoder.vocab_size, bias=config.lm_head_bias)


def find_embedding_path(model: PreTrainedModel) -> str:
    """The name of the decoder's token embedding, to which the projection may be tied."""
    embedding = model.get_input_embeddings()
    return next(f"{name}.weight" for name, module in model.named_modules() if module is embedding)


def use_projection_weight(model: PreTrainedModel, targets: Tensor | None) -> AbstractContextManager[Tensor]:
    """The weight that projects on the vocabulary, within which the model is to be called: see `share_weight`."""
    embedding: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()
    return nullcontext(head.weight) if targets is None or not model.training else share_weight(embedding, head)


def compute_loss_and_logits(
    model: PreTrainedModel,
    x: Tensor,
    weight: Tensor,
    targets: Tensor | None,
    logits_to_keep: int | Tensor,
    num_items_in_batch: Tensor | int | None,
    label_smoothing: float,
) -> tuple[Tensor | None, Tensor | None]:
    """Returns the loss, None without targets, and the logits; `weight` comes from `use_projection_weight`. In training
    with targets the logits are None: the loss is computed in chunks, and the whole logits would take more memory than
    the rest of the step. Raises ValueError as `language_model_loss` does."""
    head: Any = model.get_output_embeddings()
    if targets is not None and model.training:
        items = (num_items_in_batch, label_smoothing)
        return language_model_loss(x, weight, head.bias, targets, *items), None
    if isinstance(logits_to_keep, Tensor):
        logits = head(x[:, logits_to_keep])
    else:
        logits = head(x[:, -logits_to_keep:] if logits_to_keep and targets is None else x)
    if targets is None:
        return None, logits
    check_token_labels(targets, x, len(weight))
    return cross_entropy(logits, targets, num_items_in_batch, label_smoothing), logits


def mask_until_last_label(labels: Tensor) -> Tensor:
    """(batch, length), 1 up to a row's last label (and at the start), so that what pads the labels is not computed."""
    left = (labels != IGNORE_INDEX).flip(1).cumsum(1).flip(1) > 0
    return torch.cat((left.new_ones(len(left), 1), left[:, 1:]), dim=1).long()


def shift_labels_right(labels: Tensor, config: PlaitConfig) -> Tensor:
    """The decoder's input for these labels, (batch, length): the start token, then all of them but the last.

    Raises ValueError where the config names no start token, or no padding for the ignored labels.
    """
    start, pad = config.decoder_start_token_id, config.pad_token_id
    if start is None:
        raise ValueError("config.decoder_start_token_id is None: name the token with which the decoder begins")
    if pad is None and bool((labels == IGNORE_INDEX).any()):
        raise ValueError("config.pad_token_id is None, and labels are padded: name the token that pads the decoder")
    shifted = torch.cat((labels.new_full((len(labels), 1), start), labels[:, :-1]), dim=1)
    return shifted if pad is None else shifted.masked_fill(shifted == IGNORE_INDEX, pad)
