"""Where the channels of an array of pixels stand, if it is not said."""

import numpy as np
import pytest

from plait.processing.images import move_channels_last


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
