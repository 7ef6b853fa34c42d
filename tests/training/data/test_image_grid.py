"""A grid of images."""

import numpy as np
import pytest
import torch
from PIL import Image

from plait.modeling.diffusion.images import to_pil_images
from plait.training.data.image_grid import cut_line, draw_grid, wrap_label


def test_every_image_stands_in_its_cell() -> None:
    images = torch.rand(5, 3, 8, 10) * 2 - 1
    grid = np.asarray(draw_grid(images, columns=3))
    assert grid.shape == (4 + 2 * 12, 4 + 3 * 14, 3)
    for number, image in enumerate(to_pil_images(images)):
        row, column = divmod(number, 3)
        cell = grid[4 + row * 12 : 12 + row * 12, 4 + column * 14 : 14 + column * 14]
        assert (cell == np.asarray(image)).all()
    assert (grid[16:, -14:] == 255).all()  # the sixth cell is empty


@pytest.mark.parametrize("count", [2, 4], ids=["a label per row", "a label per image"])
def test_labels_stand_above_what_they_name(count: int) -> None:
    images = [Image.new("L", (60, 20), 128)] * 4
    grid = np.asarray(draw_grid(images, columns=2, labels=["a red dog"] * count))
    assert grid.shape[0] == 4 + 2 * (24 + 14)
    head = grid[4:18]
    assert (head[:, :64] < 100).any()
    assert (head[:, 64:] < 100).any() == (count == 4)


def test_a_long_label_is_cut_after_three_lines() -> None:
    lines = wrap_label("one long description of a landscape " * 9, 80)
    assert len(lines) == 3
    assert cut_line("w" * 200, 80) == wrap_label("w" * 200, 80)[0]
    assert 5 < len(cut_line("w" * 200, 80)) < 30


def test_a_grey_image_and_the_ends_of_the_values() -> None:
    (image,) = to_pil_images(torch.tensor([-9.0, -1.0, 0.0, 1.0, 9.0]).view(1, 1, 1, 5))
    assert image.mode == "L"
    assert np.asarray(image).tolist() == [[0, 0, 128, 255, 255]]


def test_mistakes_are_named() -> None:
    images = torch.zeros(4, 3, 8, 8)
    with pytest.raises(ValueError, match="0 images in 2 columns"):
        draw_grid([], 2)
    with pytest.raises(ValueError, match="3 labels for 4 images in 2 rows"):
        draw_grid(images, 2, labels=["a", "b", "c"])
