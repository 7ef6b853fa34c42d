"""Continuing a text whose first tokens are in a KV cache."""

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache

from ..core.attention import select_self_attention_cache


def count_cached_tokens(cache: Cache | None) -> int:
    """Returns the number of tokens in the KV cache that is passed to `generate`."""
    return 0 if cache is None else int(cache.get_seq_length())


def is_whole_text(tokens: Tensor, mask: Tensor | None, cache: Any) -> bool:
    """Returns whether `tokens` are the cached tokens and new ones behind them; False if they are only the new ones.

    tokens: (batch, length) or their embeddings; mask: of the same length for a whole text (None too), of cached and new
    tokens for new ones alone.
    Raises ValueError if the lengths fit neither, or if the cache has another number of rows.
    """
    cached, length = count_cached_tokens(cache), tokens.shape[1]
    layer: Any = select_self_attention_cache(cache).layers[0]
    if len(layer.keys) != len(tokens):
        raise ValueError(
            f"past_key_values hold {len(layer.keys)} rows, but the text has {len(tokens)}: pass the cache of this text "
            "(beam search leaves one row for each beam, which cannot be continued)"
        )
    masked = length if mask is None else mask.shape[1]
    if masked == length > cached or masked == cached + length:
        return masked == length
    raise ValueError(
        f"past_key_values hold {cached} tokens, the text has {length} and its mask {masked}: pass the whole text, which"
        " is longer than the cached one, or only its new tokens and a mask of all tokens, cached and new"
    )


def repeat_cache_rows(cache: Any, times: int) -> None:
    """Repeats every row of the cache for beams or returned sequences; copies of a row are adjacent.

    Raises ValueError for a static cache, whose rows are fixed.
    """
    parts = (
        [cache.self_attention_cache, cache.cross_attention_cache] if isinstance(cache, EncoderDecoderCache) else [cache]
    )
    if not all(isinstance(part, DynamicCache) for part in parts):
        raise ValueError(
            f"{type(parts[0]).__name__} cannot be continued by {times} sequences for each row: use a DynamicCache"
        )
    cache.batch_repeat_interleave(times)
