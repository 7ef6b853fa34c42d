"""Reads images of any format as Pillow images in one colour mode, and turns them into `pixel_values`."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from os import PathLike, fspath
from pathlib import Path
from reprlib import repr as short
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from transformers import BaseImageProcessor
from transformers.image_utils import SizeDict

from .errors import ROW_ERRORS, describe_error, name_error
from .limits import CEILINGS, check_batch, check_ceiling

COLOR_MODES = {1: "L", 3: "RGB"}
MAX_ASPECT_RATIO = 200  # beyond it, resizing the shortest edge of an image makes one too large for memory
MAX_PATH = 4096  # characters of a path that an error shows whole
HUGE_EDGE = 1e150  # pixels: the square of a larger number is beyond a float
RUN_FORMATS = ("EPS",)  # which Pillow would have a program (Ghostscript) run


def collect_image_rows(images: Any) -> list[list[Any]]:
    """Returns one list of images for every row; an image may be None.

    A single image is one row. In a list every entry is a row: an image, None (no image) or a list of images. An
    array of four dimensions is a list of images, an array of five dimensions a list of lists.

    Raises:
        TypeError: a value that is not an image; the message names its row.
        ValueError: an empty list.
    """
    if is_image(images):
        return [[images]]
    if not is_image_list(images):
        raise TypeError(
            f"images: {describe(images)} is neither an image nor a list: pass an image, or a list with an image, None "
            "or a list of images for every row"
        )
    if not len(images):
        raise ValueError("images is an empty list: pass one entry per row (None for a row without an image)")
    return [collect_row_images(row, entry) for row, entry in enumerate(images)]


def collect_row_images(row: int, entry: Any) -> list[Any]:
    """Returns the images of one row; raises TypeError for a value that is not an image."""
    if entry is None:
        return []
    images = list(entry) if is_image_list(entry) else [entry]
    for image in images:
        if image is not None and not is_image(image):
            raise TypeError(
                f"images, row {row}: {describe(image)} is not an image; pass a Pillow image, an array, a tensor, "
                "a path, the bytes of a file, None, or a list of these"
            )
    return images


def is_image(value: Any) -> bool:
    """Returns whether a value is a single image, decoded or not."""
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return value.ndim <= 3
    return isinstance(value, (Image.Image, str, PathLike, bytes, Mapping))


def is_image_list(value: Any) -> bool:
    """Returns whether a value is a list of images or of rows, as is an array of four or more dimensions."""
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return value.ndim > 3
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def describe(value: Any) -> str:
    """Returns a short description of a value for an error message."""
    if isinstance(value, Image.Image):
        return f"an image of {value.width}x{value.height} pixels, mode {value.mode}"
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return f"an array of shape {tuple(value.shape)}, {value.dtype}"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, (str, PathLike)) and len(fspath(value)) <= MAX_PATH:
        return f"{fspath(value)!r} ({type(value).__name__})"  # the whole path
    if isinstance(value, Mapping):
        held = next((value[name] for name in ("path", "bytes", "array") if value.get(name) is not None), None)
        nested = held is None or isinstance(held, Mapping)
        return f"{short(value)} ({type(value).__name__})" if nested else describe(held)
    return f"{short(value)} ({type(value).__name__})"


def read_image(source: Any, channels: int = 3, channels_first: bool | None = None) -> Image.Image:
    """Reads an image as a Pillow image, RGB (`channels` 3) or grey (1), rotated upright by its EXIF orientation.

    Transparent pixels are blended with white. 16-bit values are scaled from 0..65535 to 0..255, floats from 0..1. Of
    an animation the first frame is read. An array is read as (height, width) or (height, width, channels), a tensor as
    (channels, height, width), or in the other order if only that is possible; `channels_first` fixes the order.

    Raises:
        FileNotFoundError: no file at this path.
        ValueError: an unreadable image, no pixels, NaN, or values out of range.
    """
    if isinstance(source, (np.ndarray, torch.Tensor)):
        image = build_image_from_array(source, channels_first)
    else:
        image = decode_image(source)
    if not all(image.size):
        raise ValueError(f"{describe(image)} has no pixels: leave this image out, or pass None")
    return convert_color_mode(image, COLOR_MODES[channels])


def decode_image(source: Any) -> Image.Image:
    """Decodes a path, the bytes of a file or a lazily loaded Pillow image, upright."""
    content = read_file_content(source)
    try:
        image = content if isinstance(content, Image.Image) else Image.open(BytesIO(content))
        if image.format in RUN_FORMATS:
            raise ValueError(f"a file of the format {image.format} is a program, which is not run: convert it to PNG")
        check_ceiling("image_pixels", image.width * image.height, f"an image of {image.width}x{image.height}")
        return ImageOps.exif_transpose(image)
    except Exception as error:  # decoders raise anything: OSError, SyntaxError, struct.error, ...
        raise ValueError(f"{describe(source)} is not a readable image: {describe_error(error)}") from error


def read_image_size(source: Any) -> tuple[int, int]:
    """Returns the height and width of an image of any kind, upright; of a file its header alone is read.

    Raises as `read_image`.
    """
    content = read_file_content(source)
    if not isinstance(content, bytes):
        width, height = read_image(content).size
        return height, width
    try:
        with Image.open(BytesIO(content)) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) > 4  # by a quarter
            return image.size if turned else (image.height, image.width)
    except Exception as error:  # decoders raise anything: OSError, SyntaxError, struct.error, ...
        raise ValueError(f"{describe(source)} is not a readable image: {describe_error(error)}") from error


def read_file_content(source: Any) -> Any:
    """Returns the bytes of a path or of `datasets`' undecoded {"bytes", "path"}; any other value unchanged."""
    if isinstance(source, Mapping):
        content = next((source[name] for name in ("bytes", "path") if not is_empty(source.get(name))), None)
        if not isinstance(content, (bytes, str, PathLike)):
            raise ValueError(f"{describe(source)} has neither bytes nor a path: set one of them")
        return read_file_content(content)
    if not isinstance(source, (str, PathLike)):
        return source
    if "://" in str(fspath(source)):
        raise ValueError(f"{source!r} is a URL: download it first and pass the path")
    if not Path(source).is_file():
        raise FileNotFoundError(f"there is no file {str(source)!r}")
    check_ceiling("file_bytes", Path(source).stat().st_size, f"the file {str(source)!r}")
    return Path(source).read_bytes()


