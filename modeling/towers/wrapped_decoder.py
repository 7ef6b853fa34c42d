"""Wrapped decoders: causal families without a native tower, built and run by transformers, that generate text."""

import copy
import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_MAPPING,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES

from ..outputs import TowerOutput
from .wrapped import WrappedTower, build_from_config, find_part_config


class WrappedDecoder(WrappedTower):
    """A decoder that wraps any causal model `AutoModel` builds. Images enter through its `inputs_embeds`; a context
    enters through its own cross-attention, if its config adds one. `generate` makes `position_ids` for every family:
    they are dropped for a family that does not take them (ALiBi).

    It excludes the head, which must be a plain projection: `load_wrapped_decoder` checks that.
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config, "text")
        self.keeps_cache = "past_key_values" in self.takes  # Mamba has none: a decode step reads the whole text

    def build_model(self) -> PreTrainedModel:
        """Builds the newly initialized decoder, without its head."""
        if not is_decoder_of_pair(self.config):
            return super().build_model()
        return build_from_config(AutoModelForCausalLM, self.config).get_decoder()

    def forward(
        self,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        blocks: Tensor | None = None,
        **inputs: Any,
    ) -> TowerOutput:
        """Decodes text, with the inputs of `WrappedTower`; context: (batch, tokens, width), context_mask: (batch,
        tokens).

        Raises ValueError for a context in a family without cross-attention, or for `blocks` (bidirectional images).
        """
        if blocks is not None:
            raise ValueError(
                f"bidirectional_images is set, but a wrapped {self.config.model_type} decoder makes its own "
                "masks: unset it"
            )
        if context is not None:
            check_cross_attention(self.config)
            inputs |= {"encoder_hidden_states": context, "encoder_attention_mask": context_mask}
        return super().forward(**inputs)

    def select_arguments(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the given inputs that the family takes; without positions if it has none."""
        dropped = {"position_ids"} - self.takes
        return super().select_arguments({name: value for name, value in inputs.items() if name not in dropped})


def is_decoder_of_pair(config: PreTrainedConfig) -> bool:
    """Returns whether a family's causal language model is the decoder of its encoder-decoder, saved alone (mBART,
    Marian, TrOCR), which `AutoModel` does not build."""
    paired = config.model_type in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES or type(config) not in MODEL_MAPPING
    return paired and has_causal_lm(config)


@cache
def takes_context(config_class: type[PreTrainedConfig]) -> bool:
    """Returns whether the family's causal language model takes a context."""
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[config_class]
    return "encoder_hidden_states" in inspect.signature(model_class.forward).parameters


def check_cross_attention(config: PreTrainedConfig) -> None:
    """Raises ValueError for a family's decoder that has no cross-attention for a context."""
    crosses = getattr(config, "add_cross_attention", False) or is_decoder_of_pair(config)
    if not crosses or not takes_context(type(config)):
        raise ValueError(
            f"a {config.model_type} decoder has no cross-attention (add_cross_attention): use PlaitForCausalLM, "
            "in which images stand among the text"
        )


class LoadedDecoder(NamedTuple):
    """A loaded causal model. config: builds the decoder again by `AutoModel`; model: without the head; head: its
    projection to the vocabulary."""

    config: PreTrainedConfig
    model: PreTrainedModel
    head: nn.Linear


def load_wrapped_decoder(
    name_or_path: Any, use_safetensors: bool = True, dtype: Any = None, **options: Any
) -> LoadedDecoder:
    """Loads a causal language model of a pretrained checkpoint by `AutoModelForCausalLM`.

    Raises ValueError for a family without a separate decoder and projection, a checkpoint that lacks weights, or a head
    that computes more than a projection (a soft cap, a scale), which plait would leave out.
    """
    dtype = dtype or torch.get_default_dtype()
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        name_or_path, use_safetensors=use_safetensors, dtype=dtype, output_loading_info=True, **options
    )
    whole, info = loaded
    if lost := sorted(info["missing_keys"]):
        raise ValueError(f"{name_or_path} has no weights for {', '.join(lost[:5])} ({len(lost)} weights are missing)")
    pair, family = is_decoder_of_pair(whole.config), whole.config.model_type
    base, head = whole.get_decoder() if pair else whole.base_model, whole.get_output_embeddings()
    if base is whole or not isinstance(head, nn.Linear):
        raise ValueError(f"a {family} checkpoint has no projection to a vocabulary of its own: it cannot be a decoder")
    check_head(whole, base, head)
    config = copy.deepcopy(find_part_config(whole, base, "text"))
    embedding: Any = base.get_input_embeddings()
    tied = embedding.weight.shape == head.weight.shape and torch.equal(embedding.weight, head.weight)
    if pair:  # these configs count the encoder's layers and heads, caches the decoder's
        config.num_hidden_layers, config.num_attention_heads = config.decoder_layers, config.decoder_attention_heads
    if not tied:  # some classes leave them apart although their config ties them
        config.tie_word_embeddings = False
    return LoadedDecoder(config, base, head)


@torch.no_grad()
def check_head(whole: PreTrainedModel, base: PreTrainedModel, head: nn.Linear) -> None:
    """Raises ValueError if the model's logits are not the projection of its hidden states."""
    size = int(whole.config.get_text_config().vocab_size)
    probe = (torch.arange(6, device=whole.device) * 7919 % size)[None]
    theirs = whole.eval()(input_ids=probe, use_cache=False).logits
    states = base(input_ids=probe, use_cache=False).last_hidden_state
    ours = head(states) if states.shape[-1] == head.in_features else states
    if ours.shape != theirs.shape or not torch.allclose(ours, theirs, atol=1e-4, rtol=1e-4):
        raise ValueError(
            f"the head of a {whole.config.model_type} model does more than project to the vocabulary: it cannot be a "
            "decoder here"
        )


def has_causal_lm(config: PreTrainedConfig) -> bool:
    """Returns whether transformers has a causal language model for this config."""
    return type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
