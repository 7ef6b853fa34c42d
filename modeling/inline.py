"""Images inside a decoder's text: their tokens take the place of the image tokens (LLaVA, Liu et al. 2023,
https://arxiv.org/abs/2304.08485, section 4.1)."""

from typing import NamedTuple

import torch
from torch import Tensor

from .fusion import Stream


class Inline(NamedTuple):
    """embeds: (batch, length, width), images put in; blocks: (batch, length), the number of the image that a token
    belongs to in its row, -1 for text."""

    embeds: Tensor
    blocks: Tensor


def put_images(embeds: Tensor, places: Tensor, images: Stream, images_per_row: int) -> Inline:
    """Image tokens put where they belong, in their order.

    embeds: (batch, length, width) of the text; places: (batch, length) bool, True at image tokens; images: (batch,
    images * tokens, width) and its mask.
    Raises ValueError for a row with another number of places than its images have tokens.
    """
    wanted, given = places.sum(1), images.mask.sum(1)
    if not torch.equal(wanted, given):
        row = int((wanted != given).nonzero()[0])
        each = images.mask.shape[1] // max(images_per_row, 1)
        raise ValueError(
            f"row {row} has {int(wanted[row])} image tokens in its text, but its images have {int(given[row])} "
            f"({each} an image): the processor puts one for each when the text has an image token for every image"
        )
    embeds = embeds.masked_scatter(places[..., None], images.tokens[images.mask].to(embeds.dtype))
    each = max(images.mask.shape[1] // max(images_per_row, 1), 1)
    return Inline(embeds, torch.where(places, (places.cumsum(1) - 1) // each, -1))