def is_empty(value: Any) -> bool:
    """Returns whether a value of a mapping is None, or bytes or a path without content."""
    return value is None or (isinstance(value, (bytes, str)) and not value)


def convert_tensor(tensor: torch.Tensor) -> np.ndarray:
    """Returns the values of a tensor as an array, of another floating point type than numpy's as float32.

    Raises ValueError for a tensor without values that can be read (sparse, or on the device "meta").
    """
    try:
        tensor = tensor.detach().cpu()
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    except (RuntimeError, TypeError) as error:  # NotImplementedError is a RuntimeError
        raise ValueError(f"{describe(tensor)} has no values that can be read: pass a dense tensor") from error


def build_image_from_array(array: np.ndarray | torch.Tensor, channels_first: bool | None) -> Image.Image:
    """Builds a Pillow image from the values of an array or tensor."""
    if isinstance(array, torch.Tensor):
        channels_first = guess_channels_first(array.shape) if channels_first is None else channels_first
        check_ceiling("image_pixels", array.numel() / 4, describe(array))
        array = convert_tensor(array)
    if array.ndim not in (2, 3) or not array.size:
        raise ValueError(f"{describe(array)} is not an image: pass (height, width) or (height, width, channels)")
    check_ceiling("image_pixels", array.size / 4, describe(array))
    if array.ndim == 3:
        array = move_channels_last(array, channels_first)
    return Image.fromarray(np.ascontiguousarray(scale_to_uint8(array)))


def guess_channels_first(shape: Sequence[int]) -> bool | None:
    """Returns True for a tensor's shape whose first dimension may be channels (at most 4), else None (not known)."""
    return True if len(shape) == 3 and shape[0] <= 4 else None


