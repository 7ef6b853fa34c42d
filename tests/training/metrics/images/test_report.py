"""The report of generated images: what it holds, as plain data and as a table."""

import json

import numpy as np
import pytest
import torch

from plait.training.metrics.images.arrays import build_pil_images
from plait.training.metrics.images.report import measure_images


def draw(count: int, seed: int) -> torch.Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def average(images: torch.Tensor) -> np.ndarray:
    return images.mean(dim=(2, 3)).numpy()


def test_a_report_holds_every_measure_with_its_interval() -> None:
    wanted = np.arange(60) % 3
    report = measure_images(
        draw(60, 0),
        draw(120, 1),
        draw(90, 2),
        average,
        predictions=np.eye(3)[wanted],
        wanted=wanted,
        prompts=wanted,
    )
    content = json.loads(json.dumps(report.to_dict()))
    assert content["images"] == 60
    assert set(report.measures) == {
        "near copies",
        "distance to training",
        "KID",
        "FID",
        "diversity in features",
        "diversity in pixels",
        "agreement",
    }
    for name in report.measures:
        interval = content[name]["generated"]
        assert interval["low"] <= interval["value"] <= interval["high"]
    kid = content["KID"]
    assert kid["generated"]["low"] <= 0 <= kid["generated"]["high"] and kid["real"]["low"] <= 0 <= kid["real"]["high"]
    assert content["agreement"]["generated"]["value"] == 1
    assert content["agreement"]["difference"]["value"] == pytest.approx(2 / 3)
    table = report.format_table().splitlines()
    assert table[0] == "| 60 images | generated | real | shuffled | difference | chance |"
    assert len(table) == 2 + len(report.measures)
    assert all(line.count("|") == table[0].count("|") for line in table)


def test_fid_is_left_out_below_ten_images_a_feature() -> None:
    report = measure_images(draw(29, 0), draw(120, 1), draw(90, 2), average)
    assert "KID" in report.measures and "FID" not in report.measures


def test_predictions_without_wanted_classes_are_an_error() -> None:
    with pytest.raises(ValueError, match="predictions and wanted go together"):
        measure_images(draw(5, 0), draw(100, 1), draw(5, 2), predictions=np.zeros(5, dtype=int))


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_pixels_of_eight_bits_come_back(channels: int, mode: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, channels, 5, 4), dtype=np.uint8)
    images = build_pil_images(pixels / 127.5 - 1)
    assert [image.mode for image in images] == [mode] * 2
    found = np.stack([np.asarray(image).reshape(5, 4, channels).transpose(2, 0, 1) for image in images])
    assert np.array_equal(found, pixels)


def test_two_channels_are_no_image() -> None:
    with pytest.raises(ValueError, match="images have 2 channels"):
        build_pil_images(torch.zeros(1, 2, 4, 4))
