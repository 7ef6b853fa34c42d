"""The report of generated images: what it holds, as plain data and as a table."""

import json

import numpy as np
import pytest
import torch

from plait.training.metrics.bootstrap import Interval
from plait.training.metrics.images.agreement import Agreement, measure_agreement
from plait.training.metrics.images.arrays import (
    build_pil_images,
    read_features,
    read_flags,
    read_images,
    read_numbers,
)
from plait.training.metrics.images.copies import measure_diversity, measure_near_copies
from plait.training.metrics.images.distribution import estimate_fid, estimate_kid
from plait.training.metrics.images.report import ImageMeasure, ImageReport, measure_images


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


def test_a_report_is_made_of_its_measures() -> None:
    """With its seed, and with training images mirrored unless told otherwise."""
    images, test, train = draw(31, 0), draw(120, 1), draw(90, 2)
    wanted, prompts = np.arange(31) % 3, np.arange(31) // 2
    logits = np.random.default_rng(5).normal(size=(31, 3))
    for options, seed, mirrored in (({}, 0, True), ({"seed": 7, "mirrored": False}, 7, False)):
        found = measure_images(
            images, test, train, average, predictions=logits, wanted=wanted, prompts=prompts, **options
        ).measures
        copies = measure_near_copies(images, test, train, mirrored=mirrored)
        assert found["near copies"] == ImageMeasure(copies.share)
        assert found["distance to training"] == ImageMeasure(copies.distance, copies.real_distance)
        real = average(train[np.random.default_rng(seed).permutation(90)[:31]])
        own, known = average(images), average(test)
        expected = ImageMeasure(estimate_kid(own, known, seed=seed), estimate_kid(real, known, seed=seed))
        assert found["KID"] == expected
        assert found["FID"] == ImageMeasure(estimate_fid(own, known, seed=seed), estimate_fid(real, known, seed=seed))
        agreement = measure_agreement(logits, wanted, seed=seed)
        assert found["agreement"] == ImageMeasure(agreement.own, None, agreement.shuffled, agreement.difference)
        for name, read in (("features", own), ("pixels", images)):
            assert found[f"diversity in {name}"] == ImageMeasure(measure_diversity(read, prompts, seed=seed))
    alone = measure_images(images, test, train).measures
    assert list(alone) == ["near copies", "distance to training"]
    with pytest.raises(ValueError, match="go together"):
        measure_images(images, test, train, wanted=wanted)


def test_a_table_has_the_columns_that_are_known() -> None:
    agreement = Agreement(Interval(0.5, 0.25, 0.75), Interval(0.1, 0.0, 0.2), Interval(0.4, 0.3, 0.5))
    report = ImageReport(4, {"a": ImageMeasure(Interval(1, 0, 2), chance=0.25)})
    assert report.format_table().splitlines() == [
        "| 4 images | generated | chance |",
        "| --- | --- | --- |",
        "| a | 1.0000 [0.0000, 2.0000] | 0.2500 |",
    ]
    report.measures["b"] = ImageMeasure.from_agreement(agreement, Interval(0.9, 0.8, 1.0), 0.2)
    report.measures["c"] = ImageMeasure.from_agreement(agreement)
    lines = report.format_table().splitlines()
    assert lines[0] == "| 4 images | generated | real | shuffled | difference | chance |"
    assert lines[2] == "| a | 1.0000 [0.0000, 2.0000] |  |  |  | 0.2500 |"
    assert lines[3].split(" | ")[1:3] == ["0.5000 [0.2500, 0.7500]", "0.9000 [0.8000, 1.0000]"]
    assert lines[4].endswith(" | 0.1000 [0.0000, 0.2000] | 0.4000 [0.3000, 0.5000] |  |")
    assert report.to_dict() == {
        "images": 4,
        "a": {"generated": {"value": 1, "low": 0, "high": 2}, "chance": 0.25},
        "b": {
            "generated": {"value": 0.5, "low": 0.25, "high": 0.75},
            "real": {"value": 0.9, "low": 0.8, "high": 1.0},
            "shuffled": {"value": 0.1, "low": 0.0, "high": 0.2},
            "difference": {"value": 0.4, "low": 0.3, "high": 0.5},
            "chance": 0.2,
        },
        "c": {
            "generated": {"value": 0.5, "low": 0.25, "high": 0.75},
            "shuffled": {"value": 0.1, "low": 0.0, "high": 0.2},
            "difference": {"value": 0.4, "low": 0.3, "high": 0.5},
        },
    }


def test_values_of_images_may_exceed_their_range_by_rounding() -> None:
    for value, fits in ((1.0009, True), (-1.0009, True), (1.0011, False), (-1.0011, False)):
        images = torch.full((1, 1, 2, 2), value)
        if fits:
            assert torch.equal(read_images(images), images)
            continue
        with pytest.raises(ValueError, match="images reach 1.001: expected values in -1..1"):
            read_images(images)
    assert read_images(np.zeros((1, 1, 2, 2), dtype=np.float64)).dtype == torch.float32
    with pytest.raises(ValueError, match=r"shape \(0, 1, 2, 2\)"):
        read_images(torch.zeros(0, 1, 2, 2))


def test_numbers_flags_and_features_have_one_form() -> None:
    assert read_features(torch.ones(1, 2, requires_grad=True)).dtype == np.float64
    for wrong in (np.zeros((2, 0)), np.zeros(2), np.zeros((2, 1, 1))):
        with pytest.raises(ValueError, match=r"expected \(rows, width\)"):
            read_features(wrong)
    with pytest.raises(ValueError, match="features have 0 rows: expected at least 1"):
        read_features(np.zeros((0, 2)))
    with pytest.raises(ValueError, match="in 2 of 3 rows, the first is row 1"):
        read_features(np.array([[0.0, 1], [np.inf, 1], [1, np.nan]]))
    with pytest.raises(TypeError, match="wanted are float64: expected integers"):
        read_numbers(np.zeros(2), 2, "wanted")
    for wrong in (np.zeros((2, 1), dtype=bool), np.zeros(0, dtype=bool)):
        with pytest.raises(ValueError, match="expected .rows,. with at least one row"):
            read_flags(wrong)
