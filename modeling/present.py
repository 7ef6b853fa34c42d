"""Which rows have which modality: only what is there enters a tower.

A compiled or exported graph cannot depend on values: there all rows enter, and the masks alone say what is absent.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.utils.import_utils import is_torchdynamo_compiling

from .outputs import TowerOutput


class Present(NamedTuple):
    """What a tower gets, and where its outputs go.

    inputs: the tower's arguments, holding the `count` present items alone; slots: (batch, items) the number of the item
    that stands there, -1 for none, or None when every row has exactly its own item.
    """

    inputs: dict[str, Any]
    count: int
    slots: Tensor | None = None


def text_rows(**inputs: Tensor | None) -> Present | None:
    """The rows with text: those with at least one token in a 2-D `attention_mask`."""
    tokens = next((inputs[name] for name in ("input_ids", "inputs_embeds") if inputs.get(name) is not None), None)
    if tokens is None:
        return None
    given = {name: value for name, value in inputs.items() if value is not None}
    mask = given.get("attention_mask")
    if mask is None or mask.ndim != 2 or is_torchdynamo_compiling():
        return Present(given, len(tokens))
    rows = mask.any(dim=1)
    if bool(rows.all()):
        return Present(given, len(tokens))
    kept = {name: value[rows] if len(value) == len(rows) else value for name, value in given.items()}
    return Present(kept, int(rows.sum()), _numbered(rows)[:, None])


def image_items(
    pixel_values: Tensor | None = None, image_present: Tensor | None = None, image_indices: Tensor | None = None
) -> Present | None:
    """The pictures that are there, as one batch of pictures."""
    if pixel_values is None:
        return None
    if image_indices is not None:
        if image_indices.ndim != 2 or int(image_indices.max()) >= len(pixel_values):
            shape = tuple(image_indices.shape)
            raise ValueError(f"image_indices {shape} must be (batch, images) below the {len(pixel_values)} pictures")
        return Present({"pixel_values": pixel_values}, len(pixel_values), image_indices)
    if pixel_values.ndim == 4:
        pixel_values = pixel_values[:, None]
    if pixel_values.ndim != 5:
        shape = tuple(pixel_values.shape)
        raise ValueError(f"pixel_values has shape {shape}, not (batch[, images], channels, height, width)")
    batch, images = pixel_values.shape[:2]
    present = pixel_values.new_ones(batch, images, dtype=torch.bool) if image_present is None else image_present.bool()
    if present.shape != (batch, images):
        raise ValueError(f"image_present has shape {tuple(present.shape)}, not {(batch, images)}")
    if is_torchdynamo_compiling():
        return Present({"pixel_values": pixel_values.flatten(0, 1)}, batch * images, _in_place(present))
    if images == 1 and bool(present.all()):
        return Present({"pixel_values": pixel_values[:, 0]}, batch)
    kept = pixel_values.flatten(0, 1)[present.flatten()]
    return Present({"pixel_values": kept}, len(kept), _numbered(present.flatten()).view(batch, images))


def scatter_rows(output: TowerOutput, present: Present) -> TowerOutput:
    """The items' outputs put where they stand: (batch, items * length, ...); pooled vectors of a row are averaged."""
    slots = present.slots
    if slots is None:
        return output
    there = slots >= 0
    number = slots.clamp(min=0)
    tokens = output.last_hidden_state[number] * there[..., None, None]
    mask = output.mask[number] * there[..., None]
    pooled = output.pooler_output
    if pooled is not None:
        count = there.sum(1, keepdim=True).clamp(min=1)
        pooled = (pooled[number] * there[..., None]).sum(1) / count
    return TowerOutput(tokens.flatten(1, 2), mask.flatten(1), pooled, output.hidden_states, output.attentions)


def _in_place(present: Tensor) -> Tensor:
    """Every item's own number, -1 where it is absent: nothing is left out (a compiled graph has fixed shapes)."""
    numbers = torch.arange(present.numel(), device=present.device).view_as(present)
    return torch.where(present, numbers, -1)


def _numbered(present: Tensor) -> Tensor:
    """0, 1, 2, ... where True, -1 where False."""
    return torch.where(present, present.long().cumsum(0) - 1, -1)
