"""Maps of processed images go back to the image as it was given."""

from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPImageProcessorPil, ViTImageProcessorPil

from plait.training.explanations.geometry import find_image_map

SIZE = {"height": 16, "width": 16}
PROCESSORS = {
    "resized": ViTImageProcessorPil(size=SIZE),
    "cropped": CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=SIZE),
    "as given": ViTImageProcessorPil(do_resize=False),
    "grey": ViTImageProcessorPil(size=SIZE, image_mean=[0.5], image_std=[0.5]),
}


def process(processor: Any, image: Image.Image) -> np.ndarray:
    return np.asarray(processor(image)["pixel_values"][0])


@pytest.mark.parametrize("name", ["resized", "cropped", "as given"])
@pytest.mark.parametrize("size", [(40, 40), (48, 32), (30, 61)])
def test_a_square_is_found_where_it_stands(name: str, size: tuple[int, int]) -> None:
    """The light of a processed image, as amounts, lies in the square that was white, without loss."""
    height, width = size
    image = np.zeros((height, width, 3), dtype=np.uint8)
    top, left = height // 2 - 6, width // 2 - 4
    image[top : top + 12, left : left + 12] = 255
    processor = PROCESSORS[name]
    black = process(processor, Image.fromarray(np.zeros_like(image)))
    light = (process(processor, Image.fromarray(image)) - black).mean(axis=0).astype(np.float64)
    found = find_image_map(processor, height, width).restore(light)
    assert found.shape == size
    assert found.sum() == pytest.approx(light.sum(), rel=0.02)
    inside = found[top - 2 : top + 14, left - 2 : left + 14].sum()
    assert inside > 0.93 * found.sum()
    rows = (found.sum(axis=1) * (np.arange(height) + 0.5)).sum() / found.sum()
    columns = (found.sum(axis=0) * (np.arange(width) + 0.5)).sum() / found.sum()
    assert rows == pytest.approx(top + 6, abs=0.6) and columns == pytest.approx(left + 6, abs=0.6)


def test_what_is_cut_off_gets_nothing() -> None:
    """A wide image of which the centre alone is read."""
    found = find_image_map(PROCESSORS["cropped"], 20, 60).restore(np.ones((16, 16)))
    assert not found[:, :19].any() and not found[:, 41:].any() and (found[:, 21:39] > 0).all()
    assert found.sum() == pytest.approx(256, rel=0.01)


def test_images_without_resizing_are_unchanged() -> None:
    amounts = np.random.default_rng(0).normal(size=(12, 20))
    assert find_image_map(PROCESSORS["as given"], 12, 20).restore(amounts) == pytest.approx(amounts, abs=1e-6)


def test_one_channel_and_one_pixel() -> None:
    assert find_image_map(PROCESSORS["grey"], 32, 32).restore(np.ones((16, 16))).sum() == pytest.approx(256)
    assert find_image_map(PROCESSORS["resized"], 1, 1).restore(np.ones((16, 16))).tolist() == [[256.0]]
