"""Turns the images that a model learns to generate into `target_pixel_values`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from transformers import BaseImageProcessor
from transformers.image_utils import PILImageResampling

from .errors import ROW_ERRORS, name_error
from .images import (
    COLOR_MODES,
    check_aspect_ratio,
    count_channels,
    describe,
    is_image,
    is_image_list,
    process_image,
    read_image,
)

TARGET_IMAGES = "target_images"  # the argument of the processor's call, as errors name it


def build_target_processor(size: int | Sequence[int], channels: int) -> BaseImageProcessor:
    """Builds the image processor of targets: images are resized until they cover `size` (pixels, or height and width),
    cropped at their centre, and scaled to -1..1 (x / 127.5 - 1).

    Raises ValueError for a size below 1, or a number of channels other than 1 (grey) or 3 (RGB).
    """
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise ValueError(f"target_image_size is {size}: pass the number of pixels, or (height, width)")
    if channels not in COLOR_MODES:
        raise ValueError(f"target_channels is {channels}: pass 3 for RGB or 1 for grey images")
    scale = [0.5] * channels
    return CLIPImageProcessorPil(
        size={"shortest_edge": max(height, width)},
        crop_size={"height": height, "width": width},
        resample=PILImageResampling.BICUBIC,
        image_mean=scale,
        image_std=scale,
        do_convert_rgb=channels == 3,
    )


def collect_target_images(images: Any) -> list[Any]:
    """Returns one image for every row; a single image is one row.

    Raises:
        TypeError: a value that is not an image; the message names its row.
        ValueError: a row without an image, or an empty list.
    """
    rows = [images] if is_image(images) else images
    if not is_image_list(rows):
        raise TypeError(
            f"{TARGET_IMAGES}: {describe(rows)} is neither an image nor a list of images, one for every row"
        )
    if not len(rows):
        raise ValueError(f"{TARGET_IMAGES} is an empty list: pass one image for every row")
    for row, image in enumerate(rows):
        if image is None:
            raise ValueError(f"{TARGET_IMAGES}, row {row}: there is no image (None): leave this row out")
        if not is_image(image):
            raise TypeError(
                f"{TARGET_IMAGES}, row {row}: {describe(image)} is not an image; pass a Pillow image, an array, a "
                "tensor, a path or the bytes of a file"
            )
    return list(rows)


def process_target_images(processor: BaseImageProcessor, images: Sequence[Any]) -> np.ndarray:
    """Processes images of any kind (see `read_image`): (images, channels, height, width), values in -1..1.

    Raises OSError or ValueError for an image that cannot be read; the message names its row.
    """
    rows = enumerate(images)
    return np.stack([process_target_image(processor, image, f"{TARGET_IMAGES}, row {row}") for row, image in rows])


def process_target_image(
    processor: BaseImageProcessor, source: Any, where: str, size: tuple[int, int] | None = None
) -> np.ndarray:
    """Reads and processes one image: (channels, height, width); every error begins with `where`.

    size: height and width to crop to, in place of the processor's.
    """
    try:
        image = read_image(source, count_channels(processor))
    except ROW_ERRORS as error:
        raise name_error(error, where) from error
    check_aspect_ratio(image, getattr(processor, "size", None), where)
    return process_image(processor, image, where, find_crop_options(processor, image, size))


def find_crop_options(
    processor: BaseImageProcessor, image: Image.Image, size: tuple[int, int] | None
) -> dict[str, Any]:
    """Returns the options that resize an image, in its own aspect ratio, to cover `size` (height and width, or None for
    the processor's own) and crop it to that; none for a processor that does not crop."""
    crop: Any = getattr(processor, "crop_size", None)
    if crop is None or not getattr(processor, "do_center_crop", False):
        return {}
    own = (crop["height"], crop["width"]) if size is None else size
    scale = max(own[0] / image.height, own[1] / image.width)
    height, width = (max(1, round(edge * scale)) for edge in (image.height, image.width))
    cropped = {} if size is None else {"crop_size": {"height": own[0], "width": own[1]}}
    return {"size": {"height": height, "width": width}, **cropped}
