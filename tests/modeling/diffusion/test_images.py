"""Images between Pillow and tensors: their range."""

import numpy as np
import pytest
import torch
from PIL import Image

from plait.configuration import ImageShape
from plait.modeling.diffusion.images import (
    GivenImages,
    check_pixels,
    check_values,
    convert_images,
    flatten_image,
    list_images,
    read_given_images,
    read_masks,
    repeat_given,
    to_pil_images,
)


@pytest.mark.parametrize(("low", "high"), [(-1.5, 0.5), (-0.5, 1.5), (0.0, 255.0)])
def test_values_outside_the_range_are_an_error_at_either_end(low: float, high: float) -> None:
    image = torch.linspace(low, high, 3 * 4 * 4).view(1, 3, 4, 4)
    with pytest.raises(ValueError, match=r"image has values from .* scale them to -1\.\.1"):
        read_given_images(image, 3, (4, 4))


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 1.0), (0.2, 0.2)])
def test_values_inside_it_are_taken(low: float, high: float) -> None:
    image = torch.linspace(low, high, 3 * 4 * 4).view(1, 3, 4, 4)
    assert torch.equal(read_given_images(image, 3, (4, 4)), image)


@pytest.mark.parametrize(("low", "high", "fits"), [(-1.0009, 1.0009, True), (-1.0011, 1, False), (-1, 1.0011, False)])
def test_the_range_may_be_left_by_rounding(low: float, high: float, fits: bool) -> None:
    values = torch.tensor([low, high])
    if fits:
        check_values("image", values, -1)
        check_values("mask_image", values.clamp(min=-0.0009), 0)
        return
    with pytest.raises(ValueError, match="image has values from"):
        check_values("image", values, -1)


def test_masks_are_white_where_an_image_is_generated() -> None:
    values = torch.tensor([[0.0, 0.49], [0.5, 1.0]])
    for mask in (values, values[None], values[None, None]):
        assert read_masks(mask, (2, 2)).tolist() == [[[[False, False], [True, True]]]]
    picture = Image.fromarray(np.array([[0, 127], [128, 255]], dtype=np.uint8))
    assert read_masks(picture, (2, 2)).tolist() == [[[[False, False], [True, True]]]]
    assert read_masks([picture, picture], (4, 2)).shape == (2, 1, 4, 2)
    for wrong in (values[None, None, None], torch.zeros(1, 2, 2, 2), torch.zeros(3, 2)):
        with pytest.raises(ValueError, match=r"expected \(images, 1, 2, 2\)"):
            read_masks(wrong, (2, 2))
    with pytest.raises(ValueError, match="mask_image has values from -1"):
        read_masks(values - 1, (2, 2))


def test_pictures_become_tensors_and_come_back() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    found = read_given_images(Image.fromarray(pixels), 3, (4, 6))
    torch.testing.assert_close(found[0].permute(1, 2, 0), torch.tensor(pixels / 127.5 - 1, dtype=torch.float))
    assert np.array_equal(np.asarray(to_pil_images(found)[0]), pixels)
    grey = read_given_images([Image.fromarray(pixels).convert("L")] * 2, 1, (4, 6))
    assert grey.shape == (2, 1, 4, 6) and to_pil_images(grey)[0].mode == "L"
    assert read_given_images(Image.fromarray(pixels), 3, (2, 3)).shape == (1, 3, 2, 3)
    assert torch.equal(read_given_images(found[0], 3, (4, 6)), found)
    beyond = to_pil_images(torch.tensor([-3.0, 0.0, 3.0]).view(1, 1, 1, 3))[0]
    assert np.asarray(beyond).tolist() == [[0, 128, 255]]
    assert convert_images(found, "pt") is found
    as_array = convert_images(found, "np")
    assert as_array.shape == (1, 4, 6, 3) and as_array[0] == pytest.approx(pixels / 255, abs=1e-6)
    clear = Image.new("RGBA", (1, 1), (10, 20, 30, 0))
    assert flatten_image(clear, "RGB").getpixel((0, 0)) == (255, 255, 255)
    assert flatten_image(Image.new("RGBA", (1, 1), (10, 20, 30, 255)), "RGB").getpixel((0, 0)) == (10, 20, 30)
    for wrong in ("a.png", [], [1], 3):
        with pytest.raises(TypeError, match="image is a (str|list|int): pass a Pillow image"):
            list_images("image", wrong)


def test_given_images_are_repeated_for_their_rows() -> None:
    two = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1)
    assert repeat_given("image", two, 4, 2).flatten().tolist() == [1, 1, 2, 2]
    assert repeat_given("image", two[:1], 4, 2).flatten().tolist() == [1] * 4
    with pytest.raises(ValueError, match="2 of image for 3 rows"):
        repeat_given("image", two, 6, 2)
    images = torch.full((2, 1, 1, 2), 3.0)
    assert GivenImages(None, None).restore(images, 1).flatten().tolist() == [1] * 4
    mask = torch.tensor([True, False]).view(1, 1, 1, 2)
    kept = GivenImages(torch.full((1, 1, 1, 2), -0.5), mask).restore(images, 1)
    assert kept.flatten().tolist() == [1, -0.5, 1, -0.5]


@pytest.mark.parametrize("sides", [(0, 4), (4, 0), (3, 4), (4, 6)])
def test_sides_are_multiples(sides: tuple[int, int]) -> None:
    shape = ImageShape(3, 8, 8, 4)
    images = torch.zeros(2, 3, 8, 4, dtype=torch.half)
    assert check_pixels("image", images, shape).dtype == torch.float32
    for wrong in (torch.zeros(2, 3, *sides), torch.zeros(2, 1, 4, 4), torch.zeros(3, 4, 4)):
        with pytest.raises(ValueError, match=r"image has shape .*: expected \(batch, 3, height, width\)"):
            check_pixels("image", wrong, shape)
