"""The rows of a text as wrapped families expect them: one text a row, padded at its end. Many families give tokens
their index as position, or take no positions."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.positions import find_row_starts, is_padded_behind
from ..graphs import is_recording_graph
from ..outputs import TowerOutput

TEXT_TENSORS = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds")


class RowLayout(NamedTuple):
    """Where the tokens of (batch, length) stand in other rows. take: (rows, longest), the flat index of the token at
    each place; back: (batch, length), the flat index of the place of each token; mask: (rows, longest), True for real
    tokens."""

    take: Tensor
    back: Tensor
    mask: Tensor

    def arrange(self, x: Tensor) -> Tensor:
        """Moves x: (batch, length, ...) to (rows, longest, ...)."""
        return x.expand(len(self.back), *x.shape[1:]).flatten(0, 1)[self.take]

    def restore(self, x: Tensor) -> Tensor:
        """Moves x: (rows, longest, ...) back to (batch, length, ...); another length is left as it is."""
        return x.flatten(0, 1)[self.back] if x.shape[1] == self.take.shape[1] else x

    def restore_attention(self, weights: Tensor) -> Tensor:
        """Moves attention weights, (rows, heads, longest, longest), back to (batch, heads, length, length)."""
        if weights.shape[-2:] != (self.take.shape[1],) * 2:
            return weights
        row, column = self.back // self.take.shape[1], self.back % self.take.shape[1]
        of_queries = weights[row, :, column].transpose(1, 2)  # (batch, heads, length, longest)
        found = of_queries.gather(3, column[:, None, None].expand(*of_queries.shape[:3], -1))
        return found * (row[:, None, :, None] == row[:, None, None])


def align_rows(mask: Tensor) -> RowLayout:
    """Builds the layout with the real tokens of each row first, in their order; mask: (batch, length)."""
    order = mask.bool().logical_not().int().argsort(dim=1, stable=True)
    offsets = torch.arange(mask.shape[0], device=mask.device)[:, None] * mask.shape[1]
    return RowLayout(order + offsets, order.argsort(dim=1) + offsets, mask.bool().gather(1, order))


def split_rows(starts: Tensor) -> RowLayout:
    """Builds the layout with a row for each flattened one; starts: (batch, length), True where one begins behind
    another."""
    begins = starts.clone()
    begins[:, 0] = True
    row = begins.flatten().cumsum(0) - 1
    counts, first = row.bincount(), begins.flatten().nonzero()[:, 0]
    columns = torch.arange(int(counts.max()), device=starts.device)
    mask = columns < counts[:, None]
    place = torch.arange(len(row), device=starts.device) - first[row] + row * len(columns)
    return RowLayout((first[:, None] + columns).clamp(max=len(row) - 1), place.view(starts.shape), mask)


def find_row_layout(inputs: Mapping[str, Any]) -> RowLayout | None:
    """Returns the layout in which a text is computed; None if its rows are as they should be, or it continues a cache.

    Raises ValueError for flattened rows with a KV cache or a context.
    """
    mask, positions, cache = (inputs.get(name) for name in ("attention_mask", "position_ids", "past_key_values"))
    if positions is None:
        if cache is not None or not isinstance(mask, Tensor) or mask.ndim != 2 or is_padded_behind(mask):
            return None
        return align_rows(mask)
    if mask is not None or positions.shape[1] < 2 or is_recording_graph():
        return None
    starts = find_row_starts(positions)
    if not bool(starts.any()):
        return None
    if cache is not None or inputs.get("encoder_hidden_states") is not None:
        raise ValueError(
            "a wrapped decoder computes flattened rows without a KV cache and without a context: pass use_cache=False, "
            "or pad the rows"
        )
    return split_rows(starts)


def arrange_text(inputs: Mapping[str, Any], layout: RowLayout) -> dict[str, Any]:
    """Returns the inputs with their text in the layout, and its mask."""
    moved = {name: layout.arrange(inputs[name]) for name in TEXT_TENSORS if inputs.get(name) is not None}
    return {**inputs, **moved, "attention_mask": layout.mask.long()}


def restore_output(output: TowerOutput, layout: RowLayout) -> TowerOutput:
    """Returns the output of a text in the layout for the rows as they were; the pooled vector of flattened rows is that
    of the last one."""
    pooled, states = output.pooler_output, output.hidden_states
    return TowerOutput(
        last_hidden_state=layout.restore(output.last_hidden_state),
        mask=layout.restore(output.mask),
        pooler_output=None if pooled is None else pooled[layout.back[:, -1] // layout.take.shape[1]],
        hidden_states=None if states is None else tuple(x if x is None else layout.restore(x) for x in states),
        attentions=None if output.attentions is None else tuple(map(layout.restore_attention, output.attentions)),
        past_key_values=output.past_key_values,
    )
