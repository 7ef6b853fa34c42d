"""The context that a decoder cross-attends to: parses one that is passed as `encoder_outputs`, and checks it."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from ..outputs import ContextOutput


def check_unused(inputs: Mapping[str, Any], names: Iterable[str], why: str) -> None:
    """Raises ValueError, with the reason `why`, if any of these arguments is passed to a model that does not use it."""
    if unused := [name for name in names if inputs.get(name) is not None and inputs[name] is not False]:
        raise ValueError(f"unexpected arguments {', '.join(unused)}: {why}, leave them out")


def parse_context(given: Any, attention_mask: Tensor | None) -> ContextOutput | None:
    """Returns the context in `encoder_outputs`, which `encode_context` or an encoder of transformers returned (then
    possibly a tuple, with its padding in `attention_mask`); None if these are outputs of towers by modality.

    Raises ValueError for a mask that does not have the shape of the tokens, (batch, tokens).
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
            raise ValueError(f"encoder_outputs have {shapes}: pass the mask of these tokens")
    recorded = (given.get(name) for name in ("hidden_states", "attentions", "cross_attentions"))
    return ContextOutput(tokens, mask, *recorded)


def check_decoder_rows(inputs: Mapping[str, Tensor | None], context: ContextOutput) -> None:
    """Raises ValueError if the decoder's text and its context do not have the same number of rows."""
    text = inputs["inputs_embeds"] if inputs["input_ids"] is None else inputs["input_ids"]
    rows, expected = 0 if text is None else text.shape[0], context.last_hidden_state.shape[0]
    if rows != expected:
        raise ValueError(f"the decoder's text has {rows} rows, but its context has {expected}: pass one text for each")


def build_context_arguments(context: ContextOutput) -> dict[str, Tensor | None]:
    """Builds the decoder's arguments for a context."""
    return {"context": context.last_hidden_state, "context_mask": context.mask}
