"""Attention masks, built once per call in the form that the attention implementation takes."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, EncoderDecoderCache
from transformers.masking_utils import (
    create_bidirectional_mask,
    create_causal_mask,
    create_sliding_window_causal_mask,
)

from ...configuration import PlaitTransformerConfig
from ..graphs import is_recording_graph

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
    """Builds the self-attention mask of each kind of layer ("full_attention", "sliding_attention").

    x: (batch, length, width); attention_mask: (batch, cached + new tokens), 4-D, or already one mask for each kind (as
    `generate` makes them for a static cache); blocks: see `PlaitTransformer.forward`. Without an attention_mask, rows
    that `position_ids` flatten into one do not attend to each other: transformers sees to it where there is no cache.
    """
    if isinstance(attention_mask, Mapping):
        return dict(attention_mask)
    common = {"config": config, "inputs_embeds": x, "attention_mask": attention_mask}
    if not config.is_causal:
        return dict.fromkeys(kinds, create_bidirectional_mask(**common))
    separate = None
    if attention_mask is None and position_ids is not None and past_key_values is not None:
        separate = separate_rows(position_ids.expand(x.shape[0], -1), past_key_values.get_seq_length())
    if (
        separate is None
        and x.shape[1] == 1
        and kinds == {"full_attention"}
        and is_dynamic_cache(past_key_values)
        and takes_tensor_mask(config)
    ):
        return {"full_attention": build_step_mask(attention_mask)}
    common |= {"past_key_values": past_key_values, "position_ids": position_ids}
    if separate is not None:
        common["and_mask_function"] = separate
    if blocks is not None:
        common["block_sequence_ids"] = blocks
    return {kind: CAUSAL_MASKS[kind](**common) for kind in kinds}


def separate_rows(positions: Tensor, past: int | Tensor) -> Callable[..., Tensor] | None:
    """Builds the mask function by which a token at position p attends to the p tokens before it alone: those of its own
    row if rows are flattened into one, behind `past` cached tokens; None if the positions are the tokens' indices.

    positions: (batch, length).
    """
    index = torch.arange(positions.shape[1], device=positions.device) + past
    if not is_recording_graph() and bool((positions == index).all()):
        return None
    return lambda batch, head, query, key: key >= query - positions[batch, query - past]


def is_dynamic_cache(cache: Cache | None) -> bool:
    """Returns whether the cache holds exactly the tokens seen so far (a static cache has room for more)."""
    own = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
    return own is not None and not own.is_compileable


def takes_tensor_mask(config: PlaitTransformerConfig) -> bool:
    """Returns whether the config's attention implementation takes its mask as a tensor."""
    return config._attn_implementation in ("eager", "sdpa")


def build_step_mask(attention_mask: Tensor | None) -> Tensor | None:
    """Builds the mask of one new token, (batch, 1, 1, cached tokens + 1): it attends to all of them but padding."""
    if attention_mask is None or attention_mask.ndim == 4:
        return attention_mask
    return attention_mask[:, None, None].bool()


def build_cross_mask(config: PlaitTransformerConfig, x: Tensor, context: Tensor | None, mask: Tensor | None) -> Any:
    """Builds the cross-attention mask over a context's real tokens; None if there is no context or no mask of it.

    x: (batch, length, width); context: (batch, tokens, width); mask: (batch, tokens), non-zero for a token.
    """
    if context is None or mask is None:
        return None
    if x.shape[1] == 1 and takes_tensor_mask(config):
        return build_step_mask(mask)
    return create_bidirectional_mask(config=config, inputs_embeds=x, attention_mask=mask, encoder_hidden_states=context)


def with_attention(config: PlaitTransformerConfig, implementation: str) -> PlaitTransformerConfig:
    """Returns a copy of the config with another attention implementation."""
    changed = copy.copy(config)
    changed._attn_implementation = implementation
    return changed
