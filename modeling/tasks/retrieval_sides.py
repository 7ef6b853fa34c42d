"""The sides of retrieval: the inputs of each side, groups of equal rows, and hard negatives."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.utils import logging

from ...configuration import DOCUMENT, NEGATIVE, PlaitTextConfig
from ...configuration.modalities import MODALITY_TABLE
from ..core.pooling import pool_output
from ..core.rows import check_present_rows
from ..graphs import is_recording_graph
from ..inputs import split_by_modality
from ..losses.contrastive import NO_GROUP, fingerprint
from ..outputs import TowerOutput

logger = logging.get_logger(__name__)
# inputs that tell rows of a modality apart
CONTENT_INPUTS = tuple(item.name for row in MODALITY_TABLE.values() for item in row.items)


class SideEmbeddings(NamedTuple):
    """The embeddings of one side of a batch. vectors: (batch, width), of unit length; present: (batch,) bool; groups:
    (batch,), an id that rows of equal content share, -1 if not computed; output: of the tower, if its states are
    requested. For hard negatives, (batch, negatives) replaces (batch,) in each tensor."""

    vectors: Tensor
    present: Tensor
    groups: Tensor
    output: TowerOutput | None = None


def warn_short_texts(config: Any, input_ids: Tensor | None) -> None:
    """Warns if a tower that pools its last position (SigLIP) reads texts that are shorter."""
    if input_ids is None or not isinstance(config, PlaitTextConfig) or config.pooling != "final":
        return
    length, positions = input_ids.shape[1], config.max_position_embeddings
    if length < positions and not is_recording_graph():
        logger.warning_once(
            f"texts of {length} tokens: this tower was trained on texts padded to {positions} tokens, and pools the "
            f"last one; pad them to that length, with padding='max_length', max_length={positions}"
        )


def split_negatives(inputs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Splits the inputs into those of the sides, and those of hard negatives without the prefix "negative_".

    Raises ValueError for hard negatives of another shape than (batch, negatives, length).
    """
    start = f"{NEGATIVE}_"
    given = {name: value for name, value in inputs.items() if name.startswith(start) and value is not None}
    for name, value in given.items():
        if value.ndim != 3 or f"{start}input_ids" not in given:
            raise ValueError(
                f"{name} has shape {tuple(value.shape)}: hard negatives are {start}input_ids (batch, negatives, "
                "length), and masks of that shape"
            )
    rest = {name: value for name, value in inputs.items() if not name.startswith(start)}
    return rest, {name.removeprefix(start): value for name, value in given.items()}


def build_negative_arguments(embedded: SideEmbeddings, groups: Tensor | None) -> dict[str, Tensor]:
    """Builds the loss arguments of the present hard negatives: their vectors, and their group ids (second side)."""
    numbers = embedded.groups if groups is None else groups
    kinds = torch.stack((torch.full_like(numbers, NO_GROUP), numbers), dim=-1)
    return {"negatives": embedded.vectors[embedded.present], "negative_groups": kinds[embedded.present]}


def split_by_side(inputs: Mapping[str, Any], sides: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Splits the inputs by side.

    Raises ValueError for inputs that no side reads.
    """
    start = f"{DOCUMENT}_"
    parts = split_by_modality({name: value for name, value in inputs.items() if not name.startswith(start)})
    documents = {name.removeprefix(start): value for name, value in inputs.items() if name.startswith(start)}
    if DOCUMENT in sides:
        parts[DOCUMENT] = split_by_modality(documents)[sides[DOCUMENT]]
    read = {side: parts.get(side, {}) for side in sides}
    spare = {name for side, part in parts.items() if side not in read for name in part if part[name] is not None}
    spare |= set() if DOCUMENT in sides else {start + name for name in documents if documents[name] is not None}
    if spare:
        raise ValueError(
            f"got {', '.join(sorted(spare))}, which no side of this model reads ({', '.join(sides)}): leave them out"
        )
    return read


def compute_content_groups(modality: str, inputs: Mapping[str, Any], output: TowerOutput) -> Tensor:
    """Returns group ids (batch,): rows of equal content share an id."""
    ids, mask, indices = (inputs.get(name) for name in ("input_ids", "attention_mask", "image_indices"))
    if modality == "text" and ids is not None:
        return fingerprint(ids + 1 if mask is None or mask.ndim != 2 else (ids + 1) * mask)
    if modality == "image" and inputs.get("pixel_values") is not None and indices is not None:
        numbers = fingerprint(inputs["pixel_values"])
        return fingerprint(torch.where(indices >= 0, numbers[indices.clamp(min=0)], -1))
    values = next((inputs[name] for name in CONTENT_INPUTS if inputs.get(name) is not None), None)
    return fingerprint(pool_output(output) if values is None else values)


def build_side_outputs(sides: Mapping[str, SideEmbeddings]) -> dict[str, Any]:
    """Builds the fields of the model output: the vectors of each side, and the tower outputs that were kept."""
    own = {side: embedded for side, embedded in sides.items() if side != NEGATIVE}
    kept = {side: embedded.output for side, embedded in own.items() if embedded.output is not None}
    return {f"{side}_embeds": own[side].vectors for side in own} | {"encoder_outputs": kept or None}


def check_present_sides(sides: Mapping[str, SideEmbeddings]) -> None:
    """Raises ValueError for a row without any side; if sides have different numbers of rows, which then do not belong
    together, for a row of any side that has nothing to read."""
    present = {side: embedded.present for side, embedded in sides.items() if side != NEGATIVE}
    first, *others = present.values()
    if all(rows.shape[0] == first.shape[0] for rows in others):
        check_present_rows(torch.stack(list(present.values())).any(dim=0), present)
        return
    for side, rows in present.items():
        check_present_rows(rows, (side,))


def check_side_rows(sides: Mapping[str, SideEmbeddings], groups: Tensor | None, negative_groups: Tensor | None) -> None:
    """Raises ValueError for sides with different numbers of rows, or groups of another shape than the sides."""
    counts = {side: len(embedded.vectors) for side, embedded in sides.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(
            f"a loss needs pairs, row by row, but the sides have {counts} rows: pass the same number of each"
        )
    expected = (next(iter(counts.values())), len(counts.keys() - {NEGATIVE}))
    if groups is not None and groups.shape != expected:
        raise ValueError(f"groups has shape {tuple(groups.shape)}, expected (batch, sides) = {expected}")
    if NEGATIVE in sides and (groups is None) != (negative_groups is None):
        raise ValueError("groups and negative_groups share one numbering of the texts: pass both, or none of them")
    if NEGATIVE in sides and negative_groups is not None and negative_groups.shape != sides[NEGATIVE].present.shape:
        shapes = f"{tuple(negative_groups.shape)}, expected (batch, negatives) = {tuple(sides[NEGATIVE].present.shape)}"
        raise ValueError(f"negative_groups has shape {shapes}")
