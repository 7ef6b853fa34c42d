"""Connected components of drawn shapes, in any background colour."""

import numpy as np
import pytest

from plait.training.metrics.images import components
from plait.training.metrics.images.components import (
    ImageComponents,
    count_components,
    find_single_shapes,
    measure_components,
)

PALETTE = np.array([[-1.0, -1, -1], [1, -1, -1], [-1, 1, -1]])  # black, red, green


def canvas(count: int, background: float = 0.9, side: int = 16) -> np.ndarray:
    return np.full((count, 3, side, side), background)


def flood(mask: np.ndarray, min_pixels: int) -> int:
    """The components by flooding from pixel to pixel, the eight neighbours of each."""
    left, found = {tuple(place) for place in np.argwhere(mask)}, 0
    while left:
        stack, size = [left.pop()], 0
        while stack:
            y, x = stack.pop()
            size += 1
            near = {(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            stack += near
        found += size >= min_pixels
    return found


@pytest.mark.parametrize("min_pixels", [1, 4])
def test_components_are_those_found_by_flooding(min_pixels: int) -> None:
    generator = np.random.default_rng(0)
    for share in (0.1, 0.3, 0.5):
        mask = generator.random((20, 20)) < share
        assert count_components(mask, min_pixels) == flood(mask, min_pixels)


def test_corners_touch_and_specks_do_not_count() -> None:
    images = canvas(3)
    images[0, :, 3:6, 3:6] = PALETTE[1][:, None, None]
    images[0, :, 6:9, 6:9] = PALETTE[1][:, None, None]  # touches at a corner
    images[1, :, 3:6, 3:6] = images[1, :, 10:13, 10:13] = PALETTE[1][:, None, None]
    images[2, :, 3:6, 3:6] = PALETTE[1][:, None, None]
    images[2, :, 12, 12:15] = PALETTE[1][:, None]  # three pixels
    found = measure_components(images, PALETTE, np.array([1, 2, 1]))
    assert found.counts.tolist() == [1, 2, 1]
    assert found.areas.tolist() == [18, 18, 12]
    assert found.shares is not None
    assert found.shares.tolist() == [1, 0, 1]


@pytest.mark.parametrize("background", [1.0, 0.8, -0.2])
def test_the_background_is_the_colour_of_the_border(background: float) -> None:
    images = canvas(2, background) + np.random.default_rng(0).normal(0, 0.02, (2, 3, 16, 16))
    images[1, :, 2:9, 4:9] = PALETTE[2][:, None, None]
    images = images.clip(-1, 1)
    for found in (measure_components(images, PALETTE, np.array([2, 2])), measure_components(images)):
        assert found.counts.tolist() == [0, 1]
        assert found.areas.tolist() == [0, 35]
    given = measure_components(images, PALETTE, background=np.full(3, background))
    assert given.areas.tolist() == [0, 35]
    assert given.shares is None


def test_the_border_is_every_outermost_pixel_once() -> None:
    pixels = np.random.default_rng(1).uniform(-1, 1, (9, 4, 5, 3))
    outermost = np.ones((4, 5), dtype=bool)
    outermost[1:-1, 1:-1] = False
    assert components._find_backgrounds(pixels) == pytest.approx(np.median(pixels[:, outermost], axis=1))


def test_a_mirrored_or_turned_shape_measures_the_same() -> None:
    images = canvas(1)
    images[0, :, 2:12, 3:5] = images[0, :, 2:4, 3:14] = PALETTE[0][:, None, None]
    first = measure_components(images, PALETTE, np.array([0]))
    for changed in (images[:, :, ::-1], images[..., ::-1], images.transpose(0, 1, 3, 2)):
        found = measure_components(changed, PALETTE, np.array([0]))
        assert (found.counts, found.areas, found.shares) == (first.counts, first.areas, first.shares)


def test_one_shape_is_one_component_of_a_real_size_in_the_wanted_colour() -> None:
    images = canvas(4)
    images[:, :, 4:8, 4:8] = PALETTE[1][:, None, None]
    images[1, :, 10:14, 10:14] = PALETTE[1][:, None, None]  # two
    images[2, :, 2:14, 2:14] = PALETTE[1][:, None, None]  # larger than real ones
    found = measure_components(images, PALETTE, np.array([1, 1, 1, 2]))
    assert find_single_shapes(found, np.array([14, 16, 18])).tolist() == [True, False, False, False]


def test_the_bounds_of_one_shape() -> None:
    """Areas from the 1st to the 99th percentile of 0 to 100, and more than half in the wanted colour."""
    areas = np.array([0, 1, 50, 99, 100, 50, 50, 50])
    counts = np.array([1, 1, 1, 1, 1, 0, 2, 1])
    shares = np.array([1, 1, 1, 1, 1, 1, 1, 0.5])
    expected = [False, True, True, True, False, False, False, False]
    assert find_single_shapes(ImageComponents(counts, areas, shares), np.arange(101)).tolist() == expected
    assert find_single_shapes(ImageComponents(counts, areas, None), np.arange(101)).tolist() == [*expected[:-1], True]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"palette": np.zeros((2, 4))}, r"palette has shape \(2, 4\): expected \(colours, 3\)"),
        ({"palette": PALETTE * 255}, "palette reaches 255: expected colours in -1..1"),
        ({"palette": PALETTE * 1.5}, "palette reaches 1.5: expected colours in -1..1"),
        ({"wanted": np.array([0, 1])}, "wanted colours 0 to 1 without a palette"),
        ({"palette": PALETTE, "wanted": np.array([0, 3])}, "wanted colours 0 to 3 of a palette of 3"),
        ({"background": np.zeros(2)}, r"background has shape \(2,\): expected \(3,\) or \(2, 3\)"),
    ],
)
def test_colours_that_do_not_fit_are_errors(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure_components(canvas(2), **changes)


def test_specks_below_four_pixels_and_colours_near_the_background_do_not_count() -> None:
    images = np.zeros((2, 3, 12, 12))
    images[0, :, 3, 3:7] = images[0, :, 7, 3:6] = 1.0  # four pixels and three
    images[1, :, 3:6, 3:6] = 0.25  # at the threshold
    images[1, :, 8:11, 3:6] = 0.2499
    found = measure_components(images)
    assert found.counts.tolist() == [1, 1] and found.areas.tolist() == [7, 9]
    assert measure_components(images, min_pixels=3).counts.tolist() == [2, 1]
    assert measure_components(images, min_pixels=5).counts.tolist() == [0, 1]
    assert measure_components(images, threshold=0.2).counts.tolist() == [1, 2]
    assert count_components(images[0, 0] > 0) == 2 and count_components(np.eye(1)) == 1
    each = measure_components(images, background=np.array([[0.0] * 3, [0.25] * 3]), threshold=0.01)
    assert each.areas.tolist() == [7, 12 * 12 - 18]


def test_pixels_are_of_the_nearest_colour_and_in_a_tie_background() -> None:
    images = np.full((1, 1, 6, 6), -1.0)
    images[0, 0, 1, 1:5] = [0.0, 0.01, 0.49, 0.51]
    found = measure_components(images, np.array([[1.0], [0.0]]), np.array([0]), background=np.array([-1.0]))
    assert found.areas.tolist() == [4] and found.shares is not None and found.shares.tolist() == [0.25]
    between = measure_components(images, np.array([[1.0]]), np.array([0]), background=np.array([-1.0]))
    assert between.areas.tolist() == [3] and between.shares is not None and between.shares.tolist() == [1]
    empty = measure_components(np.full((1, 1, 6, 6), -1.0), np.array([[1.0]]), np.array([0]))
    assert empty.areas.tolist() == [0] and empty.shares is not None and empty.shares.tolist() == [0]
    with pytest.raises(ValueError, match="wanted colours -1 to -1 of a palette of 1"):
        measure_components(images, np.array([[1.0]]), np.array([-1]))
    with pytest.raises(ValueError, match=r"palette has shape \(0, 1\)"):
        measure_components(images, np.zeros((0, 1)))
    with pytest.raises(ValueError, match=r"palette has shape \(1,\)"):
        measure_components(images, np.zeros(1))


def test_the_least_share_of_the_wanted_colour() -> None:
    found = ImageComponents(np.array([1, 1]), np.array([5, 5]), np.array([0.3, 0.31]))
    assert find_single_shapes(found, np.array([5]), 0.3).tolist() == [False, True]
    assert find_single_shapes(found, np.array([5])).tolist() == [False, False]
