"""Images between Pillow and tensors: their range."""

import pytest
import torch

from plait.modeling.diffusion.images import read_given_images


@pytest.mark.parametrize(("low", "high"), [(-1.5, 0.5), (-0.5, 1.5), (0.0, 255.0)])
def test_values_outside_the_range_are_an_error_at_either_end(low: float, high: float) -> None:
    image = torch.linspace(low, high, 3 * 4 * 4).view(1, 3, 4, 4)
    with pytest.raises(ValueError, match=r"image has values from .* scale them to -1\.\.1"):
        read_given_images(image, 3, (4, 4))


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 1.0), (0.2, 0.2)])
def test_values_inside_it_are_taken(low: float, high: float) -> None:
    image = torch.linspace(low, high, 3 * 4 * 4).view(1, 3, 4, 4)
    assert torch.equal(read_given_images(image, 3, (4, 4)), image)
