"""Gathers the present items of a batch for a tower, and scatters the tower's outputs to the rows they belong to.

A compiled or exported graph cannot depend on values: there all rows enter, and the masks alone say what is absent.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.utils.import_utils import is_torchdynamo_compiling

from ...configuration.modalities import MODALITY_TABLE, ItemInput
from ..inputs import MODALITY_INPUTS
from ..outputs import TowerOutput


class ItemBatch(NamedTuple):
    """What a tower gets, and where its outputs go.

    inputs: the tower's arguments, holding the `count` present items alone; slots: (batch, items) the number of the item
    that stands there, -1 for none, or None when every row has exactly its own item.
    """

    inputs: dict[str, Any]
    count: int
    slots: Tensor | None = None

    def select(self, values: Tensor) -> Tensor:
        """Returns those of the values, (batch * items, ...), that belong to items of this batch."""
        return values if self.slots is None or len(values) == self.count else values[self.slots.flatten() >= 0]


def gather_items(modality: str, inputs: Mapping[str, Tensor | None], dimensions: int | None = None) -> ItemBatch | None:
    """Gathers the present items of a modality as one batch: rows of text, images, clips or videos; None where there is
    no input. `dimensions` are those of one item, where its tower says them. An item whose mask is all 0 is absent.

    Raises TypeError for an unknown input; ValueError for two that hold items, or for one of the wrong shape.
    """
    if modality == "text":
        return gather_text_rows(inputs)
    item = find_item_input(modality, inputs)
    if item is None:
        return None
    values: Any = inputs[item.name]
    indices = inputs.get("image_indices")
    if indices is not None:
        return gather_shared_images(values, indices)
    values = add_item_axis(item, values, dimensions or item.dimensions)
    name = MODALITY_TABLE[modality].present_input
    present = inputs.get(name)
    if present is not None and present.shape != values.shape[:2]:
        raise ValueError(f"{name} has shape {tuple(present.shape)}, not {tuple(values.shape[:2])}")
    return gather_present(item, values, present, inputs.get(f"{item.name}_mask"))


def find_item_input(modality: str, inputs: Mapping[str, Tensor | None]) -> ItemInput | None:
    """Finds the input that holds a modality's items, if one is given.

    Raises TypeError for an unknown input, ValueError for two that hold items.
    """
    unknown = [name for name in inputs if name not in MODALITY_INPUTS[modality]]
    if unknown:
        raise TypeError(f"no {modality} tower reads {', '.join(sorted(unknown))}")
    given = [item for item in MODALITY_TABLE[modality].items if inputs.get(item.name) is not None]
    if len(given) > 1:
        names = " and ".join(item.name for item in given)
        raise ValueError(f"got {names}: an {modality} tower reads one of them")
    return given[0] if given else None


def gather_text_rows(inputs: Mapping[str, Tensor | None]) -> ItemBatch | None:
    """Gathers the rows with text: those with at least one token in a 2-D `attention_mask`."""
    tokens = next((inputs[name] for name in ("input_ids", "inputs_embeds") if inputs.get(name) is not None), None)
    if tokens is None:
        return None
    given = {name: value for name, value in inputs.items() if value is not None}
    mask = given.get("attention_mask")
    if mask is None or mask.ndim != 2 or is_torchdynamo_compiling():
        return ItemBatch(given, len(tokens))
    rows = mask.any(dim=1)
    if bool(rows.all()):
        return ItemBatch(given, len(tokens))
    kept = {name: value[rows] if len(value) == len(rows) else value for name, value in given.items()}
    return ItemBatch(kept, int(rows.sum()), _number_present(rows)[:, None])


def gather_shared_images(pixel_values: Tensor, image_indices: Tensor) -> ItemBatch:
    """Takes all images, (images, channels, height, width), which rows name by number: (batch, images), -1 for none."""
    if image_indices.ndim != 2 or int(image_indices.max()) >= len(pixel_values):
        shape = tuple(image_indices.shape)
        raise ValueError(f"image_indices {shape} must be (batch, images) below the {len(pixel_values)} pictures")
    return ItemBatch({"pixel_values": pixel_values}, len(pixel_values), image_indices)


def add_item_axis(item: ItemInput, values: Tensor, dimensions: int) -> Tensor:
    """Returns (batch, items, ...) of values with or without the items; each item has so many dimensions."""
    if values.ndim == dimensions + 1:
        values = values[:, None]
    if values.ndim != dimensions + 2:
        raise ValueError(f"{item.name} has shape {tuple(values.shape)}, not {item.shape}")
    return values


def gather_present(item: ItemInput, values: Tensor, present: Tensor | None, mask: Tensor | None) -> ItemBatch:
    """Gathers the present of the items, (batch, items, ...), with their mask, (batch[, items], length), where there is
    padding in them; present: (batch, items)."""
    batch, count = values.shape[:2]
    if present is None and mask is None and count == 1:  # looking up nothing, a GPU need not be waited for
        return ItemBatch({item.name: values[:, 0]}, batch)
    there = values.new_ones(batch, count, dtype=torch.bool) if present is None else present.bool()
    given = {item.name: values}
    if mask is not None and item.tower_mask is not None:
        given[item.tower_mask] = mask = align_item_mask(item.name, mask, values)
        there = there & mask.any(dim=-1)
    if is_torchdynamo_compiling():
        return ItemBatch({key: value.flatten(0, 1) for key, value in given.items()}, batch * count, _number_all(there))
    if mask is not None and bool(mask[there].all()):
        given = {item.name: values}
    if count == 1 and bool(there.all()):
        return ItemBatch({key: value[:, 0] for key, value in given.items()}, batch)
    found = ItemBatch({}, int(there.sum()), _number_present(there.flatten()).view(batch, count))
    return found._replace(inputs={key: found.select(value.flatten(0, 1)) for key, value in given.items()})


def check_videos(pixel_values_videos: Tensor) -> None:
    """Raises ValueError for a wrong rank, or a video without a frame."""
    if pixel_values_videos.ndim != 5:
        shape = tuple(pixel_values_videos.shape)
        raise ValueError(f"videos have shape {shape}, not (clips, frames, channels, height, width)")
    if not pixel_values_videos.shape[1]:
        raise ValueError("a video has no frames")


def align_item_mask(name: str, mask: Tensor, values: Tensor) -> Tensor:
    """(batch, items, length) of a mask given with or without the items.

    Raises ValueError for one that does not fit the values: (batch, items, ...), `length` among their dimensions.
    """
    mask = mask[:, None] if mask.ndim == 2 else mask
    if mask.ndim != 3 or mask.shape[:2] != values.shape[:2] or mask.shape[2] not in values.shape[2:]:
        raise ValueError(f"{name}_mask has shape {tuple(mask.shape)}, and {name} {tuple(values.shape)}")
    return mask.bool()


def scatter_items(output: TowerOutput, slots: Tensor | None) -> TowerOutput:
    """Puts the items' outputs where they stand: (batch, items * length, ...); pooled vectors of a row are averaged.

    slots: as in `ItemBatch`; an item may stand in any number of rows.
    """
    if slots is None:
        output.item_length = output.mask.shape[1]
        return output
    there = slots >= 0
    number = slots.clamp(min=0)
    tokens = output.last_hidden_state[number] * there[..., None, None]
    mask = output.mask[number] * there[..., None]
    pooled = output.pooler_output
    if pooled is not None:
        count = there.sum(1, keepdim=True).clamp(min=1)
        pooled = (pooled[number] * there[..., None]).sum(1) / count
    return TowerOutput(
        last_hidden_state=tokens.flatten(1, 2),
        mask=mask.flatten(1),
        pooler_output=pooled,
        hidden_states=output.hidden_states,
        attentions=output.attentions,
        item_length=output.mask.shape[1],
    )


def _number_all(present: Tensor) -> Tensor:
    """Every item's own number, -1 where it is absent: nothing is left out (a compiled graph has fixed shapes)."""
    numbers = torch.arange(present.numel(), device=present.device).view_as(present)
    return torch.where(present, numbers, -1)


def _number_present(present: Tensor) -> Tensor:
    """0, 1, 2, ... where True, -1 where False."""
    return torch.where(present, present.long().cumsum(0) - 1, -1)
