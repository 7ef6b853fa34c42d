"""Attention masks: built once a call, in the form that the attention implementation wants."""

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, EncoderDecoderCache
from transformers.masking_utils import (
    create_bidirectional_mask,
    create_causal_mask,
    create_sliding_window_causal_mask,
)

from ...configuration import PlaitTransformerConfig

CAUSAL_MASKS = {"full_attention": create_causal_mask, "sliding_attention": create_sliding_window_causal_mask}


def build_self_masks(
    config: PlaitTransformerConfig,
    kinds: set[str],
    x: Tensor,
    attention_mask: Tensor | Mapping[str, Tensor] | None,
    position_ids: Tensor | None,
    past_key_values: Cache | None,
    blocks: Tensor | None = None,
) -> dict[str, Any]:
    """One mask for each kind of layer.

    attention_mask: (batch, length with the cached tokens), 4-D, or by kind (as `generate` makes them for a static
    cache); blocks: see `PlaitTransformer.forward`.
    """
    if isinstance(attention_mask, Mapping):
        return dict(attention_mask)
    common = {"config": config, "inputs_embeds": x, "attention_mask": attention_mask}
    if not config.is_causal:
        return dict.fromkeys(kinds, create_bidirectional_mask(**common))
    if (
        x.shape[1] == 1
        and kinds == {"full_attention"}
        and is_dynamic_cache(past_key_values)
        and takes_tensor_mask(config)
    ):
        return {"full_attention": build_step_mask(attention_mask)}
    common |= {"past_key_values": past_key_values, "position_ids": position_ids}
    if blocks is not None:
        common["block_sequence_ids"] = blocks
    return {kind: CAUSAL_MASKS[kind](**common) for kind in kinds}


def is_dynamic_cache(cache: Cache | None) -> bool:
    """Whether the cache holds exactly the tokens seen so far (a static one has room for more)."""
    own = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
    return own is not None and not own.is_compileable


def takes_tensor_mask(config: PlaitTransformerConfig) -> bool:
    """Whether the attention takes a mask as a tensor."""
    return config._attn_implementation in ("eager", "sdpa")


def build_step_mask(attention_mask: Tensor | None) -> Tensor | None:
    """The mask of one new token: it sees everything that is cached, but for the padding."""
    if attention_mask is None or attention_mask.ndim == 4:
        return attention_mask
    return attention_mask[:, None, None].bool()


def build_cross_mask(config: PlaitTransformerConfig, x: Tensor, context: Tensor | None, mask: Tensor | None) -> Any:
    """Which tokens of a context are there; None where all are, or where nothing says."""
    if context is None or mask is None:
        return None
    if x.shape[1] == 1 and takes_tensor_mask(config):
        return build_step_mask(mask)
    return create_bidirectional_mask(config=config, inputs_embeds=x, attention_mask=mask, encoder_hidden_states=context)


def with_attention(config: PlaitTransformerConfig, implementation: str) -> PlaitTransformerConfig:
    """A copy of the config with another attention implementation."""
    changed = copy.copy(config)
    changed._attn_implementation = implementation
    return changed
