"""Checks that every row of a batch has something to read."""

from collections.abc import Iterable

import torch
from torch import Tensor

from ..graphs import is_recording_graph


def check_present_rows(present: Tensor, modalities: Iterable[str]) -> None:
    """Raises ValueError if a row has none of the modalities; present: (batch,) bool, True for a row with any of them.

    The values are read on the host: one synchronisation on a GPU. A compiled or exported graph cannot depend on values,
    and checks nothing.
    """
    if is_recording_graph():
        return
    if not bool(present.all()):
        raise ValueError(
            f"row {', '.join(map(str, torch.nonzero(~present).flatten().tolist()))} of the batch has no modality at "
            f"all: every row needs at least one of {', '.join(modalities)}"
        )


def check_ids(ids: object, count: int, table: str) -> None:
    """Raises ValueError for an id outside 0 .. count - 1, with its place; ids: (batch, length), None has none.

    The values are read on the host: one synchronisation on a GPU.
    """
    if not isinstance(ids, Tensor) or not ids.numel():
        return
    wrong = (ids < 0) | (ids >= count)
    if bool(wrong.any()):
        place: list[int] = torch.nonzero(wrong)[0].tolist()
        named = f"row {place[0]}, token {place[-1]}" if len(place) > 1 else f"place {place[0]}"
        wrong_id = ids[tuple(place)].item()
        raise ValueError(
            f"{named}: {wrong_id} is not one of the {count} {table} 0 .. {count - 1}: make the ids by the "
            "model's own tokenizer"
        )


def check_text_rows(attention_mask: object) -> None:
    """Raises ValueError for a row without a token in a 2-D attention mask, (batch, length)."""
    if isinstance(attention_mask, Tensor) and attention_mask.ndim == 2:
        check_present_rows(attention_mask.any(dim=1), ("text",))
