"""The context that a decoder reads, given by hand or computed, and the checks of it."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from ..outputs import ContextOutput


def check_unused(inputs: Mapping[str, Any], names: Iterable[str], why: str) -> None:
    """Raise ValueError for inputs that nothing would read."""
    if given := [name for name in names if inputs.get(name) is not None and inputs[name] is not False]:
        raise ValueError(f"nothing here reads {', '.join(given)}: {why}, leave them out")


def parse_context(given: Any, attention_mask: Tensor | None) -> ContextOutput | None:
    """What `encode_context` returned, or an encoder of transformers (a tuple too), whose padding the text's mask tells;
    None for the towers' outputs by modality.

    Raises ValueError for a mask of other tokens.
    """
    if isinstance(given, (tuple, list)):
        given = {"last_hidden_state": given[0]}
    tokens, mask = given.get("last_hidden_state"), given.get("mask")
    if tokens is None:
        return None
    if mask is None and attention_mask is not None:
        mask = attention_mask
        if mask.shape != tokens.shape[:2]:
            shapes = f"{tuple(tokens.shape[:2])} tokens, attention_mask is {tuple(mask.shape)}"
            raise ValueError(f"encoder_outputs have {shapes}: give the mask of these tokens")
    return ContextOutput(tokens, mask, given.get("hidden_states"), given.get("attentions"))


def check_decoder_rows(written: Mapping[str, Tensor | None], context: ContextOutput) -> None:
    """Raises ValueError where the decoder's text has other rows than its context."""
    text = written["inputs_embeds"] if written["input_ids"] is None else written["input_ids"]
    rows, read = 0 if text is None else len(text), len(context.last_hidden_state)
    if rows != read:
        raise ValueError(f"the decoder's text has {rows} rows, what it reads has {read}: give one text for each")


def build_context_arguments(context: ContextOutput) -> dict[str, Tensor | None]:
    """The decoder's arguments that bring a context."""
    return {"context": context.last_hidden_state, "context_mask": context.mask}
