"""Scaled dot-product attention, and the plan of how one call computes it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, EncoderDecoderCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ...configuration import PlaitTransformerConfig
from ..kernels.layers import compute_linear, compute_linears
from .grid import GridOffsets, GridPositionBias
from .layers import build_norm
from .rotary import rotate

NO_CONTEXT = "cross-attention needs a context, but context is None and none is cached: pass one"


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Computes softmax(Q K^T / sqrt(d_k)) V: Vaswani et al. 2017, equation 1.

    query: (batch, heads, length, head_dim); key, value: (batch, key_value_heads, keys, head_dim); attention_mask:
    boolean (True where attention is allowed) or additive, (batch or 1, 1, length, keys); scaling: the factor on Q K^T.
    Returns (batch, length, heads, head_dim) and the weights, (batch, heads, length, keys).
    """
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    elif attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def find_attention_function(implementation: str | None) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """Returns the attention function of this name: `eager_attention`, or one that is registered with transformers'
    attention interface."""
    return ALL_ATTENTION_FUNCTIONS.get_interface(implementation or "eager", eager_attention)


def select_self_attention_cache(cache: Cache) -> Cache:
    """Returns the cache of self-attention: for an `EncoderDecoderCache` its own part, else the cache itself."""
    return cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache


class AttentionPlan(NamedTuple):
    """How all layers compute attention in one call of the model; made once, outside the layers.

    `attend` has the signature of transformers' attention interface; `mask` is what that function takes (None, a tensor,
    a block mask, or the packing of the batch); `rotary` is the cosine and sine of the positions, or None; `offsets` are
    those between the patches of a grid, or None.
    """

    attend: Callable[..., tuple[Tensor, Tensor | None]]
    mask: Any = None
    rotary: tuple[Tensor, Tensor] | None = None
    offsets: GridOffsets | None = None


