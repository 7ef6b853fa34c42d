"""Which rows have which modality: only what is there enters a tower.

A compiled or exported graph cannot depend on values: there all rows enter, and the masks alone say what is absent.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.utils.import_utils import is_torchdynamo_compiling

from ..outputs import TowerOutput


class ItemBatch(NamedTuple):
    """What a tower gets, and where its outputs go.

    inputs: the tower's arguments, holding the `count` present items alone; slots: (batch, items) the number of the item
    that stands there, -1 for none, or None when every row has exactly its own item.
    """

    inputs: dict[str, Any]
    count: int
    slots: Tensor | None = None


def gather_text_rows(**inputs: Tensor | None) -> ItemBatch | None:
    """The rows with text: those with at least one token in a 2-D `attention_mask`."""
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


def gather_images(
    pixel_values: Tensor | None = None, image_present: Tensor | None = None, image_indices: Tensor | None = None
) -> ItemBatch | None:
    """The pictures that are there, as one batch of pictures."""
    if pixel_values is None or image_indices is None:
        return gather_items("pixel_values", pixel_values, image_present, 3)
    if image_indices.ndim != 2 or int(image_indices.max()) >= len(pixel_values):
        shape = tuple(image_indices.shape)
        raise ValueError(f"image_indices {shape} must be (batch, images) below the {len(pixel_values)} pictures")
    return ItemBatch({"pixel_values": pixel_values}, len(pixel_values), image_indices)


def gather_audio(
    input_features: Tensor | None = None,
    input_features_mask: Tensor | None = None,
    input_values: Tensor | None = None,
    input_values_mask: Tensor | None = None,
    audio_present: Tensor | None = None,
    dimensions: int | None = None,
) -> ItemBatch | None:
    """The clips that are there, as one batch of clips; `dimensions` are those of one clip, by the tower that reads it
    (else 2 of features and 1 of samples). A clip whose mask is all 0 is not there."""
    if input_features is not None and input_values is not None:
        raise ValueError("got input_features and input_values: an audio tower reads one of them")
    if input_values is not None:
        return gather_items("input_values", input_values, audio_present, dimensions or 1, input_values_mask)
    return gather_items("input_features", input_features, audio_present, dimensions or 2, input_features_mask)


def gather_videos(
    pixel_values_videos: Tensor | None = None,
    pixel_values_videos_mask: Tensor | None = None,
    video_present: Tensor | None = None,
) -> ItemBatch | None:
    """The videos that are there, as one batch of videos."""
    return gather_items("pixel_values_videos", pixel_values_videos, video_present, 4, pixel_values_videos_mask)


# what one item of a modality is, for error messages
ITEM_SHAPES = {
    "pixel_values": "(batch[, images], channels, height, width)",
    "input_features": "(batch[, clips], mel bins, frames)",
    "input_values": "(batch[, clips], samples) or (batch[, clips], frames, mel bins), as the tower reads them",
    "pixel_values_videos": "(batch[, clips], frames, channels, height, width)",
}
PRESENCE_INPUTS = {
    "pixel_values": "image_present",
    "input_features": "audio_present",
    "input_values": "audio_present",
    "pixel_values_videos": "video_present",
}
# what a tower calls the mask of its items
TOWER_MASKS = {"input_features": "clip_mask", "input_values": "clip_mask", "pixel_values_videos": "frame_mask"}


def gather_items(
    name: str, values: Tensor | None, present: Tensor | None, dimensions: int, mask: Tensor | None = None
) -> ItemBatch | None:
    """Values of (batch[, items], ...), each item of so many dimensions, as one batch of those that are there, with
    their mask, (batch[, items], length), where there is padding in them."""
    if values is None:
        return None
    if values.ndim == dimensions + 1:
        values = values[:, None]
    if values.ndim != dimensions + 2:
        raise ValueError(f"{name} has shape {tuple(values.shape)}, not {ITEM_SHAPES[name]}")
    batch, count = values.shape[:2]
    if (
        present is None and mask is None and count == 1
    ):  # nothing to look up, for which a GPU would have to be waited for
        return ItemBatch({name: values[:, 0]}, batch)
    there = values.new_ones(batch, count, dtype=torch.bool) if present is None else present.bool()
    if there.shape != (batch, count):
        raise ValueError(f"{PRESENCE_INPUTS[name]} has shape {tuple(there.shape)}, not {(batch, count)}")
    given = {name: values}
    if mask is not None:
        given[TOWER_MASKS[name]] = mask = align_item_mask(name, mask, values)
        there = there & mask.any(dim=-1)
    if is_torchdynamo_compiling():
        return ItemBatch({key: value.flatten(0, 1) for key, value in given.items()}, batch * count, _number_all(there))
    if mask is not None and bool(mask[there].all()):
        del given[TOWER_MASKS[name]]
    if count == 1 and bool(there.all()):
        return ItemBatch({key: value[:, 0] for key, value in given.items()}, batch)
    kept = {key: value.flatten(0, 1)[there.flatten()] for key, value in given.items()}
    return ItemBatch(kept, int(there.sum()), _number_present(there.flatten()).view(batch, count))


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


def scatter_items(output: TowerOutput, present: ItemBatch) -> TowerOutput:
    """The items' outputs put where they stand: (batch, items * length, ...); pooled vectors of a row are averaged."""
    slots = present.slots
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
