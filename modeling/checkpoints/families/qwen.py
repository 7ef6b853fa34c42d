"""Qwen2 (https://arxiv.org/abs/2407.10671) and Qwen3 (https://arxiv.org/abs/2505.09388): Llama with small changes."""

from collections.abc import Set
from typing import Any

from ....configuration import PlaitTextConfig
from ..conversion.family import Family
from .llama import HEADS, IGNORED, PREFIXES, TABLE, read_llama_fields


def qwen2_config(hub: Any, names: Set[str]) -> dict[str, Any]:
    """Returns Qwen2's fields: Llama's, with biases of query, key and value."""
    return read_llama_fields(hub, names) | read_window_fields(hub) | {"qkv_bias": True, "attention_out_bias": False}


def qwen3_config(hub: Any, names: Set[str]) -> dict[str, Any]:
    """Returns Qwen3's fields: Llama's, with norms of queries and keys."""
    own = {"qkv_bias": hub.attention_bias, "attention_out_bias": hub.attention_bias, "qk_norm": True}
    return read_llama_fields(hub, names) | read_window_fields(hub) | own


def read_window_fields(hub: Any) -> dict[str, Any]:
    """Returns the fields that say which layers attend only to the last `sliding_window` tokens."""
    if unknown := set(hub.layer_types) - {"full_attention", "sliding_attention"}:
        raise ValueError(f"layer_types has {unknown.pop()!r}: only full_attention and sliding_attention are supported")
    return {"layer_types": hub.layer_types, "sliding_window": hub.sliding_window}


FAMILIES = (
    Family(
        model_types=("qwen2",),
        config_class=PlaitTextConfig,
        config=qwen2_config,
        table=TABLE,
        heads=HEADS,
        prefixes=PREFIXES,
        ignored=IGNORED,
    ),
    Family(
        model_types=("qwen3",),
        config_class=PlaitTextConfig,
        config=qwen3_config,
        table={
            **TABLE,
            "layers.{}.self_attn.q_norm": "transformer.layers.{}.self_attn.q_norm",
            "layers.{}.self_attn.k_norm": "transformer.layers.{}.self_attn.k_norm",
        },
        heads=HEADS,
        prefixes=PREFIXES,
        ignored=IGNORED,
    ),
)