def move_channels_last(array: np.ndarray, channels_first: bool | None) -> np.ndarray:
    """Returns the array as (height, width, channels), or (height, width) if it has one channel."""
    if channels_first is None:
        channels_first = array.shape[-1] > 4
    array = np.moveaxis(array, 0, -1) if channels_first else array
    if array.shape[-1] > 4:
        raise ValueError(f"{describe(array)} has {array.shape[-1]} channels: an image has 1 to 4")
    return array[..., 0] if array.shape[-1] == 1 else array


def scale_to_uint8(array: np.ndarray) -> np.ndarray:
    """Scales values to uint8 0..255: floats from 0..1, 16-bit integers from 0..65535, other integers from 0..255."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
        raise ValueError(f"{describe(array)} does not hold pixel values: pass integers or floats")
    if not np.isfinite(array).all():
        raise ValueError(f"{describe(array)} has values that are NaN or infinite: pass finite values")
    floats = np.issubdtype(array.dtype, np.floating)
    top = 1 if floats else 65535 if array.dtype == np.uint16 else 255
    low, high, margin = array.min(), array.max(), 1e-3 if floats else 0  # resizing may overshoot a little
    if low < -margin or high > top + margin:
        raise ValueError(
            f"{describe(array)} has values from {low} to {high}, but {array.dtype} means 0..{top}; pass uint8 (0..255) "
            "or floats in 0..1; pass an image that is already normalised to the model itself as pixel_values"
        )
    return np.rint(np.clip(array, 0, top) * (255 / top)).astype(np.uint8)


def convert_color_mode(image: Image.Image, mode: str) -> Image.Image:
    """Converts any Pillow mode to RGB or L: blends transparency with white, scales 16 bits (Pillow would clip them)."""
    if image.mode.startswith("I"):
        image = Image.fromarray(scale_to_uint8(convert_to_uint16(image)))
    elif image.mode == "F":
        image = Image.fromarray(scale_to_uint8(np.asarray(image)))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = image.convert("LA") if image.mode == "La" else image  # Pillow cannot convert La to RGBA directly
        white.alpha_composite(image.convert("RGBA"))
        image = white
    return image.convert(mode)


def convert_to_uint16(image: Image.Image) -> np.ndarray:
    """Returns the values of an image of mode I;16 or I (32 bits, in which decoders return 16-bit files)."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(
            f"{describe(image)} has values from {values.min()} to {values.max()}, beyond 16 bits: scale to 0..65535"
        )
    return values.astype(np.uint16)


def process_images(
    image_processor: BaseImageProcessor, rows: list[list[Any]], options: dict[str, Any]
) -> dict[str, Any]:
    """Runs the image processor on each image separately, so that no image depends on its neighbours.

    Returns `pixel_values (batch, images, channels, height, width)`, with zeros for absent images, and
    `image_present (batch, images)`. The dimension `images` is at least 1.

    Raises:
        OSError, ValueError: an image that cannot be read or processed, and the message names its row; images that have
            different sizes once processed.
    """
    options = dict(options)
    order = options.pop("input_data_format", None)
    channels_first = None if order is None else str(getattr(order, "value", order)) == "channels_first"
    arrays = {
        (row, place): process_row_image(image_processor, row, image, channels_first, options)
        for row, images in enumerate(rows)
        for place, image in enumerate(images)
        if image is not None
    }
    present = np.zeros((len(rows), max(1, *map(len, rows))), dtype=bool)
    shape = (*present.shape, *find_common_shape(image_processor, arrays, options))
    check_batch(shape, "images")
    pixels = np.zeros(shape, dtype=np.float32)
    for place, array in arrays.items():
        pixels[place], present[place] = array, True
    return {"pixel_values": pixels, "image_present": present}


def process_row_image(
    image_processor: BaseImageProcessor, row: int, source: Any, channels_first: bool | None, options: dict[str, Any]
) -> np.ndarray:
    """Reads and processes one image: (channels, height, width); every error names the row."""
    try:
        image = read_image(source, count_channels(image_processor), channels_first)
    except ROW_ERRORS as error:
        raise name_error(error, f"images, row {row}") from error
    return process_image(image_processor, image, f"images, row {row}", options)


