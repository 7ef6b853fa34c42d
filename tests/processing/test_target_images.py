"""The images that a model learns to draw: one for every row, of any kind, in one size and -1..1."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, PreTrainedTokenizerFast

from plait.processing import PlaitProcessor

Make = Callable[..., Image.Image]
Encode = Callable[..., bytes]
TEXTS = ["the red cat", "the blue dog"]


@pytest.fixture
def drawing(bert_tokenizer: PreTrainedTokenizerFast) -> PlaitProcessor:
    return PlaitProcessor.compose(text=bert_tokenizer, target_image_size=8)


def pixels(processor: PlaitProcessor, *images: Any) -> torch.Tensor:
    return processor(target_images=list(images), return_tensors="pt")["target_pixel_values"]


def by_hand(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) / 127.5 - 1


def test_texts_and_targets_in_one_call(drawing: PlaitProcessor, picture: Make) -> None:
    images = [picture(0, 8, 8), picture(1, 8, 8)]
    out = drawing(text=TEXTS, target_images=images, return_tensors="pt")
    assert out["target_pixel_values"].dtype == torch.float32
    assert out["input_ids"].shape[0] == 2
    torch.testing.assert_close(out["target_pixel_values"], torch.stack([by_hand(image) for image in images]))
    assert set(out) <= set(drawing.model_input_names)


def test_a_size_is_covered_and_cut_at_the_centre(bert_tokenizer: PreTrainedTokenizerFast) -> None:
    """A row of three equal squares: the middle one is kept; of a picture of the same aspect ratio everything."""
    three = Image.new("RGB", (48, 16), "white")
    three.paste((255, 0, 0), (16, 0, 32, 16))
    square = PlaitProcessor.compose(text=bert_tokenizer, target_image_size=8)
    found = pixels(square, three, three.rotate(90, expand=True))
    assert found.shape == (2, 3, 8, 8)
    middle = torch.tensor([1.0, -1.0, -1.0])[None, :, None, None].expand(2, 3, 8, 6)
    torch.testing.assert_close(found[:, :, :, 1:7][:1], middle[:1], atol=0.2, rtol=0)
    torch.testing.assert_close(found[:, :, 1:7, :][1:], middle.transpose(2, 3)[1:], atol=0.2, rtol=0)
    wide = PlaitProcessor.compose(text=bert_tokenizer, target_image_size=(16, 48))
    torch.testing.assert_close(pixels(wide, three)[0], by_hand(three))


def test_every_kind_of_picture(drawing: PlaitProcessor, picture: Make, file_bytes: Encode) -> None:
    """Grey, palette, transparent, turned by its EXIF orientation, and with 16 bits."""
    image = picture(2, 8, 8)
    grey = image.convert("L")
    deep = np.asarray(grey).astype(np.uint16) * 257
    clear = image.copy()
    clear.putalpha(0)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown rotated by 90 degrees, clockwise
    turned = file_bytes(image, exif=exif)
    palette = image.quantize(16)
    found = pixels(drawing, image, grey, deep, clear, turned, palette, file_bytes(image), np.asarray(image))
    expected = [image, grey, grey, Image.new("RGB", (8, 8), "white"), image.rotate(-90), palette, image, image]
    torch.testing.assert_close(found, torch.stack([by_hand(each) for each in expected]))


def test_grey_targets(bert_tokenizer: PreTrainedTokenizerFast, picture: Make) -> None:
    processor = PlaitProcessor.compose(text=bert_tokenizer, target_image_size=8, target_channels=1)
    image = picture(0, 8, 8)
    found = pixels(processor, image)
    assert found.shape == (1, 1, 8, 8)
    torch.testing.assert_close(found[0, 0], by_hand(image.convert("L"))[0])


def test_a_processor_comes_back_with_it(
    drawing: PlaitProcessor, bert_tokenizer: PreTrainedTokenizerFast, picture: Make, tmp_path: Path
) -> None:
    drawing.save_pretrained(tmp_path / "new")
    expected = pixels(drawing, picture())
    for loaded in (PlaitProcessor.from_pretrained(tmp_path / "new"), AutoProcessor.from_pretrained(tmp_path / "new")):
        assert torch.equal(pixels(loaded, picture()), expected)
        assert loaded.target_image_processor.to_dict() == drawing.target_image_processor.to_dict()
        assert not hasattr(loaded, "image_processor")
    PlaitProcessor.compose(text=bert_tokenizer).save_pretrained(tmp_path / "old")
    saved = json.loads((tmp_path / "old" / "processor_config.json").read_text())
    assert not [name for name in saved if "target" in name]
    loaded = PlaitProcessor.from_pretrained(tmp_path / "new", target_image_processor=drawing.target_image_processor)
    assert loaded.target_image_processor is drawing.target_image_processor


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([None, None], r"target_images, row 0: there is no image \(None\)"),
        ([np.zeros((4, 4)), 3], r"target_images, row 1: 3 \(int\) is not an image"),
        ([np.zeros((4, 4)), b"no picture"], "target_images, row 1: 10 bytes is not a readable image"),
        ([np.zeros((4, 4)), "missing.png"], "target_images, row 1: there is no file 'missing.png'"),
        ([np.zeros((4, 4)), np.full((4, 4), np.nan)], "target_images, row 1: an array of shape"),
        ([np.zeros((4, 4)), np.zeros((1, 900))], "target_images, row 1: an image of 900x1 pixels"),
        ([], "target_images is an empty list"),
        (3, r"target_images: 3 \(int\) is neither an image nor a list"),
        ([np.zeros((4, 4))], "text has 2 rows, target_images has 1"),
    ],
)
def test_mistakes(drawing: PlaitProcessor, images: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError, FileNotFoundError), match=message):
        drawing(text=TEXTS, target_images=images)


def test_mistakes_of_the_processor(bert_tokenizer: PreTrainedTokenizerFast, picture: Make) -> None:
    with pytest.raises(ValueError, match="no target_image_processor, so it cannot read target_images"):
        PlaitProcessor.compose(text=bert_tokenizer)(text=TEXTS[0], target_images=picture())
    with pytest.raises(ValueError, match="target_channels is 4"):
        PlaitProcessor.compose(text=bert_tokenizer, target_image_size=8, target_channels=4)
    with pytest.raises(ValueError, match="target_image_size is 0"):
        PlaitProcessor.compose(text=bert_tokenizer, target_image_size=0)
