"""One picture of any kind becomes an upright RGB (or grey) picture, or a clear error."""

import re
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.auto.image_processing_auto import get_image_processor_class_from_name
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from plait.processing import PlaitProcessor
from plait.processing.images import read_image

Make = Callable[..., Image.Image]
Encode = Callable[..., bytes]
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def values(picture: object, **options: object) -> np.ndarray:
    return np.asarray(read_image(picture, **options))


def test_every_way_to_give_a_picture_gives_the_same(picture: Make, file_bytes: Encode, tmp_path: Path) -> None:
    image = picture()
    path = tmp_path / "picture.png"
    path.write_bytes(file_bytes(image))
    array = np.asarray(image)
    ways = {
        "pillow": image,
        "path": path,
        "name": str(path),
        "bytes": path.read_bytes(),
        "undecoded": {"bytes": path.read_bytes(), "path": None},
        "undecoded path": {"bytes": None, "path": str(path)},
        "lazy": Image.open(path),
        "array": array,
        "array, channels first": np.moveaxis(array, -1, 0),
        "integers": array.astype(np.int64),
        "floats": array / 255,
        "half floats": (array / 255).astype(np.float16),
        "16 bits": array.astype(np.uint16) * 257,
        "tensor": torch.from_numpy(array.copy()).permute(2, 0, 1),
        "tensor, channels last": torch.from_numpy(array.copy()),
        "tensor of floats": torch.from_numpy(array / 255).permute(2, 0, 1).requires_grad_(),
    }
    assert not {name for name, way in ways.items() if not np.array_equal(values(way), array)}
    bfloat = values(torch.from_numpy(array / 255).bfloat16())
    assert np.abs(bfloat.astype(int) - array).max() <= 1


def test_an_array_that_can_be_read_both_ways_follows_its_kind() -> None:
    both = np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    assert np.array_equal(values(both), both)
    assert np.array_equal(values(torch.from_numpy(both)), np.moveaxis(both, 0, -1))
    assert np.array_equal(values(both, channels_first=True), np.moveaxis(both, 0, -1))
    assert np.array_equal(values(torch.from_numpy(both), channels_first=False), both)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "RGBX"])
def test_an_opaque_mode_keeps_its_colours(mode: str) -> None:
    image = Image.new("RGB", (4, 4), WHITE)
    image.paste((0, 0, 0), (0, 0, 4, 2))
    assert np.array_equal(values(image.convert(mode)), np.asarray(image))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "La", "RGBa"])
def test_transparency_is_put_on_white(mode: str) -> None:
    opaque_above = Image.new("L", (4, 4), 0)
    opaque_above.paste(255, (0, 0, 4, 2))
    image = Image.new("P" if mode == "PA" else "L" if "L" in mode else "RGB", (4, 4), 0)
    if mode == "PA":
        image.putpalette([0, 0, 0])
    image.putalpha(opaque_above)
    seen = values(image.convert(mode))
    assert (seen[:2] == 0).all()
    assert (seen[2:] == 255).all()


def test_half_transparent_black_is_grey() -> None:
    assert abs(int(values(Image.new("RGBA", (1, 1), (0, 0, 0, 128)))[0, 0, 0]) - 127) <= 1


def test_a_transparent_palette_entry_is_white(file_bytes: Encode) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    assert values(file_bytes(image, transparency=0)).tolist() == [[list(WHITE), list(BLUE)]]
    assert values(file_bytes(image)).tolist() == [[list(RED), list(BLUE)]]


def test_a_transparent_colour_of_an_rgb_file_is_white(file_bytes: Encode) -> None:
    image = Image.new("RGB", (2, 1), RED)
    image.putpixel((1, 0), BLUE)
    assert values(file_bytes(image, transparency=RED)).tolist() == [[list(WHITE), list(BLUE)]]


def test_sixteen_bits_are_scaled_not_cut_off(file_bytes: Encode) -> None:
    grey = np.linspace(0, 65535, 16, dtype=np.uint16).reshape(4, 4)
    expected = np.rint(grey / 257)
    as_file = file_bytes(Image.fromarray(grey))
    for way in (as_file, grey, Image.fromarray(grey), Image.fromarray(grey.astype(np.int32))):
        assert np.array_equal(values(way)[..., 0], expected)


