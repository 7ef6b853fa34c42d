"""The position limit of wrapped text models: beyond it, most families fail deep inside with an unclear error."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig

from ..core.rows import check_ids
from ..graphs import is_recording_graph


class PositionLimit:
    """The number of positions of a wrapped text model, found in its config and its newly initialized model."""

    def __init__(self, config: PreTrainedConfig, model: nn.Module) -> None:
        self.family = config.model_type
        limits = [getattr(config, name, None) for name in ("max_position_embeddings", "max_target_positions")]
        self.limit = next((limit for limit in limits if isinstance(limit, int) and limit > 0), None)
        tables = [(name, part.weight) for name, part in model.named_modules() if isinstance(part, nn.Embedding)]
        # a frozen table is computed (sinusoids): some families extend it on demand
        self.learned = any(table.requires_grad and ("pos" in name or "wpe" in name) for name, table in tables)

    def guard(self, arguments: Mapping[str, Any], model: Any) -> AbstractContextManager[None]:
        """Returns a context in which to call the model. A token outside the vocabulary raises ValueError on a CPU, and
        so does a text longer than the config's positions: at once if positions are learned, else only if the family
        fails on it (computed positions may have no end)."""
        if is_recording_graph():
            return nullcontext()
        length = count_text_tokens(arguments)
        if self.limit is None or length <= self.limit:
            return name_ids(arguments.get("input_ids"), model)
        error = ValueError(
            f"{length} tokens, but the wrapped {self.family} has {self.limit} positions: truncate the text, or "
            "generate fewer tokens (max_new_tokens)"
        )
        if self.learned and count_real_tokens(arguments, length) > self.limit:
            raise error
        return replace_error(error)


def count_text_tokens(arguments: Mapping[str, Any]) -> int:
    """Counts the tokens of a text, including padding and cached tokens; 0 without text."""
    tokens, cache = arguments.get("input_ids"), arguments.get("past_key_values")
    tokens = arguments.get("inputs_embeds") if tokens is None else tokens
    return 0 if tokens is None else tokens.shape[1] + (0 if cache is None else int(cache.get_seq_length()))


def count_real_tokens(arguments: Mapping[str, Any], length: int) -> int:
    """Counts the real tokens of the longest row by a mask (batch, length); without one, returns `length`."""
    mask = arguments.get("attention_mask")
    return int(mask.sum(dim=1).max()) if isinstance(mask, Tensor) and mask.ndim == 2 else length


@contextmanager
def name_ids(ids: Tensor | None, model: Any) -> Iterator[None]:
    """Raises ValueError in place of an IndexError inside the context if an id is outside the model's vocabulary."""
    try:
        yield
    except IndexError:
        if ids is not None:
            check_ids(ids, len(model.get_input_embeddings().weight), "tokens")
        raise


@contextmanager
def replace_error(error: ValueError) -> Iterator[None]:
    """Raises `error` in place of an IndexError or RuntimeError inside the context."""
    try:
        yield
    except (IndexError, RuntimeError) as failure:
        raise error from failure
