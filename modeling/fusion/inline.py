"""Images inside a decoder's text: an image's embeddings replace its placeholder tokens (LLaVA, Liu et al. 2023,
https://arxiv.org/abs/2304.08485, section 4.1)."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..graphs import is_recording_graph
from .base import Stream


class InlineEmbeddings(NamedTuple):
    """The embeddings of a text with its images. embeds: (batch, length, width); blocks: (batch, length), the index in
    its row of the image that a token belongs to, -1 for text."""

    embeds: Tensor
    blocks: Tensor


def insert_image_tokens(embeds: Tensor, places: Tensor, images: Stream, images_per_row: int) -> InlineEmbeddings:
    """Replaces the embeddings of the text's image tokens by those of the images, in their order.

    embeds: (batch, length, width) of the text; places: (batch, length) bool, True at image tokens; images: (batch,
    images * tokens, width) and its mask.
    Raises ValueError for a row whose number of image tokens is not that of its images' embeddings.
    """
    each = max(images.mask.shape[1] // max(images_per_row, 1), 1)
    check_image_places(places, images.mask, each)
    return place_image_tokens(embeds, places, images, each)


def place_image_tokens(embeds: Tensor, places: Tensor, images: Stream, each: int) -> InlineEmbeddings:
    """Replaces the embeddings of image tokens as `insert_image_tokens`, of images of `each` tokens, by no check."""
    number = places.cumsum(1) - 1  # index of a place in its row; a row's images have the same order
    order = torch.arange(images.mask.shape[1], 0, -1, device=images.mask.device)
    first = torch.where(images.mask, order, -order).argsort(dim=1, descending=True)  # stable: no number is twice there
    chosen = first.gather(1, number.clamp(0, first.shape[1] - 1))
    tokens = images.tokens.gather(1, chosen[..., None].expand(-1, -1, images.tokens.shape[-1]))
    embeds = torch.where(places[..., None], tokens.to(embeds.dtype), embeds)
    return InlineEmbeddings(embeds, torch.where(places, number // each, -1))


def check_image_places(places: Tensor, present: Tensor, each: int) -> None:
    """Raises ValueError for a row whose image tokens and embeddings differ in number; `each` are those of one image.

    The numbers are read on the host: one synchronisation a prompt on a GPU.
    """
    if is_recording_graph():  # a compiled or exported graph cannot depend on values
        return
    wanted, given = places.sum(1), present.sum(1)
    if not torch.equal(wanted, given):
        row = int((wanted != given).nonzero()[0])
        raise ValueError(
            f"row {row} has {int(wanted[row])} image tokens in its text, but its images have {int(given[row])} "
            f"({each} for each image): the processor inserts the right number if the text has one image token for "
            "every image, its num_image_tokens is the model's, and its image_token_id is the model's "
            "config.image_token_id (model.set_image_token_id)"
        )
