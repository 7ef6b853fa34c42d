"""Where the channels of an array of pixels stand, if it is not said."""

import numpy as np
import pytest

from plait.processing.images import guess_channels_first, move_channels_last


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_channels_are_found_at_either_end(channels: int) -> None:
    last = np.arange(6 * 7 * channels).reshape(6, 7, channels)
    expected = last[..., 0] if channels == 1 else last
    assert np.array_equal(move_channels_last(last, None), expected)
    assert np.array_equal(move_channels_last(np.moveaxis(last, -1, 0), None), expected)
    assert np.array_equal(move_channels_last(np.moveaxis(last, -1, 0), True), expected)


@pytest.mark.parametrize("shape", [(6, 7, 5), (5, 7, 6)])
def test_five_channels_are_no_image(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="channels: an image has 1 to 4"):
        move_channels_last(np.zeros(shape), None)


def test_the_order_follows_from_what_can_be_channels() -> None:
    """Four at the end can be, five cannot; an order that is given is not guessed."""
    wide = np.arange(3 * 7 * 5).reshape(3, 7, 5)
    assert np.array_equal(move_channels_last(wide, None), np.moveaxis(wide, 0, -1))
    assert move_channels_last(np.zeros((3, 7, 4)), None).shape == (3, 7, 4)
    assert move_channels_last(np.zeros((4, 7, 9)), True).shape == (7, 9, 4)
    for array, order in ((np.zeros((5, 7, 3)), True), (np.zeros((3, 7, 5)), False)):
        with pytest.raises(ValueError, match="has 5 channels: an image has 1 to 4"):
            move_channels_last(array, order)


@pytest.mark.parametrize(
    ("shape", "expected"), [((4, 7, 9), True), ((5, 7, 4), None), ((3, 7), None), ((1, 7, 9), True)]
)
def test_a_tensor_begins_with_its_channels_if_it_can(shape: tuple[int, ...], expected: bool | None) -> None:
    assert guess_channels_first(shape) is expected
