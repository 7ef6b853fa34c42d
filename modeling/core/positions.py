"""The positions of a text's tokens: counted over real tokens, and where the rows of a flattened batch begin."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..graphs import is_recording_graph


def count_positions(mask: Tensor | Mapping[str, Tensor] | None, length: int, past: int = 0) -> Tensor | None:
    """Counts the positions of the last `length` tokens over real tokens, (batch, length), so that padding anywhere in a
    row does not shift them; padding gets its index. None if all positions are the indices: without a 2-D mask of all
    `past + length` tokens, or with padding only at the end of rows (read on the host, but for a compiled graph)."""
    if not isinstance(mask, Tensor) or mask.ndim != 2 or mask.shape[1] != past + length:
        return None
    if is_padded_behind(mask):
        return None
    index = torch.arange(past + length, device=mask.device)
    return torch.where(mask.bool(), mask.bool().cumsum(1) - 1, index)[:, past:]


def is_padded_behind(mask: Tensor) -> bool:
    """Returns whether the rows of a mask, (batch, length), have padding only at their end, or none; always False in a
    compiled graph, which cannot depend on it. Reads the mask on the host."""
    real = mask.bool()
    return not is_recording_graph() and bool((real[:, 1:] <= real[:, :-1]).all())


def is_unbroken(mask: Tensor) -> bool:
    """Returns whether the real tokens of each row of a mask, (batch, length), stand without padding between them: their
    distances are then those of their indices. False in a compiled graph, which cannot depend on it."""
    real = mask.bool()
    begins = (real[:, 1:] & ~real[:, :-1]).sum(1) + real[:, 0]
    return not is_recording_graph() and bool((begins <= 1).all())


def flatten_positions(inputs: Mapping[str, Any]) -> Tensor | None:
    """Returns the positions, (1, length), of flattened rows by `cu_seq_lens_q`, (rows + 1,) offsets, or `seq_idx`, (1,
    length) row numbers; `position_ids` if neither is given.

    Raises ValueError for offsets that do not cover the text, a text of several rows, or `position_ids` that do not
    begin a row where these do.
    """
    ends, numbers, positions = (inputs.get(name) for name in ("cu_seq_lens_q", "seq_idx", "position_ids"))
    if ends is None and numbers is None:
        return positions
    text = inputs["input_ids"] if inputs.get("input_ids") is not None else inputs["inputs_embeds"]
    index = torch.arange(text.shape[1], device=text.device)
    if len(text) != 1 or (ends is not None and (int(ends[0]), int(ends[-1])) != (0, len(index))):
        given = f"offsets {ends.tolist()}" if ends is not None else "row numbers"
        raise ValueError(
            f"cu_seq_lens_q or seq_idx: {given} for a text of {tuple(text.shape[:2])}: pass one row that holds all "
            "flattened rows, and offsets from 0 to its length"
        )
    begins = torch.zeros_like(index, dtype=torch.bool)
    if ends is not None:
        begins[ends[:-1][ends[:-1] < ends[1:]].to(index)] = True
    elif numbers is not None:
        begins[0], begins[1:] = True, numbers[0, 1:] != numbers[0, :-1]
    counted = (index - torch.where(begins, index, 0).cummax(0).values)[None]
    if positions is not None and not torch.equal(find_row_starts(positions), find_row_starts(counted)):
        raise ValueError(
            "position_ids begin a flattened row where cu_seq_lens_q or seq_idx does not (or the reverse): leave "
            "position_ids out"
        )
    return counted if positions is None else positions


def find_row_starts(position_ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """Returns (batch, length), True where a flattened row begins behind another one: where a position does not follow
    the one before it; with a mask of (batch, length), where a real token's does not exceed the last real token's."""
    starts = torch.zeros_like(position_ids, dtype=torch.bool)
    if mask is None:
        starts[:, 1:] = position_ids.diff(dim=1) != 1
        return starts
    real, index = mask.bool(), torch.arange(mask.shape[1], device=mask.device)
    position_ids = position_ids.expand(mask.shape)
    before = torch.where(real, index, -1).cummax(1).values[:, :-1]
    earlier = position_ids.gather(1, before.clamp(min=0))
    return torch.nn.functional.pad(real[:, 1:] & (before >= 0) & (position_ids[:, 1:] <= earlier), (1, 0))


def resolve_flattened_rows(inputs: Mapping[str, Any]) -> tuple[dict[str, Any], Tensor | None]:
    """Returns the arguments of a causal text that flattened rows change, and where a row begins behind another one,
    (batch, length), None if no row does: `position_ids` by `flatten_positions`, and no `attention_mask`, because
    positions then separate the rows (see `build_self_masks`) and causal attention excludes padding behind them."""
    positions, mask, cache = flatten_positions(inputs), inputs.get("attention_mask"), inputs.get("past_key_values")
    begun = cache is not None and not is_recording_graph() and cache.get_seq_length() > 0
    if positions is None or positions.shape[-1] < 2 or begun or is_recording_graph():
        return {"position_ids": positions}, None
    if mask is not None and (not isinstance(mask, Tensor) or mask.shape[1:] != positions.shape[1:]):
        return {"position_ids": positions}, None
    starts = find_row_starts(positions, mask)
    if not bool(starts.any()):
        return {"position_ids": positions}, None
    return {"position_ids": positions, "attention_mask": None}, starts
