"""How long a text a wrapped family can read: beyond its positions most fail deep inside, without a reason."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.utils.import_utils import is_torchdynamo_compiling


class PositionLimit:
    """The positions of a wrapped text model, given its own config and the fresh model."""

    def __init__(self, config: PreTrainedConfig, model: nn.Module) -> None:
        self.family = config.model_type
        limits = [getattr(config, name, None) for name in ("max_position_embeddings", "max_target_positions")]
        self.limit = next((limit for limit in limits if isinstance(limit, int) and limit > 0), None)
        tables = [(name, part.weight) for name, part in model.named_modules() if isinstance(part, nn.Embedding)]
        # a table that learns nothing is computed: some families make it longer
        self.learned = any(table.requires_grad and ("pos" in name or "wpe" in name) for name, table in tables)

    def guard(self, arguments: Mapping[str, Any]) -> AbstractContextManager[None]:
        """Call the model in here. A longer text than the config names raises ValueError: beforehand where positions are
        learned, else if the family fails on it (one that computes them may go on)."""
        length = count_text_tokens(arguments)
        if self.limit is None or length <= self.limit or is_torchdynamo_compiling():
            return nullcontext()
        error = ValueError(
            f"{length} tokens, but the wrapped {self.family} has {self.limit} positions: truncate the text, or "
            "generate fewer tokens (max_new_tokens)"
        )
        if self.learned and count_real_tokens(arguments, length) > self.limit:
            raise error
        return replace_error(error)


def count_text_tokens(arguments: Mapping[str, Any]) -> int:
    """Tokens of a text, padding and cached ones too; 0 where there is no text."""
    tokens, cache = arguments.get("input_ids"), arguments.get("past_key_values")
    tokens = arguments.get("inputs_embeds") if tokens is None else tokens
    return 0 if tokens is None else tokens.shape[1] + (0 if cache is None else int(cache.get_seq_length()))


def count_real_tokens(arguments: Mapping[str, Any], length: int) -> int:
    """Of the row with most tokens, as far as a mask of (batch, length) tells."""
    mask = arguments.get("attention_mask")
    return int(mask.sum(dim=1).max()) if isinstance(mask, Tensor) and mask.ndim == 2 else length


@contextmanager
def replace_error(error: ValueError) -> Iterator[None]:
    """The error that says why, where a family fails."""
    try:
        yield
    except (IndexError, RuntimeError) as failure:
        raise error from failure
