"""Gathers the present items of a batch for a tower, and scatters the tower's outputs to the rows they belong to.

A compiled or exported graph cannot depend on values: then all rows enter the tower, and masks mark the absent items.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from ...configuration.modalities import MODALITY_TABLE, ItemInput
from ..graphs import is_recording_graph
from ..inputs import MODALITY_INPUTS
from ..outputs import TowerOutput


class ItemBatch(NamedTuple):
    """The inputs of a tower, and the rows that its outputs belong to.

    inputs: the tower's arguments, with only the `count` present items; slots: (batch, items), the index of each item in
    the inputs, -1 for an absent item; None when row i holds exactly item i.
    """

    inputs: dict[str, Any]
    count: int
    slots: Tensor | None = None

    def select(self, values: Tensor) -> Tensor:
        """Returns the values, (batch * items, ...), of the present items: (count, ...)."""
        return values if self.slots is None or values.shape[0] == self.count else values[self.slots.flatten() >= 0]


def gather_items(modality: str, inputs: Mapping[str, Tensor | None], dimensions: int | None = None) -> ItemBatch | None:
    """Gathers the present items of a modality (rows of text, images, audio clips or videos) as one batch; returns None
    if there is no input. An item whose mask is all 0 is absent.

    dimensions: the number of dimensions of one item, if it depends on the tower.
    Raises TypeError for an unknown input; ValueError for two inputs that hold items, or one of the wrong shape.
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
    """Finds the input that holds a modality's items; None if none is given.

    Raises TypeError for an unknown input, ValueError for two inputs that hold items.
    """
    unknown = [name for name in inputs if name not in MODALITY_INPUTS[modality]]
    if unknown:
        raise TypeError(f"no {modality} tower reads {', '.join(sorted(unknown))}")
    given = [item for item in MODALITY_TABLE[modality].items if inputs.get(item.name) is not None]
    if len(given) > 1:
        names = " and ".join(item.name for item in given)
        raise ValueError(f"got {names}: the {modality} tower reads only one of them, leave the other out")
    return given[0] if given else None


def gather_text_rows(inputs: Mapping[str, Tensor | None]) -> ItemBatch | None:
    """Gathers the rows with at least one token in a 2-D `attention_mask`; returns None without ids and embeddings."""
    tokens = next((inputs[name] for name in ("input_ids", "inputs_embeds") if inputs.get(name) is not None), None)
    if tokens is None:
        return None
    given = {name: value for name, value in inputs.items() if value is not None}
    mask = given.get("attention_mask")
    if mask is None or mask.ndim != 2 or is_recording_graph():
        return ItemBatch(given, tokens.shape[0])
    rows = mask.any(dim=1)
    if bool(rows.all()):
        return ItemBatch(given, tokens.shape[0])
    kept = {name: value[rows] if len(value) == len(rows) else value for name, value in given.items()}
    return ItemBatch(kept, int(rows.sum()), _number_present(rows)[:, None])


def gather_shared_images(pixel_values: Tensor, image_indices: Tensor) -> ItemBatch:
    """Keeps all images, (images, channels, height, width), to which rows refer by index: image_indices (batch, images),
    -1 for none. Raises ValueError for indices of the wrong rank, or beyond the images."""
    if image_indices.ndim != 2 or not (is_recording_graph() or int(image_indices.max()) < len(pixel_values)):
        shape = tuple(image_indices.shape)
        raise ValueError(
            f"image_indices of shape {shape} must be (batch, images), with indices below the {len(pixel_values)} images"
        )
    return ItemBatch({"pixel_values": pixel_values}, pixel_values.shape[0], image_indices)


def add_item_axis(item: ItemInput, values: Tensor, dimensions: int) -> Tensor:
    """Adds the axis of items if it is absent: (batch, items, ...), each item with `dimensions` dimensions."""
    if values.ndim == dimensions + 1:
        values = values[:, None]
    if values.ndim != dimensions + 2:
        raise ValueError(f"{item.name} has shape {tuple(values.shape)}, not {item.shape}")
    return values