def process_image(
    image_processor: BaseImageProcessor, image: Image.Image, where: str, options: dict[str, Any]
) -> np.ndarray:
    """Processes one image: (channels, height, width)."""
    check_aspect_ratio(image, options.get("size", getattr(image_processor, "size", None)), where)
    check_output_size(image, image_processor, options, where)
    name = type(image_processor).__name__
    try:
        array = np.asarray(image_processor(image, **options)["pixel_values"][0])
    except Exception as error:
        raise ValueError(f"{where}: {name} failed on {describe(image)}: {describe_error(error)}") from error
    # a processor for videos adds a dimension of frames
    array = array[0] if array.ndim == 4 and len(array) == 1 else array
    if array.ndim != 3:
        raise ValueError(
            f"{where}: {name} returns an array of shape {array.shape} for an image, not (channels, height, width); "
            "choose an image processor that resizes to one size"
        )
    return array


def check_aspect_ratio(image: Image.Image, size: Any, where: str) -> None:
    """Raises ValueError for an image that resizing its shortest edge would make too large."""
    edges = dict(size) if isinstance(size, (dict, SizeDict)) else {}
    ratio = max(image.size) / min(image.size)
    if "shortest_edge" in edges and ratio > MAX_ASPECT_RATIO:
        raise ValueError(
            f"{where}: {describe(image)} is {ratio:.0f} times as long as wide, more than {MAX_ASPECT_RATIO}: resizing "
            f"its shortest edge to {edges['shortest_edge']} would make it huge; crop it, or pass "
            'images_kwargs={"size": {"height": ..., "width": ...}}'
        )


def check_output_size(image: Image.Image, processor: BaseImageProcessor, options: dict[str, Any], where: str) -> None:
    """Raises ValueError for an image that the processor would make larger than any image may be."""
    for name in ("size", "crop_size", "pad_size"):
        pixels = count_output_pixels(options.get(name, getattr(processor, name, None)), image)
        if not pixels <= CEILINGS["image_pixels"].highest:
            check_ceiling("image_pixels", pixels, f"{where}: the {name} of {type(processor).__name__}")


def count_output_pixels(size: Any, image: Image.Image) -> float:
    """Returns the most pixels that resizing an image to a processor's size gives it; 0 for a size that says nothing."""
    edges = dict(size) if isinstance(size, (Mapping, SizeDict)) else {"shortest_edge": size}
    numbers = {name: edge for name, edge in edges.items() if isinstance(edge, (int, float)) and edge > 0}
    known = {name: edge if edge < HUGE_EDGE else float("inf") for name, edge in numbers.items()}
    if "height" in known and "width" in known:
        return known["height"] * known["width"]
    ratio = max(image.size) / min(image.size)
    bounds = {"shortest_edge": ratio, "longest_edge": 1.0}
    return min((known[name] ** 2 * scale for name, scale in bounds.items() if name in known), default=0)


def count_channels(image_processor: BaseImageProcessor) -> int:
    """Returns 1 for an image processor that normalises one channel, else 3."""
    mean = getattr(image_processor, "image_mean", None)
    return 1 if isinstance(mean, Sequence) and len(mean) == 1 else 3


def find_common_shape(
    image_processor: BaseImageProcessor, arrays: dict[tuple[int, int], np.ndarray], options: dict[str, Any]
) -> tuple[int, ...]:
    """Returns the shape of all processed images; without any image, the shape of a processed blank one."""
    if not arrays:
        blank = Image.new(COLOR_MODES[count_channels(image_processor)], (64, 64))
        return process_image(image_processor, blank, "images", options).shape
    (first, expected), *others = ((place, array.shape) for place, array in arrays.items())
    for place, shape in others:
        if shape != expected:
            raise ValueError(
                f"images: the image of row {first[0]} comes out as {expected}, that of row {place[0]} as {shape} "
                '(channels, height, width); give them one size: images_kwargs={"size": {"height": ..., "width": ...}}'
            )
    return expected
