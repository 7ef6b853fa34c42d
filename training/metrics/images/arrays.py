"""Checks the arrays that measures of generated images read: images, features, class numbers and flags."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ....modeling.diffusion.images import to_pil_images

Array = np.ndarray | Tensor

RANGE_TOLERANCE = 1e-3  # values of images may exceed -1..1 by rounding


def read_images(images: Array, name: str = "images") -> Tensor:
    """Returns images, (images, channels, height, width) in -1..1, as a float32 tensor on the CPU.

    Raises:
        TypeError: neither an array nor a tensor, or integers (pixels of 0..255: divide by 127.5 and subtract 1).
        ValueError: not four-dimensional, no images, NaN or infinity, or values outside -1..1.
    """
    tensor = _as_tensor(images, name)
    if not tensor.is_floating_point():
        raise TypeError(f"{name} are {tensor.dtype}: expected floats in -1..1, pixel values / 127.5 - 1")
    if tensor.ndim != 4 or not tensor.numel():
        raise ValueError(f"{name} have shape {tuple(tensor.shape)}: expected (images, channels, height, width)")
    tensor = tensor.float()
    _expect_finite(tensor, name)
    largest = float(tensor.abs().max())
    if largest > 1 + RANGE_TOLERANCE:
        raise ValueError(f"{name} reach {largest:.4g}: expected values in -1..1, pixel values / 127.5 - 1")
    return tensor


def read_features(features: Array, name: str = "features", at_least: int = 1) -> np.ndarray:
    """Returns features, (rows, width), as float64.

    Raises:
        TypeError: neither an array nor a tensor.
        ValueError: not two-dimensional, fewer than `at_least` rows, no width, NaN or infinity.
    """
    tensor = _as_tensor(features, name)
    if tensor.ndim != 2 or not tensor.shape[1]:
        raise ValueError(f"{name} have shape {tuple(tensor.shape)}: expected (rows, width)")
    if len(tensor) < at_least:
        raise ValueError(f"{name} have {len(tensor)} rows: expected at least {at_least}")
    _expect_finite(tensor, name)
    return tensor.double().numpy()


def read_feature_pair(first: Array, second: Array, at_least: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns two sets of features of one width as float64.

    Raises as `read_features`, and ValueError for two widths.
    """
    one, other = (
        read_features(first, "the first features", at_least),
        read_features(second, "the second features", at_least),
    )
    if one.shape[1] != other.shape[1]:
        raise ValueError(f"features of widths {one.shape[1]} and {other.shape[1]}: compute both with the same model")
    return one, other


def read_numbers(values: Array, count: int, name: str) -> np.ndarray:
    """Returns one whole number (a class, a prompt) for each of `count` rows.

    Raises:
        TypeError: neither an array nor a tensor, or not integers.
        ValueError: not (count,).
    """
    array = _as_tensor(values, name).numpy()
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"{name} are {array.dtype}: expected integers, one a row")
    if array.shape != (count,):
        raise ValueError(f"{name} have shape {array.shape}: expected ({count},), one number a row")
    return array


def read_flags(values: Array, name: str = "right") -> np.ndarray:
    """Returns flags, (rows,), as booleans.

    Raises:
        TypeError: other types.
        ValueError: another shape, or no rows.
    """
    array = _as_tensor(values, name).numpy()
    if array.dtype != bool:
        raise TypeError(f"{name} is {array.dtype}: expected booleans, one a row")
    if array.ndim != 1 or not array.size:
        raise ValueError(f"{name} has shape {array.shape}: expected (rows,) with at least one row")
    return array


def build_pil_images(images: Array) -> list[Image.Image]:
    """Builds 8-bit PIL images, grey for one channel and RGB for three, from (images, channels, height, width) in -1..1.

    Raises as `read_images`, and ValueError for another number of channels.
    """
    tensor = read_images(images)
    if tensor.shape[1] not in (1, 3):
        raise ValueError(f"images have {tensor.shape[1]} channels: PIL images have 1 or 3")
    return to_pil_images(tensor)


def _as_tensor(values: Array, name: str) -> Tensor:
    if isinstance(values, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(values))
    if isinstance(values, Tensor):
        return values.detach().cpu()
    raise TypeError(f"{name} are {type(values).__name__}: expected a numpy array or a tensor")


def _expect_finite(tensor: Tensor, name: str) -> None:
    rows = (~tensor.isfinite()).flatten(1).any(dim=1).nonzero().flatten().tolist()
    if rows:
        raise ValueError(
            f"{name} have NaN or infinity in {len(rows)} of {len(tensor)} rows, the first is row {rows[0]}"
        )