def gather_present(item: ItemInput, values: Tensor, present: Tensor | None, mask: Tensor | None) -> ItemBatch:
    """Gathers the present items of values, (batch, items, ...), and their mask if any of them has padding.

    present: (batch, items); mask: (batch[, items], length), 0 in an item's padding.
    """
    batch, count = values.shape[:2]
    if present is None and mask is None and count == 1:  # nothing to look up: no synchronisation with the GPU
        return ItemBatch({item.name: values[:, 0]}, batch)
    is_present = values.new_ones(batch, count, dtype=torch.bool) if present is None else present.bool()
    given = {item.name: values}
    if mask is not None and item.tower_mask is not None:
        given[item.tower_mask] = mask = align_item_mask(item.name, mask, values)
        is_present = is_present & mask.any(dim=-1)
    if is_recording_graph():
        return ItemBatch(
            {key: value.flatten(0, 1) for key, value in given.items()}, batch * count, _number_all(is_present)
        )
    if mask is not None and bool(mask[is_present].all()):
        given = {item.name: values}
    if count == 1 and bool(is_present.all()):
        return ItemBatch({key: value[:, 0] for key, value in given.items()}, batch)
    found = ItemBatch({}, int(is_present.sum()), _number_present(is_present.flatten()).view(batch, count))
    return found._replace(inputs={key: found.select(value.flatten(0, 1)) for key, value in given.items()})


def check_videos(pixel_values_videos: Tensor) -> None:
    """Raises ValueError for a wrong rank, or videos without frames."""
    if pixel_values_videos.ndim != 5:
        shape = tuple(pixel_values_videos.shape)
        raise ValueError(f"videos have shape {shape}, not (clips, frames, channels, height, width)")
    if not pixel_values_videos.shape[1]:
        raise ValueError("a video has no frames: pass at least one, or mark it as absent in video_present")


def align_item_mask(name: str, mask: Tensor, values: Tensor) -> Tensor:
    """Returns a mask given with or without the axis of items as (batch, items, length).

    Raises ValueError for a mask that does not fit the values, (batch, items, ...), with `length` as one dimension.
    """
    mask = mask[:, None] if mask.ndim == 2 else mask
    if mask.ndim != 3 or mask.shape[:2] != values.shape[:2] or mask.shape[2] not in values.shape[2:]:
        raise ValueError(f"{name}_mask has shape {tuple(mask.shape)}, which does not fit {name} {tuple(values.shape)}")
    return mask.bool()


def scatter_items(output: TowerOutput, slots: Tensor | None) -> TowerOutput:
    """Scatters the items' outputs to their rows, as (batch, items * length, ...); averages the pooled vectors of a row.

    slots: as in `ItemBatch`; an item may belong to any number of rows.
    """
    if slots is None:
        output.item_length = output.mask.shape[1]
        return output
    is_present = slots >= 0
    number = slots.clamp(min=0)
    tokens = output.last_hidden_state[number] * is_present[..., None, None]
    mask = output.mask[number] * is_present[..., None]
    pooled = output.pooler_output
    if pooled is not None:
        count = is_present.sum(1, keepdim=True).clamp(min=1)
        pooled = (pooled[number] * is_present[..., None]).sum(1) / count
    return TowerOutput(
        last_hidden_state=tokens.flatten(1, 2),
        mask=mask.flatten(1),
        pooler_output=pooled,
        hidden_states=output.hidden_states,
        attentions=output.attentions,
        item_length=output.mask.shape[1],
    )


def build_blank_item(
    modality: str, inputs: Mapping[str, Tensor | None], dimensions: int | None = None
) -> tuple[dict[str, Any], int]:
    """Returns the inputs of one item of zeros, as the first of a modality's inputs is shaped, and the number of rows.

    dimensions: as in `gather_items`.
    """
    if modality == "text":
        rows = {name: value[:1, :1] for name, value in inputs.items() if value is not None and value.ndim >= 2}
        count = next(len(value) for value in inputs.values() if value is not None)
        return {name: torch.ones_like(value) if "mask" in name else value for name, value in rows.items()}, count
    item = find_item_input(modality, inputs)
    if item is None:
        raise ValueError(f"no {modality} in {', '.join(inputs)}: pass its inputs")
    values = add_item_axis(item, cast("Tensor", inputs[item.name]), dimensions or item.dimensions)
    return {item.name: torch.zeros_like(values[:1, 0])}, len(values)


def _number_all(present: Tensor) -> Tensor:
    """Returns every item's index among all items, -1 if it is absent: a compiled graph has fixed shapes."""
    numbers = torch.arange(present.shape[0] * present.shape[1], device=present.device).view_as(present)
    return torch.where(present, numbers, -1)


def _number_present(present: Tensor) -> Tensor:
    """Returns every item's index among the present ones, -1 if it is absent."""
    return torch.where(present, present.long().cumsum(0) - 1, -1)
