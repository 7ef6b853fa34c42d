"""Checks that every row of a batch has something to read."""

from collections.abc import Iterable

import torch
from torch import Tensor

from .graphs import is_recording_graph


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


def check_text_rows(attention_mask: object) -> None:
    """Raises ValueError for a row without a token in a 2-D attention mask, (batch, length)."""
    if isinstance(attention_mask, Tensor) and attention_mask.ndim == 2:
        check_present_rows(attention_mask.any(dim=1), ("text",))