def test_a_float_picture_is_zero_to_one() -> None:
    grey = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)
    assert np.array_equal(values(Image.fromarray(grey))[..., 1], np.rint(grey * 255))
    assert np.array_equal(values(grey)[..., 1], np.rint(grey * 255))
    assert values(grey > 0.5).max() == 255


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 9), (300, 1)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_tiny_and_thin_pictures_are_processed(processor: PlaitProcessor, width: int, height: int, mode: str) -> None:
    image = Image.new("RGB", (width, height), GREEN).convert(mode)
    pixels = processor(images=image)["pixel_values"]
    assert pixels.shape == (1, 1, 3, 8, 8)
    assert np.ptp(pixels, axis=(-1, -2)).max() < 1e-6  # one colour stays one colour


FAMILIES = ("CLIPImageProcessorPil", "BitImageProcessorPil", "ConvNextImageProcessorPil", "SiglipImageProcessorPil")


@pytest.mark.parametrize("family", FAMILIES)
def test_image_processors_of_other_families_work(family: str, picture: Make) -> None:
    image_processor = get_image_processor_class_from_name(family)()
    mixed = [picture(), None, Image.new("L", (1, 1)), [picture(1, 7, 30), picture(2, 40, 3)]]
    out = PlaitProcessor(image_processor)(images=mixed, return_tensors="pt")
    expected = image_processor(picture(), return_tensors="pt")["pixel_values"]
    assert torch.equal(out["pixel_values"][0, :1], expected)
    assert out["image_present"].tolist() == [[True, False], [False, False], [True, False], [True, True]]


def test_exif_orientation_is_honoured(file_bytes: Encode, tmp_path: Path) -> None:
    image = Image.new("RGB", (6, 4), RED)
    image.paste(BLUE, (0, 0, 3, 4))  # blue at the left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees: blue comes to the top
    (tmp_path / "turned.png").write_bytes(file_bytes(image, exif=exif))
    for way in (tmp_path / "turned.png", Image.open(tmp_path / "turned.png")):
        seen = values(way)
        assert seen.shape == (6, 4, 3)
        assert (seen[:3] == BLUE).all()
        assert (seen[3:] == RED).all()


def test_the_first_frame_of_an_animation_is_read(file_bytes: Encode) -> None:
    frames = [Image.new("RGB", (3, 3), colour) for colour in (RED, BLUE)]
    assert (values(file_bytes(frames[0], "GIF", save_all=True, append_images=frames[1:])) == RED).all()


def test_pictures_are_not_changed(processor: PlaitProcessor, picture: Make) -> None:
    image, array = picture().convert("RGBA"), np.full((4, 4), 0.5)
    tensor = torch.full((3, 4, 4), 7, dtype=torch.uint8)
    before = image.copy()
    images = [image, array, tensor, None]
    processor(images=images)
    assert (image.mode, image.size, image.tobytes()) == ("RGBA", before.size, before.tobytes())
    assert (array == 0.5).all()
    assert (tensor == 7).all()
    assert images[3] is None
    assert len(images) == 4


def test_a_processor_of_one_channel_gets_grey_pictures(picture: Make) -> None:
    grey = ViTImageProcessorPil(size={"height": 8, "width": 8}, image_mean=[0.5], image_std=[0.5])
    out = PlaitProcessor(grey)(images=[picture(), picture().convert("L"), None, Image.new("RGBA", (3, 3))])
    pixels = out["pixel_values"]
    assert pixels.shape == (4, 1, 1, 8, 8)
    assert np.array_equal(pixels[0], pixels[1])
    assert (pixels[3] == 1).all()  # fully transparent: white


