"""The cache of target images changes nothing but the time."""

import numpy as np
import pytest
import torch
from PIL import Image

from plait import PlaitProcessor
from plait.processing.target_images import build_target_processor
from plait.training.data.row_encoder import RowEncoder, TargetImageCache


def make_rows() -> list[dict[str, Image.Image]]:
    numbers = np.random.default_rng(0)
    sizes = [(20, 30), (32, 16), (16, 16)]
    return [{"target_image": Image.fromarray(numbers.integers(0, 256, (*size, 3), dtype=np.uint8))} for size in sizes]


def encode(encoder: RowEncoder, size: tuple[int, int] | None) -> torch.Tensor:
    return encoder.encode_target_images(make_rows(), size)["target_pixel_values"]


@pytest.mark.parametrize("limit", [1.0, 4e-6])  # GiB: all images, and one of them
def test_cached_images_are_the_images(limit: float) -> None:
    processor = PlaitProcessor(target_image_processor=build_target_processor(16, 3))
    plain, cached = (RowEncoder(processor, None, None, None, 0) for _ in range(2))
    cached.target_cache = TargetImageCache(limit)
    for size in (None, (8, 24), None, (24, 8), (8, 24)):
        shape = (3, 3, *(size or (16, 16)))
        assert encode(plain, size).shape == shape
        assert torch.equal(encode(cached, size), encode(plain, size))
        assert torch.equal(encode(cached, size), encode(plain, size))
    assert 0 < cached.target_cache.size <= cached.target_cache.limit
