"""Mistral (Jiang et al. 2023, https://arxiv.org/abs/2310.06825): Llama with attention to the last `sliding_window`
tokens."""

from collections.abc import Set
from typing import Any

from ....configuration import PlaitTextConfig
from ..conversion.family import Family
from .llama import HEADS, IGNORED, PREFIXES, TABLE, read_llama_fields


def config(hub: Any, names: Set[str]) -> dict[str, Any]:
    """Returns Mistral's fields; a `sliding_window` of None means attention to all previous tokens."""
    if "layer_types" in hub.to_dict():
        raise ValueError(
            f"layer_types = {hub.layer_types!r} is not supported: remove it, every layer has the same window"
        )
    kind = "full_attention" if hub.sliding_window is None else "sliding_attention"
    return read_llama_fields(hub, names) | {
        "qkv_bias": False,
        "attention_out_bias": False,
        "layer_types": [kind] * hub.num_hidden_layers,
        "sliding_window": hub.sliding_window,
    }


FAMILIES = (
    Family(
        model_types=("mistral",),
        config_class=PlaitTextConfig,
        config=config,
        table=TABLE,
        heads=HEADS,
        prefixes=PREFIXES,
        ignored=IGNORED,
    ),
)