class PlaitAttention(nn.Module):
    """Multi-head self-attention, with grouped-query heads (Ainslie et al. 2023)."""

    def __init__(
        self,
        config: PlaitTransformerConfig,
        layer_idx: int = 0,
        is_causal: bool = False,
        context_size: int | None = None,
    ) -> None:
        super().__init__()
        self.config, self.layer_idx, self.is_causal = config, layer_idx, is_causal
        self.head_dim = config.head_dim
        self.scaling = compute_score_scale(config, layer_idx)
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        width, key_value_width = config.num_attention_heads * self.head_dim, config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, width, bias=config.qkv_bias)
        key_size = context_size or config.hidden_size
        self.k_proj = nn.Linear(key_size, key_value_width, bias=config.qkv_bias)
        self.v_proj = nn.Linear(key_size, key_value_width, bias=config.qkv_bias)
        self.o_proj = nn.Linear(width, config.hidden_size, bias=config.attention_out_bias)
        self.q_norm = build_norm(config, self.head_dim) if config.qk_norm else nn.Identity()
        self.k_norm = build_norm(config, self.head_dim) if config.qk_norm else nn.Identity()

    def forward(
        self, x: Tensor, plan: AttentionPlan, past_key_values: Cache | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Maps x: (batch, length, width) to the same shape and the attention weights, None if `plan.attend` computes
        none."""
        query, key, value = self.project(x)
        if plan.rotary is not None:
            query, key = rotate(query, *plan.rotary), rotate(key, *plan.rotary)
        if past_key_values is not None:
            key, value = select_self_attention_cache(past_key_values).update(key, value, self.layer_idx)
        return self.attend(query, key, value, plan)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan) -> tuple[Tensor, Tensor | None]:
        """Attends by the plan and projects the heads' outputs: (batch, length, width) and the attention weights.

        query, key, value: (batch, heads, length, head_dim).
        """
        dropout = self.config.attention_dropout if self.training else 0.0
        out, weights = plan.attend(self, query, key, value, plan.mask, dropout=dropout, scaling=self.scaling)
        return compute_linear(self.o_proj, out.flatten(2)), weights

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Projects x: (batch, length, width) to queries, keys and values, (batch, heads, length, head_dim) each."""
        found = compute_linears((self.q_proj, self.k_proj, self.v_proj), x)
        query, key, value = map(self.split_heads, found)
        return self.q_norm(query), self.k_norm(key), value

    def project_query(self, x: Tensor) -> Tensor:
        """Projects x: (batch, length, width) to queries, (batch, heads, length, head_dim)."""
        return self.q_norm(self.split_heads(compute_linear(self.q_proj, x)))

    def project_context(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Projects what is attended to, (batch, length, width), to keys and values, (batch, key_value_heads, length,
        head_dim) each."""
        key, value = map(self.split_heads, compute_linears((self.k_proj, self.v_proj), context))
        return self.k_norm(key), value

    def split_heads(self, x: Tensor) -> Tensor:
        """Reshapes (batch, length, heads * head_dim) to (batch, heads, length, head_dim)."""
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


def compute_score_scale(config: PlaitTransformerConfig, layer_idx: int) -> float:
    """Computes the factor on Q K^T: 1 / sqrt(d_k) or `attention_scale`, divided by the layer's number (from 1) with
    `scale_by_layer`."""
    scale = config.head_dim**-0.5 if config.attention_scale is None else config.attention_scale
    return scale / (layer_idx + 1) if config.scale_by_layer else scale


class PlaitGridAttention(PlaitAttention):
    """Multi-head self-attention of the patches of a grid, with learned relative positions: softmax(Q K^T / sqrt(d_k) +
    B) V (Liu et al. 2021, https://arxiv.org/abs/2103.14030, equation 4)."""

    def __init__(self, config: PlaitTransformerConfig, layer_idx: int = 0, is_causal: bool = False) -> None:
        super().__init__(config, layer_idx, is_causal)
        self.position_bias = GridPositionBias(config)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan) -> tuple[Tensor, Tensor | None]:
        """Attends with the bias of the plan's `offsets`; raises ValueError if it has none."""
        if plan.offsets is None:
            raise ValueError("relative positions on a grid need its size: pass grid=(rows, columns)")
        bias = self.position_bias(plan.offsets, plan.mask, like=query)
        return super().attend(query, key, value, plan._replace(mask=bias))


def build_self_attention(config: PlaitTransformerConfig, layer_idx: int) -> PlaitAttention:
    """Builds the self-attention of a layer."""
    kind = PlaitAttention if config.relative_grid is None else PlaitGridAttention
    return kind(config, layer_idx, is_causal=config.is_causal)


class PlaitCrossAttention(PlaitAttention):
    """Multi-head cross-attention to a context; with a cache, the context's keys and values are computed once."""

    def forward(
        self, x: Tensor, plan: AttentionPlan, past_key_values: Cache | None = None, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Maps x: (batch, length, width) and context: (batch, tokens, context width) to (batch, length, width) and the
        attention weights. `context` may be None if its keys and values are cached."""
        key, value = self.compute_keys_and_values(context, past_key_values)
        return self.attend(self.project_query(x), key, value, plan)

    def compute_keys_and_values(self, context: Tensor | None, past_key_values: Cache | None) -> tuple[Tensor, Tensor]:
        """Returns the context's keys and values, (batch, heads, tokens, head_dim) each, from the cache if they are in
        it. Raises ValueError if there is neither a context nor a cached one."""
        cache = past_key_values if isinstance(past_key_values, EncoderDecoderCache) else None
        if cache is not None and cache.is_updated.get(self.layer_idx):
            layer: Any = cache.cross_attention_cache.layers[self.layer_idx]
            return layer.keys, layer.values
        if context is None:
            raise ValueError(NO_CONTEXT)
        key, value = self.project_context(context)
        if cache is not None:
            key, value = cache.cross_attention_cache.update(key, value, self.layer_idx)
            cache.is_updated[self.layer_idx] = True
        return key, value