BROKEN = {
    "no file of a picture": (b"not a picture", "13 bytes is not a readable image"),
    "nothing": (b"", "0 bytes is not a readable image"),
    "a missing file": ("no/such.png", "there is no file 'no/such.png'"),
    "a missing file, as a path": (Path("no/such.png"), "there is no file 'no/such.png'"),
    "a text": ("x" * 5000, "(there is no file|File name too long)"),
    "a folder": (".", "there is no file '.'"),
    "a URL": ("https://example.org/cat.png", "is a URL: download it"),
    "no source": ({"bytes": None, "path": None}, "has neither bytes nor a path"),
    "no pixels": (np.zeros((0, 4, 3)), r"shape \(0, 4, 3\)"),
    "no dimension": (np.zeros(()), r"shape \(\)"),
    "one dimension": (np.zeros(7), r"shape \(7,\)"),
    "many channels": (np.zeros((9, 9, 9), np.uint8), "has 9 channels"),
    "NaN": (np.full((4, 4), np.nan), "NaN"),
    "infinite": (torch.full((3, 4, 4), torch.inf), "NaN or infinite"),
    "floats beyond 1": (np.full((4, 4), 255.0), "0..1.*normalised"),
    "floats below 0": (torch.full((3, 4, 4), -0.5), "0..1.*normalised"),
    "integers beyond 255": (np.full((4, 4), 256), "0..255"),
    "negative integers": (np.full((4, 4), -1, np.int8), "0..255"),
    "no numbers": (np.full((4, 4), "x"), "does not hold pixel values"),
    "objects": (np.full((4, 4), None), "does not hold pixel values"),
    "a picture without pixels": (Image.new("RGB", (0, 5)), "0x5 pixels"),
    "32 bits": (Image.fromarray(np.full((2, 2), 70000, np.int32)), "beyond 16 bits"),
    "floats of a picture": (Image.fromarray(np.full((2, 2), 2.0, np.float32)), "0..1"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_bad_picture_is_named_with_its_row(processor: PlaitProcessor, picture: Make, name: str) -> None:
    bad, message = BROKEN[name]
    with pytest.raises((ValueError, OSError), match=f"(?s)images, row 2: .*{message}"):
        processor(images=[picture(), None, [picture(), bad]])


def outcome(content: bytes) -> str:
    try:
        return read_image(content).mode
    except ValueError as error:
        return re.sub(r"\d+ bytes (.*?): (.|\n)*", r"\1", str(error))


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_a_damaged_file_is_read_or_a_clear_error(picture: Make, file_bytes: Encode, file_format: str) -> None:
    whole = file_bytes(picture(0, 40, 30), file_format)
    chance = np.random.default_rng(0)
    damaged = [whole[: chance.integers(len(whole))] for _ in range(40)]
    for _ in range(80):
        content = bytearray(whole)
        for place in chance.integers(len(whole), size=4):
            content[place] = chance.integers(256)
        damaged.append(bytes(content))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcomes = Counter(outcome(content) for content in damaged)
    assert set(outcomes) <= {"RGB", "is not a readable image"}
    assert outcomes["is not a readable image"] > 20


def test_a_truncated_jpeg_is_a_clear_error(processor: PlaitProcessor, picture: Make, file_bytes: Encode) -> None:
    whole = file_bytes(picture(0, 64, 64), "JPEG")
    assert processor(images=whole)["image_present"].all()
    with pytest.raises(ValueError, match=r"images, row 0: \d+ bytes is not a readable image: .*truncated"):
        processor(images=whole[:-40])


def test_a_picture_that_is_too_large_to_read_is_a_clear_error(
    picture: Make, file_bytes: Encode, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = file_bytes(picture())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ValueError, match="not a readable image: .*exceeds limit"):
        read_image(content)


def test_a_very_long_picture_does_not_fill_the_memory(picture: Make) -> None:
    by_shortest_edge = PlaitProcessor(get_image_processor_class_from_name("CLIPImageProcessorPil")())
    long = Image.new("RGB", (5000, 1))
    with pytest.raises(ValueError, match="row 1: .*5000 times as long as wide"):
        by_shortest_edge(images=[picture(), long])
    assert by_shortest_edge(images=long, size={"height": 8, "width": 8})["pixel_values"].shape[-1] == 224


def test_pictures_that_come_out_at_different_sizes_are_a_clear_error(picture: Make) -> None:
    loose = PlaitProcessor(ViTImageProcessorPil(do_resize=False))
    assert loose(images=[picture(), picture(1)])["pixel_values"].shape == (2, 1, 3, 10, 12)
    with pytest.raises(ValueError, match=r"row 0 comes out as \(3, 10, 12\), that of row 2 as \(3, 9, 9\)"):
        loose(images=[picture(), None, picture(1, 9, 9)])
    fixed = loose(images=[picture(), picture(1, 9, 9)], do_resize=True, size={"height": 4, "width": 4})
    assert fixed["pixel_values"].shape == (2, 1, 3, 4, 4)


def test_an_image_processor_that_cuts_into_patches_is_a_clear_error(picture: Make) -> None:
    patches = get_image_processor_class_from_name("Qwen2VLImageProcessorPil")()
    with pytest.raises(ValueError, match=r"row 0: Qwen2VLImageProcessorPil .*not \(channels, height, width\)"):
        PlaitProcessor(patches)(images=picture(0, 64, 64))


def test_a_failure_of_the_image_processor_names_the_row(processor: PlaitProcessor, picture: Make) -> None:
    with pytest.raises(ValueError, match="images, row 1: ViTImageProcessorPil failed on an image of 12x10 pixels"):
        processor(images=[None, picture()], image_mean=[0.5, 0.5])
