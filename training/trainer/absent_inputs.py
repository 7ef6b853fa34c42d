"""Batches of sharded training: a tower is run by all processes together, so that each gets inputs of all modalities."""

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather
from torch import Tensor

from ...configuration.modalities import MODALITIES, MODALITY_TABLE
from ...modeling.inputs import MODALITY_INPUTS
from ...modeling.towers.items import find_item_input


def share_modalities(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a batch's inputs with one absent item of each modality that only batches of other processes have, whose
    shape one of these tells. Every process has to call it for each of its batches, at the same time."""
    own = {modality: select_inputs(inputs, modality) for modality in MODALITIES}
    device = next((value.device for value in inputs.values() if isinstance(value, Tensor)), None)
    flags = torch.tensor([[bool(own[modality]) for modality in MODALITIES]], device=device)
    everyone: Tensor = gather(flags)  # pyright: ignore[reportAssignmentType]
    completed = dict(inputs)
    for number, modality in enumerate(MODALITIES):
        column = everyone[:, number]
        if bool(column.any()) and not bool(column.all()):
            source = int(column.nonzero()[0])
            shape = describe_item(modality, own[modality]) if PartialState().process_index == source else None
            described: Any = broadcast_object_list([shape], from_process=source)[0]
            if not own[modality]:
                completed |= build_absent(modality, described, count_batch_rows(inputs), device)
    return completed


def select_inputs(inputs: Mapping[str, Any], modality: str) -> dict[str, Tensor]:
    """Returns the tensors of a modality among a batch's inputs."""
    names = MODALITY_INPUTS[modality]
    return {name: inputs[name] for name in names if isinstance(inputs.get(name), Tensor)}


def describe_item(modality: str, own: Mapping[str, Tensor]) -> tuple[str, tuple[int, ...], torch.dtype]:
    """Returns the name, the shape and the type of a batch of one absent item: of text one token."""
    if modality == "text":
        return "input_ids", (1,), torch.long
    item = find_item_input(modality, own)
    if item is None:
        raise ValueError(f"{', '.join(own)} hold no {modality}: pass its items")
    values = own[item.name]
    return item.name, tuple(values.shape[1:]), values.dtype


def build_absent(
    modality: str, described: tuple[str, tuple[int, ...], torch.dtype], rows: int, device: Any
) -> dict[str, Tensor]:
    """Builds the inputs of a modality that every row lacks."""
    name, shape, dtype = described
    if modality == "text":
        ids = torch.zeros(rows, *shape, dtype=dtype, device=device)
        return {name: ids, "attention_mask": torch.zeros_like(ids)}
    if name == "pixel_values" and len(shape) == 3:  # images that rows share
        indices = torch.full((rows, 1), -1, device=device)
        return {name: torch.zeros(1, *shape, dtype=dtype, device=device), "image_indices": indices}
    present = torch.zeros(rows, shape[0], dtype=torch.bool, device=device)
    return {
        name: torch.zeros(rows, *shape, dtype=dtype, device=device),
        str(MODALITY_TABLE[modality].present_input): present,
    }


def count_batch_rows(inputs: Mapping[str, Any]) -> int:
    """Returns the number of rows of a batch: that of its labels, of the decoder's texts, or of any modality."""
    names = ("labels", "decoder_input_ids", "image_indices")
    names += tuple(name for modality in MODALITIES for name in MODALITY_INPUTS[modality])
    return next(len(inputs[name]) for name in names if isinstance(inputs.get(name), Tensor))
