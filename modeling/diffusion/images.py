"""Images between Pillow and tensors of values from -1 to 1, and the arguments `image` and `mask_image`."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...configuration import ImageShape

MODES = {1: "L", 3: "RGB"}
MARGIN = 1e-3  # by which the values of a given tensor may be out of range


def to_pil_images(images: Tensor) -> list[Image.Image]:
    """Turns images, (batch, channels, height, width) with values from -1 to 1, into Pillow images, grey for one channel
    and RGB for three; values beyond are clipped."""
    pixels = ((images.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    arrays = [image.permute(1, 2, 0).numpy() for image in pixels]
    return [Image.fromarray(np.ascontiguousarray(each[..., 0] if each.shape[2] == 1 else each)) for each in arrays]


def convert_images(images: Tensor, output_type: str) -> Any:
    """Returns images, (batch, channels, height, width) from -1 to 1, as `output_type` says: "pt", the tensor itself;
    "np", an array (batch, height, width, channels) of values from 0 to 1; "pil", a list of Pillow images."""
    if output_type == "pil":
        return to_pil_images(images)
    return images if output_type == "pt" else ((images + 1) / 2).permute(0, 2, 3, 1).float().cpu().numpy()


class GivenImages(NamedTuple):
    """The arguments `image`, (images, channels, height, width) from -1 to 1, and `mask_image`, (images, 1, height,
    width), True where to generate; None if they are absent. Both have one for all rows, or one for each."""

    image: Tensor | None
    mask: Tensor | None

    def restore(self, images: Tensor, count: int) -> Tensor:
        """Puts the given image wherever nothing is to be generated; clips generated images, `count` for each row, to -1
        to 1."""
        if self.image is None or self.mask is None:
            return images.clamp(-1, 1)
        mask = repeat_given("mask_image", self.mask.to(images.device), len(images), count)
        return torch.where(mask, images, repeat_given("image", self.image.to(images), len(images), count)).clamp(-1, 1)


def read_given(image: Any, mask: Any, channels: int, size: tuple[int, int]) -> GivenImages:
    """Reads the arguments `image` and `mask_image`, for images of a number of channels and a size (height, width)."""
    images = None if image is None else read_given_images(image, channels, size)
    return GivenImages(images, None if mask is None else read_masks(mask, size))


def repeat_given(name: str, given: Tensor, images: int, count: int) -> Tensor:
    """Repeats one image for all, or each row's image `count` times."""
    if len(given) not in (1, images // count):
        raise ValueError(f"{len(given)} of {name} for {images // count} rows: pass one for all, or one for each")
    return given.expand(images, -1, -1, -1) if len(given) == 1 else given.repeat_interleave(count, dim=0)


def read_given_images(images: Any, channels: int, size: tuple[int, int]) -> Tensor:
    """Reads the argument `image`, one image or several, (images, channels, height, width) from -1 to 1.

    Args:
        images: a Pillow image or a list of them, which are resized to `size` (height, width), or a tensor (images,
            channels, height, width) or (channels, height, width) of this size with values from -1 to 1.

    Raises TypeError for anything else, ValueError for a tensor of another shape or with other values.
    """
    if not isinstance(images, Tensor):
        mode = find_mode(channels)
        arrays = [
            np.asarray(flatten_image(each, mode).resize((size[1], size[0]))) for each in list_images("image", images)
        ]
        pixels = torch.from_numpy(np.stack(arrays).astype(np.float32)) / 127.5 - 1
        return pixels[:, None] if channels == 1 else pixels.permute(0, 3, 1, 2)
    images = images[None] if images.ndim == 3 else images
    if images.ndim != 4 or tuple(images.shape[1:]) != (channels, *size):
        raise ValueError(f"image has shape {tuple(images.shape)}: expected (images, {channels}, {size[0]}, {size[1]})")
    check_values("image", images, -1)
    return images


def read_masks(masks: Any, size: tuple[int, int]) -> Tensor:
    """Reads the argument `mask_image`, (images, 1, height, width) bool, True (white) where an image is generated.

    Args:
        masks: a Pillow image or a list of them, which are resized to `size` (height, width), or a tensor (height,
            width), (1, height, width) or (images, 1, height, width) of values from 0 to 1; True is from 0.5 on.

    Raises TypeError for anything else, ValueError for a tensor of another shape or with other values.
    """
    if not isinstance(masks, Tensor):
        resized = [flatten_image(each, "L").resize((size[1], size[0]), 0) for each in list_images("mask_image", masks)]
        return torch.from_numpy(np.stack([np.asarray(each) for each in resized]))[:, None] >= 128
    values = masks.float()[(None,) * (4 - masks.ndim)]
    if values.ndim != 4 or tuple(values.shape[1:]) != (1, *size):
        raise ValueError(f"mask_image has shape {tuple(masks.shape)}: expected (images, 1, {size[0]}, {size[1]})")
    check_values("mask_image", values, 0)
    return values >= 0.5


def check_pixels(name: str, images: Tensor, shape: ImageShape) -> Tensor:
    """Returns images or latents as float32 or wider, or raises ValueError, with their name, for another shape than
    (batch, channels, height, width), or a side that is no multiple."""
    sides, channels = images.shape[2:], shape.channels
    if images.ndim != 4 or images.shape[1] != channels or any(side % shape.multiple or not side for side in sides):
        raise ValueError(
            f"{name} has shape {tuple(images.shape)}: expected (batch, {channels}, height, width) with a height and "
            f"width that are multiples of {shape.rule}"
        )
    return images.to(torch.promote_types(images.dtype, torch.float))


def check_values(name: str, values: Tensor, lowest: float) -> None:
    """Raises ValueError for values that are not from `lowest` to 1."""
    low, high = float(values.min()), float(values.max())
    if not (low >= lowest - MARGIN and high <= 1 + MARGIN):
        raise ValueError(f"{name} has values from {low:.4g} to {high:.4g}: scale them to {lowest}..1")


def list_images(name: str, images: Any) -> list[Image.Image]:
    """Returns Pillow images as a list; raises TypeError for anything else."""
    listed: list[Any] = list(images) if isinstance(images, Sequence) and not isinstance(images, str) else [images]
    wrong = next((each for each in listed if not isinstance(each, Image.Image)), None)
    if wrong is not None or not listed:
        raise TypeError(
            f"{name} is a {type(wrong or images).__name__}: pass a Pillow image, a list of them or a tensor"
        )
    return listed


def flatten_image(image: Image.Image, mode: str) -> Image.Image:
    """Converts an image of any mode to RGB or L, on white where it is transparent."""
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        image = white
    return image.convert(mode)


def find_mode(channels: int) -> str:
    """Returns Pillow's mode of a number of channels. Raises ValueError for other numbers than 1 and 3."""
    if channels not in MODES:
        raise ValueError(f"images of {channels} channels are no Pillow images: pass tensors, and output_type='pt'")
    return MODES[channels]
