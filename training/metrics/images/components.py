"""Connected components of images: whether one shape of one colour stands before a plain background."""

from typing import Any, NamedTuple

import numpy as np

from .arrays import Array, read_flags, read_images, read_numbers

THRESHOLD = 0.25  # rms distance to the background over the channels, in the units of -1..1


class ImageComponents(NamedTuple):
    """What stands before the background of each image.

    counts: (images,) components of at least `min_pixels`; areas: (images,) pixels that are not background; shares:
    (images,) the part, 0..1, of these pixels whose nearest colour is the wanted one, 0 for an image without such
    pixels; None without wanted colours.
    """

    counts: np.ndarray
    areas: np.ndarray
    shares: np.ndarray | None


def measure_components(
    images: Array,
    palette: Array | None = None,
    wanted: Array | None = None,
    *,
    background: Array | None = None,
    min_pixels: int = 4,
    threshold: float = THRESHOLD,
) -> ImageComponents:
    """Measures the connected components (8-neighbourhood) of the pixels that are not background.

    Args:
        images: (images, channels, height, width) in -1..1.
        palette: (colours, channels) in -1..1: a pixel is background if the background's colour is nearer than every
            colour of the palette. None: if its rms distance to the background is below `threshold`.
        wanted: (images,) the number of each image's colour in the palette.
        background: (channels,) one colour, or (images, channels); None: the median of each image's outermost pixels.
        min_pixels: smaller components are not counted.
        threshold: see `palette`.

    Raises:
        TypeError, ValueError: as `read_images` and `read_numbers`; a palette or background of another shape, wanted
            colours without a palette or outside of it.
    """
    pixels = read_images(images).permute(0, 2, 3, 1).double().numpy()
    count, channels = len(pixels), pixels.shape[3]
    grounds = _find_backgrounds(pixels) if background is None else _read_background(background, count, channels)
    colours = None if palette is None else _read_palette(palette, channels)
    numbers = None if wanted is None else _read_wanted(wanted, count, colours)
    nearest = [
        _assign_colours(image, ground, colours, threshold) for image, ground in zip(pixels, grounds, strict=True)
    ]
    foreground = np.stack(nearest) > 0
    areas = foreground.sum(axis=(1, 2))
    shares = None
    if numbers is not None:
        shares = (np.stack(nearest) == (numbers + 1)[:, None, None]).sum(axis=(1, 2)) / np.maximum(areas, 1)
    return ImageComponents(np.array([count_components(mask, min_pixels) for mask in foreground]), areas, shares)


def count_components(mask: Array, min_pixels: int = 1) -> int:
    """Counts the connected components (8-neighbourhood) of a mask (height, width) that have at least `min_pixels`."""
    from scipy import ndimage

    labels: Any = ndimage.label(np.asarray(mask), np.ones((3, 3)))
    return int((np.bincount(labels[0].ravel())[1:] >= min_pixels).sum())


def find_single_shapes(found: ImageComponents, areas: Array, min_share: float = 0.5) -> np.ndarray:
    """Returns which images show exactly one shape, (images,) flags: one component, of an area within the 1st to 99th
    percentile of `areas` (those of real images), mostly (more than `min_share`) of the wanted colour, if there is one.
    """
    low, high = np.percentile(np.asarray(areas), [1, 99])
    single = (found.counts == 1) & (found.areas >= low) & (found.areas <= high)
    return read_flags(single if found.shares is None else single & (found.shares > min_share))


def _find_backgrounds(pixels: np.ndarray) -> np.ndarray:
    rows, columns = pixels[:, [0, -1]], pixels[:, 1:-1, [0, -1]]
    outermost = np.concatenate([part.reshape(len(pixels), -1, pixels.shape[3]) for part in (rows, columns)], axis=1)
    return np.median(outermost, axis=1)


def _read_background(background: Array, count: int, channels: int) -> np.ndarray:
    array = np.asarray(background, dtype=float)
    if array.shape not in ((channels,), (count, channels)):
        raise ValueError(f"background has shape {array.shape}: expected ({channels},) or ({count}, {channels})")
    return np.broadcast_to(array, (count, channels))


def _read_palette(palette: Array, channels: int) -> np.ndarray:
    array = np.asarray(palette, dtype=float)
    if array.ndim != 2 or array.shape[1] != channels or not len(array):
        raise ValueError(f"palette has shape {array.shape}: expected (colours, {channels})")
    if np.abs(array).max() > 1:
        raise ValueError(f"palette reaches {np.abs(array).max():.4g}: expected colours in -1..1, as the images")
    return array


def _read_wanted(wanted: Array, count: int, palette: np.ndarray | None) -> np.ndarray:
    numbers = read_numbers(wanted, count, "wanted")
    if palette is None or numbers.min() < 0 or numbers.max() >= len(palette):
        known = "without a palette" if palette is None else f"of a palette of {len(palette)}"
        raise ValueError(f"wanted colours {numbers.min()} to {numbers.max()} {known}: pass a palette that has them")
    return numbers


def _assign_colours(image: np.ndarray, ground: np.ndarray, palette: np.ndarray | None, threshold: float) -> np.ndarray:
    """Returns 0 for background, else 1 + the number of the nearest colour (1 without a palette), (height, width)."""
    if palette is None:
        return (np.sqrt(((image - ground) ** 2).mean(axis=2)) >= threshold).astype(int)
    colours = np.vstack([ground, palette])
    return ((image[:, :, None] - colours) ** 2).sum(axis=3).argmin(axis=2)
