"""Where the pixels that a model reads lie in the image as it was given: undoes resizing, cropping and padding."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from ...processing.images import COLOR_MODES, count_channels, process_image

SNAP = 0.02  # of the image's length: its borders are met exactly, beyond the rounding of ramps to 256 values


@dataclass
class AxisMap:
    """One axis of an image: its length as it was given, and where each processed pixel begins and ends in it."""

    length: int
    edges: np.ndarray

    @cached_property
    def shares(self) -> np.ndarray:
        """The share of each processed pixel that lies in each pixel of the image: (length, processed)."""
        first, past = self.edges[:-1, None], self.edges[1:, None]
        places = np.arange(self.length)
        overlap = np.minimum(past, places + 1) - np.maximum(first, places)
        return (np.clip(overlap, 0, None) / (past - first)).T


@dataclass
class ImageMap:
    """Where the pixels of a processed image lie in the image as it was given."""

    rows: AxisMap
    columns: AxisMap

    def restore(self, amounts: np.ndarray) -> np.ndarray:
        """Returns amounts of processed pixels, (height, width), as those of the image's pixels: the sum stays the same
        but for what lies outside the image; 0 where the model sees nothing."""
        return self.rows.shares @ amounts @ self.columns.shares.T


def find_image_map(image_processor: Any, height: int, width: int) -> ImageMap:
    """Finds the map of images of this size by processing four: a ramp along each axis, black and white. So it holds for
    every image processor that resizes, crops and pads.

    Raises ValueError for one that returns less than two pixels of the image along an axis.
    """
    mode = COLOR_MODES[count_channels(image_processor)]

    def process(values: np.ndarray) -> np.ndarray:
        image = Image.fromarray(np.broadcast_to(values, (height, width)).astype(np.uint8)).convert(mode)
        return process_image(image_processor, image, "image", {}).mean(axis=0, dtype=np.float64)

    black, white = process(np.zeros((1, 1))), process(np.full((1, 1), 255))
    span = white - black
    seen = np.abs(span) > np.abs(span).max() / 2
    tops = np.linspace(0, 255, height)[:, None], np.linspace(0, 255, width)[None]
    axes = []
    for axis, (ramp, length) in enumerate(zip(tops, (height, width), strict=True)):
        places = np.where(seen, (process(ramp) - black) / np.where(seen, span, 1), np.nan)
        axes.append(fit_axis(places, axis, length))
    return ImageMap(*axes)


def fit_axis(places: np.ndarray, axis: int, length: int) -> AxisMap:
    """Fits a line through the places, 0..1 along an axis of the image, of processed pixels; NaN where padding is."""
    lines = places if axis == 0 else places.T
    known = ~np.isnan(lines).all(axis=1)
    numbers = np.flatnonzero(known)
    if length == 1 or len(numbers) < 2:
        return AxisMap(length, np.linspace(0, length, len(lines) + 1))
    centres = np.nanmean(lines[known], axis=1) * (length - 1) + 0.5
    inner = (centres > 0.5 + 1e-6 * length) & (centres < length - 0.5 - 1e-6 * length)  # the ramp ends at the borders
    inner = inner if inner.sum() >= 2 else np.ones_like(inner)
    slope, start = np.polyfit(numbers[inner] + 0.5, centres[inner], 1)
    edges = np.arange(len(lines) + 1) * slope + start
    if np.abs(edges[[0, -1]] - (0, length)).max() < SNAP * length:
        edges = np.linspace(0, length, len(edges))
    return AxisMap(length, edges)
